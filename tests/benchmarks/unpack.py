"""Measures what F4D costs to pack and unpack, for each profile: a table, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/unpack.py            # a minute

One clip of L4P giant's size, Gaussian. CPU milliseconds of one core, medians: to write a chunk from the encoded clip; to bring
it to memory as it is stored, which is what goes to a GPU; and to decode it to float32. ``--as NAME`` keeps the figures under a
name of their own in the result, so that a version can be set beside another one, by turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import formats
import numpy as np
import torch
from machine import processor
from rich.console import Console
from rich.table import Table

from schemas.signal import SIGNALS
from teacher_cache.encodings.registry import encodings
from teacher_cache.store.chunk import clip_buffer, decode_chunk, encode_chunks, view_chunk

RESULTS = Path(__file__).parent / "results"


def milliseconds(work: Callable[[], object], turns: int) -> float:
    """The median CPU time of some turns."""
    spent = []
    for _ in range(turns):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return statistics.median(spent) * 1e3


def measure(turns: int) -> dict[str, dict[str, float]]:
    signal, raw = SIGNALS["f4d"], torch.from_numpy(formats.synthetic_clip(0)["f4d"])
    out = np.empty(raw.shape, np.float32)
    rows = {}
    for name, encoder in encodings("f4d").items():
        values = encoder.encode(signal, raw)[0]["f4d"]
        array = encoder.stored(signal, tuple(raw.shape))[0]
        chunks = encode_chunks(values, array)
        (buffer,) = clip_buffer(array, 1)

        def stored(chunks: Any = chunks, array: Any = array, buffer: Any = buffer) -> None:
            for chunk, part in zip(chunks, np.split(buffer, array.chunks), strict=True):
                decode_chunk(chunk, array, part)

        def decoded(chunks: Any = chunks, array: Any = array, encoder: Any = encoder, buffer: Any = buffer) -> None:
            for chunk, part in zip(chunks, np.split(out, array.chunks), strict=True):
                found = view_chunk(chunk, array)
                if found is None:
                    found = buffer[: len(part)]
                    decode_chunk(chunk, array, found)
                encoder.decode(signal, {"f4d": found}, part)

        rows[name] = {
            "stored_bytes": sum(map(len, chunks)),
            "device_bytes": array.nbytes,
            "write_ms": milliseconds(lambda v=values, a=array: encode_chunks(v, a), turns),
            "stored_ms": milliseconds(stored, turns),
            "float32_ms": milliseconds(decoded, turns),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--as", dest="label", default="now")
    parser.add_argument("--out", type=Path, default=RESULTS / "unpack.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.turns)
    kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    shown = Table("encoding", "stored MB", "to a device MB", "write ms", "as stored ms", "float32 ms")
    for name, row in found.items():
        megabytes = [f"{row[key] / 1e6:.2f}" for key in ("stored_bytes", "device_bytes")]
        shown.add_row(name, *megabytes, *(f"{row[key]:.1f}" for key in ("write_ms", "stored_ms", "float32_ms")))
    Console().print(shown)
    kept[options.label] = [*kept.get(options.label, []), found]
    options.out.write_text(json.dumps({"benchmark": "unpack", "machine": processor(), "rows": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
