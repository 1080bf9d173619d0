"""The form of clips between reading and decoding: stored arrays, not yet dequantised."""

from __future__ import annotations

from typing import NamedTuple

from teacher_cache.encodings.base import Arrays


class StoredClips(NamedTuple):
    """Requested clips that share the same stored arrays."""

    indices: list[int]
    """Positions of these clips in the request."""
    arrays: Arrays
    """Stored array's name → (clip, …), in the stored dtype: integers, as a rule."""


Stored = dict[str, list[StoredClips]]
"""Name in ``signals`` → the clips, grouped by the arrays that store them. Nearly always one group of all clips."""
