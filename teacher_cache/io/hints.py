"""A misspelt name in, the most similar known name out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most similar to ``name``; None if no similarity reaches ``cutoff`` (0 to 1)."""
    found = difflib.get_close_matches(name, set(known), n=1, cutoff=cutoff)
    return found[0] if found else None
