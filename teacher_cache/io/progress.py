"""The callback by which a long step reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""(description, total, unit) → a context manager that yields ``advance(count)``."""


def no_progress(_description: str, _total: int, _unit: str) -> AbstractContextManager[Callable[[int], None]]:
    """A `Progress` that shows nothing."""
    return nullcontext(lambda _: None)
