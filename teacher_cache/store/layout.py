"""A recipe and numbers in; object keys and the arrays of each part out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from schemas.ledger import PartName
from schemas.recipe import Recipe
from schemas.signal import SIGNALS, Shape, SignalName
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import encoding

ROOT_METADATA = "zarr.json"
CATALOG, LEDGER, HEADS = "catalog", "ledger", "heads"
HEADS_FILE, HEADS_CARD = f"{HEADS}/heads.safetensors", f"{HEADS}/card.json"


SEGMENT = f"{CATALOG}/segment-"
VOLUME, RETIREMENT = f"{LEDGER}/volume-", f"{LEDGER}/retired-"

MARKERS = {
    CATALOG: "row, clip id, video and content digest, as Parquet segments",
    LEDGER: "one JSON object for each committed unit of work, bound into volumes",
    HEADS: "the teacher's frozen heads, as safetensors with a card",
}
"""Folders that are not arrays → the description in their group metadata."""


def metadata_key(array: str) -> str:
    """Key of an array's or group's ``zarr.json``."""
    return f"{array}/zarr.json"


def shard_key(array: StoredArray, shard: int) -> str:
    """Zarr's default chunk key of a shard: only the clip axis has more than one."""
    return "/".join([array.name, "c", str(shard), *("0" for _ in array.shape)])


def array_of(key: str) -> str:
    """The array that an object belongs to."""
    return key.split("/", 1)[0]


def numbered(prefix: str, number: int) -> str:
    """Key of a numbered record: ``catalog/segment-000000.json``."""
    return f"{prefix}{number:06d}.json"


def volume_folder(volume: int) -> str:
    """Folder of the entries of a ledger volume."""
    return f"{LEDGER}/{volume:06d}"


def entry_key(volume: int, shard: int, number: int) -> str:
    """Key of a ledger entry. A shard's entries are numbered from 0 within each volume."""
    return f"{volume_folder(volume)}/{shard:08d}.{number}.json"


def shard_of(entry: str) -> int:
    """The shard number in an entry's key."""
    return int(entry.rpartition("/")[2].partition(".")[0])


def closed_key(volume: int) -> str:
    """Key of the object that closes a volume to new entries."""
    return f"{volume_folder(volume)}/closed.json"


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
