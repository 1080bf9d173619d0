"""Written units in, committed units out: a run's driver appends them to the store's log, in batches, beside its other work.

Teachers never wait for this. If the driver dies, the units that it had not appended are done again, and their objects stand.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Sequence
from itertools import accumulate
from types import TracebackType
from typing import Self

import numpy as np

from schemas.errors import CouldNotRun
from schemas.log import Action, ErrorFigures, PartName, UnitCommitted
from schemas.report import UnitReport
from teacher_cache.store.layout import array_of, part_of
from teacher_cache.store.state import State
from teacher_cache.store.store import Store

_EVERY_SECONDS = 1.0
"""How often a record is appended, at most, by a driver alone. One that dies loses about that much of its teachers' work."""
_MOST_EVERY_SECONDS = 300.0
_RECORDS_A_SECOND = 4.0
"""How many records a few drivers of a store append a second together. Each reads those of the others; one at a time is made."""
_EVENS_OUT = 0.9
"""A driver that waited longer than others sees more records for that. With an exponent of 1 it would go on to wait longer."""
_MOST_ROWS = 2**15
"""The most rows of a record's units, unless it is one unit: some megabytes, and far below its bound if all have failed."""


class Committer:
    """Commits units as part of a store's log. Use as a context manager, which commits what is left.

    ``catalog_parts`` is how often rows had been added when the units were planned.
    """

    def __init__(self, store: Store, catalog_parts: int) -> None:
        self._store, self._catalog_parts = store, catalog_parts
        self._waiting: list[UnitReport] = []
        self._done: list[UnitReport] = []
        self._error: BaseException | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._every = _EVERY_SECONDS
        self._thread = threading.Thread(target=self._work, name="commit", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:  # the first error says more
                raise

    def add(self, report: UnitReport) -> None:
        """Commit a unit soon. Raises what committing others raised."""
        with self._changed:
            self._raise()
            self._waiting.append(report)
            self._changed.notify_all()

    def done(self) -> list[UnitReport]:
        """The reports of the units that were committed since the last call. Raises what committing raised."""
        with self._changed:
            self._raise()
            done, self._done = self._done, []
            return done

    def close(self) -> None:
        """Commit all that is left, and a checkpoint if it is worth one; `done` then gives the rest. Raises what that raised."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while units := self._next():
                before = self._store.state.version
                done = commit(self._store, units, self._catalog_parts)
                self._every = seconds_between(self._store.state.version - before)
                with self._changed:
                    self._done += done
                self._store.log.make_checkpoint()
            self._store.log.make_checkpoint(at_end=True)
        except BaseException as error:  # noqa: BLE001  # raised again where the run can end
            self._error = error

    def _next(self) -> list[UnitReport]:
        """The units to commit next; none once it is closed and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            # Units that come shortly after each other share a record.
            self._changed.wait_for(lambda: self._is_closed, self._every)
            rows = accumulate(report.committed + len(report.failures) for report in self._waiting)
            most = max(1, sum(total <= _MOST_ROWS for total in rows))
            units, self._waiting = self._waiting[:most], self._waiting[most:]
            return units


def seconds_between(records: int) -> float:
    """How long to gather units until the next record, if ``records`` came since the last one, all drivers' together.

    With n drivers, about n came, so each waits (n / 4)^0.9 s, and the log grows by 7 records a second with a thousand. Each
    driver reads all of them. Waits are random, or drivers that begin together would always collide.
    """
    wanted: float = (records / _RECORDS_A_SECOND) ** _EVENS_OUT * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
    return min(max(_EVERY_SECONDS, wanted), _MOST_EVERY_SECONDS)


def commit(store: Store, reports: Sequence[UnitReport], catalog_parts: int) -> list[UnitReport]:
    """Append written units to the store's log. Returns their reports, which say what others had committed before.

    Each part of a shard is committed once: of a unit that another run has committed in some parts, the others are left.
    ``catalog_parts`` is how often rows had been added when the units were planned. Raises `CouldNotRun` for a unit whose
    objects ``gc`` has announced to delete.
    """
    left: list[UnitCommitted | None] = []

    def actions(state: State) -> list[Action]:
        in_force = None if len(state.rows_added) == catalog_parts else _shards_in_force(store)
        left[:] = []
        seen: set[tuple[PartName, int]] = set()
        for report in reports:
            assert report.written is not None
            unit = _without(
                report.written, _done_parts(state, report.written) | {p for p, s in seen if s == report.written.shard}
            )
            if unit is not None and in_force is not None and unit.shard not in in_force:
                unit = None  # other rows hold its clips now
            if unit is not None:
                seen |= {(part, unit.shard) for part in unit.parts}
                _require_objects(state, unit, store.url)
            left.append(unit)
        return [unit for unit in left if unit is not None]

    store.log.append(actions, "run")
    return [_told(report, unit) for report, unit in zip(reports, left, strict=True)]


def _told(report: UnitReport, unit: UnitCommitted | None) -> UnitReport:
    if unit is None:
        return report.model_copy(update={"written": None, "already_done": True, "failures": ()})
    return report.model_copy(update={"written": None})


def _shards_in_force(store: Store) -> frozenset[int]:
    return frozenset(np.unique(store.catalog().current // store.recipe.layout.clips_per_shard).tolist())


def _done_parts(state: State, unit: UnitCommitted) -> set[PartName]:
    return {part for part in unit.parts if state.is_done(part, np.array([unit.shard]))[0]}


def _require_objects(state: State, unit: UnitCommitted, url: str) -> None:
    if gone := [key for key in unit.objects if key in state.announced]:
        raise CouldNotRun(
            f"`gc --unfinished` deleted {gone[0]} of {url} while unit {unit.unit.name} was in work. Run the job again: it "
            "teaches the unit's clips in new rows. Run `gc --unfinished` only while no run is at work."
        )


def _without(unit: UnitCommitted, done: Iterable[PartName]) -> UnitCommitted | None:
    """The unit without the parts that are ``done``; None if no part is left."""
    parts = tuple(part for part in unit.parts if part not in set(done))
    if not parts:
        return None
    if parts == unit.parts:
        return unit
    figures: tuple[ErrorFigures, ...] = tuple(figures for figures in unit.figures if figures.signal in parts)
    return unit.model_copy(
        update={
            "parts": parts,
            "objects": {key: stored for key, stored in unit.objects.items() if part_of(array_of(key)) in parts},
            "exact": {signal: rows for signal, rows in unit.exact.items() if signal in parts},
            "figures": figures,
        }
    )
