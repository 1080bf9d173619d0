"""A store that other processes write to in; its counts, growth rate and ETA out, polled from any machine.

A poll costs a few requests, whatever the store's size: listings, and the new entries of the state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live

from schemas.errors import Unreachable
from teacher_cache.io.console import in_terminal, is_read, stderr, stdout
from teacher_cache.monitor.display import (
    Flow,
    bar,
    bytes_per_second,
    clips_per_second,
    counted,
    duration,
    eta,
    failed,
    log,
    reasons,
)
from teacher_cache.monitor.progress import StoreCounts, StoreFigures, store_figures
from teacher_cache.store.state import FAILED, clip_counts
from teacher_cache.store.store import Store


class StoreFollower:
    """Reads a store's counts repeatedly, each time only what was added."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._catalog = store.catalog()

    def look(self) -> StoreCounts:
        """The store's counts now. Raises `Unreachable`; a later call may succeed."""
        state = self._store.log.read()
        if self._catalog.parts != len(state.rows_added):
            self._catalog = self._store.catalog()
        parts, rows = self._store.parts, self._catalog.current
        lost = rows[state.status(rows, parts) == FAILED]
        found = (state.failure(row, parts) for row in np.asarray(lost).tolist())
        return StoreCounts(
            clips=clip_counts(rows, state, parts),
            bytes=sum(map(state.bytes_of, state.arrays())),
            failures=Counter(failure[0] for failure in found if failure is not None),
        )


def follow(store: Store, every_seconds: float) -> None:
    """Show a store on standard error until all its clips are done, Ctrl-C is pressed, or standard error is closed."""
    looking = StoreFollower(store)
    first, start = looking.look(), time.monotonic()
    latest, note = first, ""

    def figures() -> StoreFigures:
        return store_figures(first, latest, looked_at - start)

    looked_at = start
    with _shown(lambda: _screen(store.url, figures(), note)) as tell:
        tell(store_line(figures()))
        # A store that was just created has no clips yet.
        while (latest.clips.pending or not latest.clips.planned) and is_read():
            time.sleep(every_seconds)
            try:
                latest, note = looking.look(), ""
                looked_at = time.monotonic()
            except Unreachable as error:
                note = f"cannot look now, and will try again: {error}"
            tell(note or store_line(figures()))


@contextmanager
def _shown(screen: Callable[[], RenderableType]) -> Iterator[Callable[[str], None]]:
    """Yields a function to be called with a log line after each poll. Ctrl-C ends the view, not the command."""
    try:
        if not in_terminal():
            yield log
            return
        with Live(console=stderr, get_renderable=screen, transient=True, redirect_stdout=stdout.is_terminal) as live:
            yield lambda _: live.refresh()
    except KeyboardInterrupt:
        return


def store_line(figures: StoreFigures) -> str:
    """All figures in one line."""
    return ", ".join([*_rates(figures), *failed(figures)])


def _rates(figures: StoreFigures) -> list[str]:
    return [
        counted(figures),
        f"{clips_per_second(figures.clips_per_second)} clips/s",
        bytes_per_second(figures.bytes_per_second),
        f"in {duration(figures.watched_seconds)} of watching",
        f"ETA {eta(figures.eta_seconds)}",
    ]


def _screen(url: str, figures: StoreFigures, note: str) -> RenderableType:
    heading = Flow([f"watching {url}"], "bold")
    lost = [Flow([f"{figures.failed} failed", *reasons(figures)], "red")] if figures.failed else []
    noted = [Flow([note], "dim")] if note else []
    return Group(heading, bar(figures), Flow(_rates(figures)), *lost, *noted)
