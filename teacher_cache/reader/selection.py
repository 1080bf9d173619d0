"""Some layers and some frames in; the entries of each signal's first axis out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import index
from typing import Any, TypedDict

from schemas.errors import BadInput
from schemas.signal import SIGNALS
from teacher_cache.store.layout import CLOCK_ARRAYS

Entries = tuple[int, ...] | None
"""Places on an axis, ascending; None for all."""


class Selection(TypedDict):
    """What `Cache.read` takes beside signals and clips: places on the axes ``layer`` and ``frame``; None for all."""

    layers: Sequence[int] | None
    frames: Sequence[int] | None


EVERYTHING = Selection(layers=None, frames=None)

_KEYWORDS = {"layer": "layers", "frame": "frames"}


def first_axis(name: str) -> str:
    """The first axis, such as ``frame``, of a signal, perhaps of one of several stores, or of an array of the clock."""
    signal = name.rpartition(":")[2]
    return "frame" if signal in CLOCK_ARRAYS else SIGNALS[signal].dims[0]  # type: ignore[index]  # some store has it


def entries(lengths: Mapping[str, int], selection: Selection) -> dict[str, Entries]:
    """Name → the chosen entries of its first axis, which has that length.

    Raises `BadInput` for anything but places on it in ascending order, and for a choice among what no name has.
    """
    axes = {first_axis(name) for name in lengths}
    for axis, keyword in _KEYWORDS.items():
        if selection[keyword] is not None and lengths and axis not in axes:  # type: ignore[literal-required]
            raise BadInput(
                f"`{keyword}` chooses on the axis `{axis}`, and of {', '.join(lengths)} none has it; leave it out, or ask for "
                "a signal that has it"
            )
    return {name: _checked(name, selection, length) for name, length in lengths.items()}


def shared(names: Iterable[str], selection: Selection) -> Selection:
    """What of a selection concerns some of the names that it was made for."""
    axes = {first_axis(name) for name in names}
    return Selection(
        layers=selection["layers"] if "layer" in axes else None, frames=selection["frames"] if "frame" in axes else None
    )


def _checked(name: str, selection: Selection, length: int) -> Entries:
    axis = first_axis(name)
    keyword = _KEYWORDS.get(axis)
    asked: Any = None if keyword is None else selection[keyword]  # type: ignore[literal-required]
    if asked is None:
        return None
    try:
        places = tuple(map(index, asked))
    except TypeError:
        raise BadInput(f"`{keyword}` is {asked!r}; give a list or a range of places, such as [0]") from None
    if not places or places[0] < 0 or places[-1] >= length or any(later <= place for place, later in pairwise(places)):
        raise BadInput(
            f"`{keyword}` is {asked!r}; give places on the axis `{axis}` of {name}, which are 0 to {length - 1} whatever the "
            "teacher or the video calls them, each once and in ascending order"
        )
    return places
