"""A recipe and numbers in; object keys and the arrays of each part out."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from schemas.log import PartName
from schemas.recipe import Recipe
from schemas.signal import SIGNALS, Shape, SignalName
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import encoding

ROOT_METADATA = "zarr.json"
LOG, HEADS = "log", "heads"
HEADS_FILE, HEADS_CARD = f"{HEADS}/heads.safetensors", f"{HEADS}/card.json"
CHECKPOINT, ROWS, SUPERSEDED = f"{LOG}/checkpoint-", f"{LOG}/rows-", f"{LOG}/superseded-"

MARKERS = {
    LOG: "the store's history: numbered records, their tables, and checkpoints",
    HEADS: "the teacher's frozen heads, as safetensors with a card",
}
"""Folders that are not arrays → the description in their group metadata."""

LONGEST_RECORD, LONGEST_CHECKPOINT, LONGEST_METADATA = 64 * 2**20, 2**30, 2**20
"""Bytes of a record of the log; of a checkpoint; of a ``zarr.json`` or the heads' card. No writer makes longer ones."""

_RECORD = re.compile(rf"{LOG}/(\d{{20}})\.json")


def metadata_key(array: str) -> str:
    """Key of an array's or group's ``zarr.json``."""
    return f"{array}/zarr.json"


def shard_key(array: StoredArray, shard: int) -> str:
    """Zarr's default chunk key of a shard: only the clip axis has more than one."""
    return "/".join([array.name, "c", str(shard), *("0" for _ in array.shape)])


def array_of(key: str) -> str:
    """The array that an object belongs to."""
    return key.split("/", 1)[0]


def part_of(array: str) -> PartName:
    """The part that an array stores. Arrays are named after their signal, such as ``f4d_exact``."""
    name = array.partition("_")[0]
    return "clock" if array in CLOCK_ARRAYS else name  # type: ignore[return-value]


def shard_of(key: str) -> int | None:
    """The shard number in the key of a shard object; None for another object's key."""
    parts = key.split("/")
    return int(parts[2]) if len(parts) > 2 and parts[1] == "c" and parts[2].isdigit() else None


def record_key(version: int) -> str:
    """Key of a record of the log."""
    return f"{LOG}/{version:020d}.json"


def version_of(key: str) -> int | None:
    """The number in a record's key; None for another object's key."""
    found = _RECORD.fullmatch(key)
    return None if found is None else int(found[1])


def clock_arrays(frames: int) -> tuple[StoredArray, StoredArray]:
    """Arrays ``timestamps`` (frame,), float64 seconds, and ``frame_index`` (frame,), int32: each frame's place in its video."""
    seconds = {"units": "s", "long_name": "presentation time of the frame in its video"}
    number = {"units": "1", "long_name": "number of the frame in its video, from 0", "_FillValue": -1}
    return (
        StoredArray("timestamps", (frames,), np.dtype("<f8"), ("frame",), float("nan"), seconds),
        StoredArray("frame_index", (frames,), np.dtype("<i4"), ("frame",), -1, number),
    )


CLOCK_ARRAYS = tuple(array.name for array in clock_arrays(frames=1))
"""Names of the arrays of the clock."""


def stored_arrays(recipe: Recipe, part: PartName, shapes: Mapping[SignalName, Shape]) -> tuple[StoredArray, ...]:
    """The arrays that store a part. ``shapes`` gives the shape of one clip of each signal."""
    if part == "clock":
        return clock_arrays(recipe.clips.frames)
    return encoding(part, recipe.encodings[part]).stored(SIGNALS[part], shapes[part])
