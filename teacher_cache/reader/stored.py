"""Clips of a store as they are stored, before anything is scaled."""

from __future__ import annotations

from typing import NamedTuple

from teacher_cache.encodings.base import Arrays


class StoredClips(NamedTuple):
    """Some of the clips that were asked for, as they are stored."""

    indices: list[int]
    """Which of them these are."""
    arrays: Arrays
    """Stored array's name → (clip, …) of these clips: integers, as a rule."""


Stored = dict[str, list[StoredClips]]
"""What ``signals`` may name → the clips by the arrays that hold them: nearly always one group of them all."""
