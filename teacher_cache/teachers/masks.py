"""Where a set's truth masks are, and frame numbers, in; label maps of those frames out.

Two forms are read: a folder of numbered pictures, one a frame, whose values are the objects' numbers (as DAVIS and YouTube-VOS
have them); and JSON of annotations, one an object, with a segmentation or a box for each frame (as YouTube-VIS has them).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.errors import VideoError
from teacher_cache.clips.packets import MAX_PIXELS
from teacher_cache.clips.pictures import listed_pictures, numbered
from teacher_cache.clips.preprocess import BAD_PICTURE
from teacher_cache.clips.ranges import read_part
from teacher_cache.io.places import Pictures, inside, name_without_range

Labels = NDArray[np.uint8]
_VOID = 255
"""Of pixels that a set leaves undecided; and of the one object of sets that know no other."""
_LONGEST_JSON = 2**28


def label_maps(place: str, digest: str | None, frames: Sequence[int]) -> list[Labels]:
    """The label map of each frame of the video, by its number from 0: uint8 (y, x), in the masks' own size.

    Where only every n-th frame has a mask, the nearest counts. Raises `VideoError` (prompt_missing, prompt_unusable) for masks
    that are not there, cannot be read, or lie further from a frame than they do from each other.
    """
    try:
        found = inside(place)
        if isinstance(found, Pictures):
            return _from_pictures(found.place, frames)
        return _from_json(_annotations(place, digest), frames)
    except VideoError as error:
        reason = "prompt_missing" if error.reason == "video_missing" else "prompt_unusable"
        raise VideoError(reason, f"the masks {name_without_range(place)}: {error.detail}") from None


def _nearest(known: Sequence[int], frames: Sequence[int]) -> list[int]:
    """The index of the mask that is nearest to each frame, by the numbers of their frames, ascending. Raises `VideoError`."""
    numbers = np.array(known)
    after = np.searchsorted(numbers, frames).clip(1, max(1, len(numbers) - 1))
    before = after - 1
    after = np.minimum(after, len(numbers) - 1)
    wanted = np.array(frames)
    index = np.where(np.abs(numbers[after] - wanted) < np.abs(numbers[before] - wanted), after, before)
    step = int(np.diff(numbers).max(initial=1))
    far = np.flatnonzero(np.abs(numbers[index] - wanted) >= step)
    if len(far):
        raise VideoError(
            "unusable",
            f"they are of frames {known[0]} to {known[-1]}, one every {step} or less; the clip shows frame {frames[far[0]]}",
        )
    return [int(one) for one in index]


# --- pictures ---


def _from_pictures(folder: str, frames: Sequence[int]) -> list[Labels]:
    """Of pictures numbered from any number on: the first is of frame 0."""
    pictures = listed_pictures(folder)
    if not pictures:
        raise VideoError("video_missing" if pictures is None else "unusable", "there is no picture whose name has a number")
    numbers = [numbered(picture.name) for picture in pictures]
    index = _nearest([number - numbers[0] for number in numbers], frames)
    read = {n: _picture(folder + pictures[n].name, pictures[n].size) for n in dict.fromkeys(index)}
    if set().union(*(np.unique(labels).tolist() for labels in read.values())) <= {0, _VOID}:
        return [(read[n] == _VOID).astype(np.uint8) for n in index]  # one object, drawn in white
    return [np.where(read[n] == _VOID, np.uint8(0), read[n]) for n in index]


def _picture(uri: str, size: int) -> Labels:
    data, _ = read_part(uri, 0, size)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "WEBP")) as image:
            if image.mode not in {"P", "L", "1", "I;16"}:
                raise ValueError(f"its pixels are of the kind {image.mode}; needed one number each, of a palette or grey")
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it is {image.width} × {image.height}; {MAX_PIXELS} pixels may be decoded")
            numbers = np.asarray(image.convert("L") if image.mode == "1" else image)
            if numbers.max() > _VOID:
                raise ValueError(f"a pixel has the number {numbers.max()}; objects have 1 to {_VOID - 1}")
            return numbers.astype(np.uint8)
    except BAD_PICTURE as error:
        raise VideoError("unusable", f"{uri.rpartition('/')[2]}: {error}") from None


# --- annotations ---


@lru_cache(maxsize=8)
def _annotations(place: str, _digest: str | None) -> dict[str, Any]:
    """The file's object: dense windows of one video read it once."""
    data, length = read_part(place, 0, _LONGEST_JSON)
    if length > _LONGEST_JSON:
        raise VideoError("unusable", f"it has {length} bytes; needed at most {_LONGEST_JSON}")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VideoError("unusable", f"it is no JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("annotations"), list):
        raise VideoError("unusable", 'needed {"height": …, "width": …, "annotations": […]}')
    return found


def _from_json(about: Mapping[str, Any], frames: Sequence[int]) -> list[Labels]:
    """``{"height", "width", "annotations": [{"segmentations": [RLE or null, …]} or {"bboxes": [[x, y, w, h] or null, …]}]}``.

    The k-th annotation is object k, drawn over those before it. Its n-th entry is of frame n, or of the n-th of ``frames``.
    """
    try:
        height, width = int(about["height"]), int(about["width"])
        entries = [one["segmentations"] if "segmentations" in one else one["bboxes"] for one in about["annotations"]]
        _require(0 < height * width <= MAX_PIXELS and len(entries) < _VOID, f"{len(entries)} objects in {width} × {height}")
        count = max(map(len, entries), default=0)
        numbers = [int(number) for number in about.get("frames", range(count))]
        is_right = 0 < len(numbers) == count and sorted(set(numbers)) == numbers
        _require(is_right, f"{len(numbers)} frames for entries of {count}; needed ascending numbers, one for each entry")
        index = _nearest(numbers, frames)
        drawn = {n: _drawn([of[n] if n < len(of) else None for of in entries], height, width) for n in dict.fromkeys(index)}
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise VideoError("unusable", f"its annotations cannot be read: {error!r}") from None
    return [drawn[n] for n in index]


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise ValueError(said)


def _drawn(entries: Sequence[Any], height: int, width: int) -> Labels:
    labels = np.zeros((height, width), np.uint8)
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, dict):
            labels[decoded_rle(entry, height, width)] = number
        elif entry is not None:
            left, top, across, down = map(float, entry)
            rows, columns = (slice(round(max(0, at)), round(max(0, at + size))) for at, size in ((top, down), (left, across)))
            labels[rows, columns] = number
    return labels


def decoded_rle(rle: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """COCO's run-length code, a list of counts or a text of them: bool (y, x). Raises `ValueError`."""
    if [int(side) for side in rle["size"]] != [height, width]:
        raise ValueError(f"a mask of size {rle['size']} in a video of {[height, width]}")
    counts = np.array(_counts(rle["counts"]) if isinstance(rle["counts"], str) else rle["counts"], np.int64)
    if (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"runs of {int(counts.sum())} pixels in all; needed {height * width}")
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(width, height).T  # runs go down the columns


def _counts(text: str) -> list[int]:
    """Counts from COCO's text: five bits a character, the lowest first; from the fourth on, the change to the last but one."""
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > 60:  # more than any picture has
            raise ValueError("a run of its code has no end")
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
