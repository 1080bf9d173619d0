"""Measures what several chunks a clip cost whoever reads all of it, and save whoever reads some: a table, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/parts.py            # two minutes

Clips of L4P giant's size (`formats.synthetic_clip`) in shards on a local disk, read by `ChunkReader` and decoded to float32.
By turns: each array with a clip in one chunk, as it was before; the same in chunks, as it is; and a fourth of it, one layer or
four frames. Bytes and requests a clip without the shard's index, and CPU milliseconds of the process a clip, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import formats
import numpy as np
import torch
from machine import processor
from rich.console import Console
from rich.table import Table

from schemas.job import EncodingProfile, Job
from schemas.signal import P4D_SIGNALS, SIGNALS, SignalName
from teacher_cache.encodings.base import StoredArray, Values
from teacher_cache.encodings.registry import encoding, resolve
from teacher_cache.reader.fetch import ChunkReader, ClipsToDecode, CommittedShard
from teacher_cache.store.chunk import encode_chunks
from teacher_cache.store.layout import shard_key
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import pack_clips

RESULT = Path(__file__).parent / "results" / "parts.json"
CLIPS = 4
PROFILES: tuple[EncodingProfile, ...] = ("fine", "compact")


class Counting(Objects):
    """Objects that count ranges, and their bytes."""

    ranges = nbytes = 0

    def get_range(self, key: str, start: int, stop: int) -> memoryview | None:
        self.ranges, self.nbytes = self.ranges + 1, self.nbytes + stop - start
        return super().get_range(key, start, stop)


@dataclass
class Reading:
    """One way to read the clips of an array."""

    reader: ChunkReader
    objects: Counting
    clips: ClipsToDecode

    def turn(self) -> float:
        began = time.process_time()
        self.reader.read_each([self.clips])
        return (time.process_time() - began) * 1e3 / CLIPS

    def asked(self) -> tuple[float, float]:
        """Requests and bytes of a clip, once the shard's index is known."""
        before = self.objects.ranges, self.objects.nbytes
        self.turn()
        return (self.objects.ranges - before[0]) / CLIPS, (self.objects.nbytes - before[1]) / CLIPS


def whole(array: StoredArray) -> StoredArray:
    """The array as it was: a clip in one chunk, and of flow all of u before all of v."""
    order = (3, 0, 1, 2) if array.compression.order else None
    return replace(array, together=None, compression=replace(array.compression, order=order))


def reading(folder: str, array: StoredArray, values: Sequence[Values], decode: Callable[..., Any], some: int | None) -> Reading:
    objects = Counting(folder)
    data = pack_clips({row: encode_chunks(clip, array) for row, clip in enumerate(values)}, array, CLIPS)
    objects.create(shard_key(array, 0), data)
    reader = ChunkReader(objects, CLIPS, lambda *_: CommittedShard(len(data), folder, array.name))
    entries = None if some is None else range(array.shape[0] - some, array.shape[0])
    shape = formats.SHAPES[array.name]  # type: ignore[index]
    outs = [np.empty((some or shape[0], *shape[1:]), np.float32) for _ in values]
    return Reading(reader, objects, ClipsToDecode(array, range(CLIPS), outs, decode, entries))


def measure(
    name: SignalName, profile: EncodingProfile, clips: Sequence[formats.Values], turns: int, folder: Path
) -> dict[str, Any]:
    job = Job.model_validate({"videos": {"glob": "*"}, "store": "s", "teacher": {}, "encoding": profile})
    encoder = encoding(name, resolve(job)[name])
    array = encoder.stored(SIGNALS[name], formats.SHAPES[name])[0]
    values = [encoder.encode(SIGNALS[name], torch.from_numpy(clip[name]))[0][name] for clip in clips]
    decode = partial(encoder.decode, SIGNALS[name])
    ways = {
        "one chunk": reading(str(folder / "one"), whole(array), values, decode, None),
        "chunks": reading(str(folder / "some"), array, values, decode, None),
        "a fourth": reading(str(folder / "fourth"), array, values, decode, array.together),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    writes: dict[str, list[float]] = {"one chunk": [], "chunks": []}
    for _ in range(turns):
        for way, one in ways.items():
            spent[way].append(one.turn())
        for way, written in (("one chunk", whole(array)), ("chunks", array)):
            began = time.process_time()
            encode_chunks(values[0], written)
            writes[way].append((time.process_time() - began) * 1e3)
    rows = {}
    for way, one in ways.items():
        requests, nbytes = one.asked()
        rows[way] = {"bytes": nbytes, "requests": requests, "read_ms": round(statistics.median(spent[way]), 2)}
        if way in writes:
            rows[way]["write_ms"] = round(statistics.median(writes[way]), 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = [formats.synthetic_clip(seed) for seed in range(CLIPS)]
    found: dict[str, dict[str, Any]] = {}
    shown = Table("profile, signal", "way", "MB", "requests", "write ms", "to float32 ms")
    for profile in PROFILES:
        for name in P4D_SIGNALS:
            with tempfile.TemporaryDirectory() as folder:
                rows = measure(name, profile, clips, options.turns, Path(folder))
            found.setdefault(profile, {})[name] = rows
            for way, row in rows.items():
                megabytes, write = f"{row['bytes'] / 1e6:.3f}", f"{row.get('write_ms', '')}"
                shown.add_row(f"{profile}, {name}", way, megabytes, f"{row['requests']:g}", write, f"{row['read_ms']:.1f}")
    Console().print(shown)
    options.out.write_text(json.dumps({"benchmark": "parts", "machine": processor(), "profiles": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
