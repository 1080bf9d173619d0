"""A job and its facts in; its clips as rows of the store, and the units of work that they give, out: in rounds.

What is found in the first seconds is the first round. While it is taught, a thread finds and adds the rest, which is the next
one. So no GPU waits until the frames of ten million videos are counted; and a job that is planned at once is one round, without
a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Self

import numpy as np
import pyarrow as pa

from schemas.job import Job
from schemas.storage import Requests
from teacher_cache.clips.tables import Keys
from teacher_cache.io.progress import Progress
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.discovery import Contents, JobFacts, find_clips
from teacher_cache.jobs.engine import JobProber
from teacher_cache.jobs.portion import ALL, Portion
from teacher_cache.jobs.work_list import WorkLeft, new_rows, rows_of, rows_to_redo, state_of
from teacher_cache.store.catalog import Catalog, Rows
from teacher_cache.store.store import Store, add_clips, add_parts, create_store, lengthen, open_store

_FIRST_SECONDS = 20.0
"""How long the first round is planned, if there is more."""
_LAST_SECONDS = 10.0
"""How long to wait for what is being added, when a run ends early."""


class Planner:
    """Adds a job's clips to its store. Use as a context manager."""

    def __init__(
        self, job: Job, facts: JobFacts, progress: Progress, stop: Stop, *, retry_failed: bool, portion: Portion = ALL
    ) -> None:
        self._job, self._facts, self._stop, self._progress = job, facts, stop, _UntilOver(progress, self._heed_stop)
        self._prober = JobProber(facts.recipe.clips, job.engine, stop)
        self._catalog: Catalog
        self._found, self._catalog, state = state_of(job.store, facts.recipe, facts.wanted_shapes, job.storage_options)
        self._again = rows_to_redo(self._catalog, state, facts.parts, retry_failed=retry_failed)
        shard, runs = portion.shard
        self._is_one_of_several = runs > 1
        self._clips = iter(
            find_clips(
                job, facts, self._catalog, self._again, self._progress, self._prober,
                # What a run adds by itself it does not meet again.
                newest=(lambda: self._catalog) if runs > 1 else None, begin_at=shard / runs,
            )
        )  # fmt: skip
        self._contents, self._keys = Contents(), list[Keys]()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self.clips, self.notes = 0, tuple[str, ...]()
        """Number of the job's clips up to this round, and what is to be said of them: see `Contents.note`."""
        # One request finds out that there is no store.
        self.requests = Requests() if self._found is not None and self._found.version >= 0 else Requests(get=1)
        """Requests that other connections than the first round's have sent."""

    def first(self) -> tuple[Store, WorkLeft]:
        """The store, made if there was none, and the first round. Raises what finding clips raises, and `Stopped`."""
        began, store, is_all = time.monotonic(), self._found, True
        for clips in self._clips:
            self._heed_stop()
            # Created only now, so that a job whose videos cannot be reached leaves nothing behind.
            if store is None or store.version < 0:
                store = create_store(self._job.store, self._facts.recipe, "run", self._job.storage_options)
            self._add(store, clips)
            if time.monotonic() - began > _FIRST_SECONDS:
                is_all = False
                break
        assert store is not None  # no list is empty
        self._progress.end()
        add_parts(store, self._facts.parts, self._facts.shapes, self._catalog.rows, "run")
        left = self._left(store, is_all)
        if not is_all:
            self._thread = threading.Thread(target=self._go_on, name="plan", daemon=True)
            self._thread.start()
        return store, left

    def next(self, store: Store) -> WorkLeft | None:
        """The next round, once the one before is taught and the rest is found; None if there is none. Raises as `first`."""
        if self._thread is None:
            return None
        while self._thread.is_alive():
            self._heed_stop()
            self._thread.join(0.5)
        self._thread = None
        if self._error is not None:
            raise self._error
        store.log.read()
        self._catalog = store.catalog()
        return self._left(store, is_all=True)

    def _heed_stop(self) -> None:
        """Raises `Stopped` if the run is told to stop."""
        if self._stop.is_set:
            raise self._stop.error("before all videos were looked at")

    def _add(self, store: Store, clips: pa.Table) -> None:
        if self._is_one_of_several:
            store.log.read()  # what the others added need not be probed
        choose = partial(new_rows, clips, recipe=self._facts.recipe, again=self._again)
        self._catalog = add_clips(store, self._catalog, choose, "run")
        self._contents.add(clips)
        self._keys.append(clips["clip_key"].to_numpy())

    def _left(self, store: Store, is_all: bool) -> WorkLeft:
        lengthen(store, self._catalog.rows)
        keys = np.concatenate(self._keys)
        rows = rows_of(keys, self._catalog)
        self.clips, self.notes = len(keys), self._contents.note()
        if is_all:
            self.notes += self._note(store, rows)
        return WorkLeft(self._facts.recipe, self._catalog, store.state, self._facts.parts, rows)

    def _note(self, store: Store, rows: Rows) -> tuple[str, ...]:
        """A sentence, if there are rows to teach again that are not the job's, whose ``rows`` are all given new ones."""
        redo = rows_to_redo(self._catalog, store.state, self._facts.parts, retry_failed=False)
        if not len(others := np.setdiff1d(redo, rows)):
            return ()
        (clip,) = self._catalog.clips(others[:1])
        return (f"{len(others)} clips are to be taught again, such as {clip.clip_id!r}, by a job that lists their videos",)

    def _go_on(self) -> None:
        try:
            # A writer of its own: what is taught is committed at the same time.
            store = open_store(self._job.store, self._job.storage_options)
            for clips in self._clips:
                self._add(store, clips)
                if self._is_closed:
                    break
            self.requests += store.objects.take_requests()
        except BaseException as error:  # noqa: BLE001  # raised again where the round is asked for
            self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._progress.end()
        self._prober.__exit__()  # what the thread asks of it fails from here on
        if self._thread is not None:
            self._thread.join(_LAST_SECONDS)


class _UntilOver:
    """A `Progress` that shows no more once it is over: then a run's display has the terminal. ``at_step`` is called anyway."""

    def __init__(self, progress: Progress, at_step: Callable[[], None]) -> None:
        self._progress, self._at_step = progress, at_step
        self._shown = ExitStack()
        self._advance: Callable[[int], None] | None = None
        self._is_over = False
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        with self._lock:
            if not self._is_over and self._advance is None:
                self._advance = self._shown.enter_context(self._progress(description, total, unit))
                shows = True
            else:
                shows = False

        def step(count: int) -> None:
            self._at_step()
            if shows:
                self._step(count)

        try:
            yield step
        finally:
            if shows:
                self._hide()

    def _step(self, count: int) -> None:
        with self._lock:
            if self._advance is not None:
                self._advance(count)

    def _hide(self) -> None:
        with self._lock:
            self._advance = None
            self._shown.close()

    def end(self) -> None:
        """Show nothing from here on."""
        self._is_over = True
        self._hide()
