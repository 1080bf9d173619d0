"""What somebody who misspelt a name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like this one, if any is as like as ``cutoff`` of 1."""
    found = difflib.get_close_matches(name, set(known), n=1, cutoff=cutoff)
    return found[0] if found else None
