"""Reads clips of a group's arrays with the zarr-python that runs it: numbers of clips in, a line each time, how many out.

`formats.NewestZarr` starts it with another environment's Python, so it imports nothing of this project.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import zarr


def main(url: str, in_flight: int) -> None:
    zarr.config.set({"async.concurrency": in_flight})
    arrays = [array for _, array in zarr.open_group(url, mode="r", use_consolidated=False).arrays()]
    print(zarr.__version__, flush=True)  # noqa: T201
    with ThreadPoolExecutor(len(arrays)) as threads:
        for line in sys.stdin:
            numbers = np.array(line.split(), np.int64)
            # One selection an array: it fetches what it can of a shard at once.
            found = list(threads.map(lambda array, numbers=numbers: array.oindex[numbers], arrays))
            print(len(found[0]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
