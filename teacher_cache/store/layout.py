"""A recipe and numbers in; object keys and the arrays of each part out."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from schemas.log import PartName
from schemas.recipe import Recipe
from schemas.signal import SIGNALS, Shape, SignalName, exact_array
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import encoding
from teacher_cache.io.disk import final_name

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

_RECORD = re.compile(rf"{LOG}/([0-9]{{20}})\.json")
_CHECKPOINT = re.compile(rf"{CHECKPOINT}([0-9]{{20}})-[0-9a-f]{{16}}\.parquet")
_TABLE = re.compile(rf"(?:{ROWS}|{SUPERSEDED})([0-9]{{10,18}})-[0-9a-f]{{16}}\.parquet")
_SHARD = re.compile(r"([^/]+)/c/(0|[1-9][0-9]{0,9})((?:/0)+)")


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
    """The shard number in the key that an array of the format gives a shard; None for any other key."""
    found = _SHARD.fullmatch(key)
    return int(found[2]) if found is not None and found[3] == "/0" * ARRAYS.get(found[1], 0) else None


def record_key(version: int) -> str:
    """Key of a record of the log."""
    return f"{LOG}/{version:020d}.json"


def version_of(key: str) -> int | None:
    """The number in a record's key; None for another object's key."""
    return _number(_RECORD, key)


def checkpoint_version(key: str) -> int | None:
    """The version in a checkpoint's key; None for another object's key."""
    return _number(_CHECKPOINT, key)


def first_row_of(key: str) -> int | None:
    """The first row in the key of a table of rows, added or superseded; None for another object's key."""
    return _number(_TABLE, key)


def _number(keys: re.Pattern[str], key: str) -> int | None:
    found = keys.fullmatch(key)
    return None if found is None else int(found[1])


def is_own(key: str) -> bool:
    """Whether a writer of this format gives an object this key, or writes the file under this name that becomes one."""
    folder, slash, name = key.rpartition("/")
    own = f"{folder}{slash}{final_name(name)}"
    return own in _FIXED or any(of(own) is not None for of in (shard_of, version_of, checkpoint_version, first_row_of))


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

ARRAYS = dict.fromkeys(CLOCK_ARRAYS, 1) | {
    array: len(signal.dims) for name, signal in SIGNALS.items() for array in (name, exact_array(name))
}
"""Name of each array that a store may have → how many axes one clip has in it."""

_FIXED = {ROOT_METADATA, HEADS_FILE, HEADS_CARD, *map(metadata_key, (*MARKERS, *ARRAYS))}


def stored_arrays(recipe: Recipe, part: PartName, shapes: Mapping[SignalName, Shape]) -> tuple[StoredArray, ...]:
    """The arrays that store a part. ``shapes`` gives the shape of one clip of each signal."""
    if part == "clock":
        return clock_arrays(recipe.clips.frames)
    return encoding(part, recipe.encodings[part]).stored(SIGNALS[part], shapes[part])
