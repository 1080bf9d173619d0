"""Names and shapes of tensors in, a description of what does not fit a network out; a file in, its digest out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from schemas.signal import Shape

_SHOWN = 5


def misfits(needed: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Tensors that are missing, unexpected or of the wrong shape: one phrase per kind; empty if everything fits."""
    missing = [name for name in needed if name not in found]
    unexpected = [name for name in found if name not in needed]
    wrong = [
        f"{name} (needs {list(shape)}, found {list(found[name])})"
        for name, shape in needed.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of the wrong shape": wrong}
    return [f"{len(names)} {kind}: {shorten(names)}" for kind, names in kinds.items() if names]


def listed(phrases: Sequence[str]) -> str:
    """One indented line per phrase."""
    return "\n".join(f"  {phrase}" for phrase in phrases)


def shorten(names: Sequence[str]) -> str:
    """The first few names, and the number of further ones."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def file_digest(path: Path) -> str:
    """``sha256:<hex>`` of a file's bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
