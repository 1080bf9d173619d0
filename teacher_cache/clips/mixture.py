"""A mixture, or its file, in; its sets, and the files that each names, out."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import BadInput
from schemas.mixture import Mixture
from teacher_cache.io.config import load_yaml


def mixture_of(given: Mixture | str) -> Mixture:
    """The mixture itself, or that of a YAML file. Raises `BadInput`."""
    return load_yaml(given, Mixture) if isinstance(given, str) else given


def files_of(patterns: Iterable[str]) -> list[str]:
    """The files that are named, those of a wildcard by name. Raises `BadInput` for a wildcard that matches none."""
    return [file for pattern in patterns for file in _matching(pattern)]


def _matching(pattern: str) -> list[str]:
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    if not (found := sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207  # Path.glob takes no absolute pattern
        raise BadInput(f"no file matches {pattern}; needed at least one file of conversations")
    return found
