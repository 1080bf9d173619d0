"""Decoded clips of one unit in; its shards and ledger entry out: teach → encode → write. Independent of Ray and of the engine.

A unit is idempotent and may run twice at once: its objects are created, never overwritten, and its ledger entry, written
last, commits it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Self, cast

import numpy as np
import torch

from schemas.base import Frozen, sha256_digest
from schemas.clip import Clip, FailureReason, FrameClock
from schemas.errors import BadInput, CouldNotRun, StoreDamaged, VideoError
from schemas.job import EngineJob, TeacherJob
from schemas.ledger import ErrorFigure, LedgerEntry, RowOutcome, StoredObject, Unit, WorkItem
from schemas.report import FailedClip, StageSeconds, UnitReport
from schemas.signal import SIGNALS, SignalName
from schemas.storage import DEFAULT_STORAGE, StorageOptions
from teacher_cache.clips.decode import DecodedClip
from teacher_cache.encodings.base import Arrays
from teacher_cache.encodings.registry import encoding
from teacher_cache.io.patience import expect
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.memory import (
    COMPRESSORS,
    ENCODED_CLIPS,
    devices_of,
    machine_bytes,
    require_device_memory,
    require_host_memory,
    worker_bytes,
)
from teacher_cache.store.chunk import encode_chunk, split_checksum
from teacher_cache.store.layout import shard_key, stored_arrays
from teacher_cache.store.ledger import Journal
from teacher_cache.store.shard import pack_shard, unpack_shard
from teacher_cache.store.store import open_store, put_heads
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.protocol import Teacher
from teacher_cache.teachers.registry import family


class WorkerSpec(Frozen):
    """All that a worker needs to start, on any machine."""

    store: str
    storage_options: StorageOptions = DEFAULT_STORAGE
    teacher: TeacherJob
    engine: EngineJob
    ledger_volume: int = 0
    """The ledger volume that was open when the work was planned."""


class UnitWorker:
    """A loaded teacher and one store, shared by several units at once. Thread-safe; use as a context manager.

    While one unit's batch is on the device, others are encoded, compressed or written. The caller decides how many units
    run at once; `teaching_at_once` of them keep the devices busy.

    Raises `CouldNotRun` if the machine or its GPUs lack the memory, `BadInput` if the weights are not the store's, and what
    opening the store and loading the teacher raise.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        if spec.engine.threads_per_teacher is not None:
            torch.set_num_threads(spec.engine.threads_per_teacher)
        self.batch = spec.engine.batch
        expect(spec.store, spec.storage_options.endpoint_url)
        self.store = open_store(spec.store, spec.storage_options)
        self.devices = _devices(spec.engine)
        self._require_memory(spec)
        teachers = [family(spec.teacher.family).load(spec.teacher, device) for device in self.devices]
        if teachers[0].identity != self.store.recipe.teacher:
            raise BadInput(
                f"the weights at {spec.teacher.weights} have changed since the store {spec.store} was created with them"
            )
        put_heads(self.store, teachers[0].heads())
        self.shapes = teachers[0].shapes
        self._free: SimpleQueue[Teacher] = SimpleQueue()
        for teacher in teachers:
            self._free.put(teacher)
        self._journal = Journal(self.store.objects, spec.ledger_volume)
        # The compressors release the GIL, so they run in parallel with a teacher.
        self.compressors = ThreadPoolExecutor(COMPRESSORS, thread_name_prefix="compress")
        self.encoded = threading.BoundedSemaphore(ENCODED_CLIPS)
        """Back-pressure: one slot per clip between teaching and compression, so that a fast teacher cannot fill the memory."""

    def _require_memory(self, spec: WorkerSpec) -> None:
        """Raises `CouldNotRun` before anything large is loaded."""
        needed = worker_bytes(self.store.recipe, self.store.shapes(), family(spec.teacher.family), spec.teacher, spec.engine)
        require_host_memory(needed, machine_bytes(), "this machine")
        for device in self.devices if spec.engine.gpus_per_teacher else ():
            total = torch.cuda.get_device_properties(device).total_memory
            require_device_memory(needed, int(total * min(1, spec.engine.gpus_per_teacher)), device)

    @property
    def teaching_at_once(self) -> int:
        """Number of units that keep the devices busy: one per device, plus one being encoded or waiting for frames."""
        return len(self.devices) + 1

    @contextmanager
    def teacher(self) -> Iterator[Teacher]:
        """A teacher for the caller's exclusive use; waits until one is free."""
        teacher = self._free.get()
        try:
            yield teacher
        finally:
            self._free.put(teacher)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel waiting compressions and end the threads."""
        self.compressors.shutdown(cancel_futures=True)

    def teach(self, item: WorkItem, decoded: Iterator[DecodedClip | VideoError]) -> TaughtUnit:
        """Teach and encode a unit's clips. ``decoded`` yields them in the item's order. A failed clip fails only its own row.

        Parts that other workers have committed since are skipped.
        """
        standing = self._journal.standing(item.unit.shard)
        left = tuple(part for part in item.unit.parts if not any(part in entry.unit.parts for entry in standing))
        if not left:
            return TaughtUnit(self, item, standing[-1])
        unit = TaughtUnit(self, item.model_copy(update={"unit": Unit(shard=item.unit.shard, parts=left)}))
        for batch in unit.batches(decoded):
            unit.teach(batch)
        return unit

    def write(self, unit: TaughtUnit) -> UnitReport:
        """Write a taught unit's shards and commit it. Raises `CouldNotRun` if a foreign object is in the way."""
        if unit.standing is not None:
            return self._told(unit.report(unit.standing, already_done=True))
        entry = unit.write()
        with unit.clock.stage("put"):
            already_done = not self._journal.commit(entry)
        return self._told(unit.report(entry, already_done=already_done))

    def _told(self, report: UnitReport) -> UnitReport:
        """Add the requests to store and videos since the last report, of whichever unit."""
        asked = {"requests": self.store.objects.take_requests(), "video_requests": VIDEO_REQUESTS.take()}
        return report.model_copy(update=asked)


class StageClock:
    """Seconds spent in each stage of a unit: the fields of `StageSeconds`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(StageSeconds.model_fields, 0.0)

    @contextmanager
    def stage(self, name: str, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
        """Add the time spent inside to the stage ``name``."""
        start = clock()
        try:
            yield
        finally:
            self.seconds[name] += clock() - start


@dataclass(frozen=True)
class _Compressed:
    """One clip's compressed chunks."""

    chunks: dict[str, bytes]
    """Array's name → chunk."""
    seconds: float
    """CPU seconds that compressing them took."""


class TaughtUnit:
    """A unit being taught: its clips' encoded chunks and its rows' outcomes, before they are written."""

    def __init__(self, worker: UnitWorker, item: WorkItem, standing: LedgerEntry | None = None) -> None:
        self.standing = standing
        """The entry of another worker that committed the unit first, if any."""
        self.clock = StageClock()
        self._worker, self._store, self._item = worker, worker.store, item
        self._signals: tuple[SignalName, ...] = tuple(part for part in item.unit.parts if part != "clock")
        self._outcomes: dict[int, RowOutcome] = {outcome.row: outcome for outcome in item.settled}
        self._failures: list[FailedClip] = []
        self._arrays = {a.name: a for part in item.unit.parts for a in stored_arrays(self._store.recipe, part, worker.shapes)}
        self._compressed: dict[int, Future[_Compressed]] = {}

    def batches(self, decoded: Iterator[DecodedClip | VideoError]) -> Iterator[list[tuple[Clip, DecodedClip]]]:
        """Batches of the clips that decoded. Records the others as failed."""
        batch: list[tuple[Clip, DecodedClip]] = []
        for clip in self._item.clips:
            with self.clock.stage("decode_wait"):
                frames = next(decoded)
            if isinstance(frames, VideoError):
                self.fail(clip, cast("FailureReason", frames.reason), frames.detail)
                continue
            self.clock.seconds["decode"] += frames.cpu_seconds
            batch.append((clip, frames))
            if len(batch) == self._worker.batch:
                yield batch
                batch = []
        if batch:
            yield batch

    def fail(self, clip: Clip, reason: FailureReason, detail: str) -> None:
        """Record the clip's row as failed."""
        self._failures.append(FailedClip(clip_id=clip.clip_id, video=clip.video, reason=reason, detail=detail))
        self._outcomes[clip.row] = RowOutcome(row=clip.row, clip_id=clip.clip_id, status="failed", reason=reason, detail=detail)

    def teach(self, batch: Sequence[tuple[Clip, DecodedClip]]) -> None:
        """Teach and encode a batch of decoded clips, which may come from different videos."""
        raw: RawSignals = {}
        if self._signals:
            frames = torch.from_numpy(np.stack([decoded.frames for _, decoded in batch]))
            with self._worker.teacher() as teacher, self.clock.stage("teach"):
                raw = teacher.raw(frames, self._signals)
                _wait_for_device(raw)
        for index, (clip, decoded) in enumerate(batch):
            self._encode(clip, decoded, {signal: values[index] for signal, values in raw.items()})

    def _encode(self, clip: Clip, decoded: DecodedClip, raw: RawSignals) -> None:
        self._worker.encoded.acquire()
        try:
            with self.clock.stage("encode", time.thread_time):
                arrays = self._encoded(clip, decoded, raw)
            if arrays is None:
                self._worker.encoded.release()
                return
            self._compressed[clip.row] = self._worker.compressors.submit(self._compress, arrays)
        except BaseException:
            self._worker.encoded.release()
            raise

    def _encoded(self, clip: Clip, decoded: DecodedClip, raw: RawSignals) -> Arrays | None:
        """The clip's encoded arrays; None if it fails, non-finite or beyond its encoding's bound."""
        arrays: Arrays = _clock_values(decoded.clock) if "clock" in self._item.unit.parts else {}
        errors: dict[str, ErrorFigure] = {}
        for signal, values in raw.items():
            if not bool(torch.isfinite(values).all()):
                self.fail(clip, "teacher_nonfinite", f"the teacher gave NaN or infinity in {signal}")
                return None
            encoder = encoding(signal, self._store.recipe.encodings[signal])
            encoded, error = encoder.encode(SIGNALS[signal], values)
            if not error.measured <= error.bound * (1 + 1e-6):  # written so that NaN counts as exceeding the bound
                found = f"{signal}: {error.measure} {error.measured:.4g} exceeds {error.bound:.4g} under {encoder.name}"
                self.fail(clip, "encoding_bound", f"{found}; keep this signal in a store with `encoding: exact`")
                return None
            arrays |= encoded
            errors[signal] = error
        self._outcomes[clip.row] = RowOutcome(
            row=clip.row,
            clip_id=clip.clip_id,
            status="committed",
            decoder=decoded.decoder,
            errors=errors,
            optional_arrays=tuple(name for name in arrays if self._arrays[name].optional),
        )
        return arrays

    def _compress(self, arrays: Arrays) -> _Compressed:
        start = time.thread_time()
        try:
            chunks = {name: encode_chunk(values, self._arrays[name].compression) for name, values in arrays.items()}
        finally:
            self._worker.encoded.release()
        return _Compressed(chunks, time.thread_time() - start)

    def write(self) -> LedgerEntry:
        """Create the unit's shards. Returns its ledger entry, not yet committed."""
        per_shard = self._store.recipe.layout.clips_per_shard
        compressed = {row % per_shard: future.result() for row, future in self._compressed.items()}
        self.clock.seconds["encode"] += sum(clip.seconds for clip in compressed.values())
        objects: dict[str, StoredObject] = {}
        for name, array in self._arrays.items():
            chunks = {slot: clip.chunks.pop(name) for slot, clip in compressed.items() if name in clip.chunks}
            if chunks:  # Zarr writes no object for a shard without chunks
                with self.clock.stage("put"):
                    key = shard_key(array, self._item.unit.shard)
                    objects[key] = self._put(key, chunks)
        rows = tuple(self._outcomes[row] for row in sorted(self._outcomes))
        return LedgerEntry(unit=self._item.unit, fingerprint=self._store.recipe.fingerprint, objects=objects, rows=rows)

    def report(self, entry: LedgerEntry, *, already_done: bool) -> UnitReport:
        """The unit's event for the engine's caller: counts, bytes and seconds."""
        committed = sum(row.status == "committed" for row in entry.rows)
        return UnitReport(
            unit=self._item.unit.name,
            committed=committed,
            failed=len(entry.rows) - committed,
            bytes=sum(stored.length for stored in entry.objects.values()),
            seconds=StageSeconds(**self.clock.seconds),
            failures=() if already_done else tuple(self._failures),
            already_done=already_done,
        )

    def _put(self, key: str, chunks: dict[int, bytes]) -> StoredObject:
        clips_per_shard = self._store.recipe.layout.clips_per_shard
        data = pack_shard(chunks, clips_per_shard)
        if not self._store.objects.create(key, data):
            data = self._adopted(key, data, set(chunks))
        return StoredObject(digest=sha256_digest(data), length=len(data))

    def _adopted(self, key: str, own: bytes, slots: set[int]) -> bytes:
        """The object that another worker, or an earlier run, created for this unit without committing it.

        It is adopted if it is intact. Its bytes may differ from ours, since GPU arithmetic is not bit-reproducible, but they
        come from the same teacher and the same frames.
        """
        found = self._store.objects.get(key)
        if found is None:
            raise CouldNotRun(f"{key} of {self._store.url} was deleted while this unit was written; run the job again")
        if found != own:
            try:
                chunks = unpack_shard(found, self._store.recipe.layout.clips_per_shard)
            except StoreDamaged:
                chunks = {}
            if chunks.keys() != slots or not all(split_checksum(chunk)[1] for chunk in chunks.values()):
                raise CouldNotRun(
                    f"{key} of {self._store.url} exists, belongs to no committed unit and does not hold this unit's clips. "
                    "With no other run at work, `teacher-cache gc` removes it; then run the job again."
                )
        return found


def _clock_values(clock: FrameClock) -> Arrays:
    return {
        "timestamps": np.array(clock.timestamps_seconds, dtype="<f8"),
        "frame_index": np.array(clock.frame_index, dtype="<i4"),
    }


def _devices(engine: EngineJob) -> tuple[str, ...]:
    """The device of each copy of the network. Raises `CouldNotRun` if there are too few GPUs."""
    if engine.gpus_per_teacher == 0:
        return ("cpu",)
    wanted, found = devices_of(engine), torch.cuda.device_count()
    if found < wanted:
        raise CouldNotRun(
            f"engine.gpus_per_teacher is {engine.gpus_per_teacher:g}, and PyTorch finds {found} GPUs here; "
            "set it to 0 to teach on the CPU"
        )
    return tuple(f"cuda:{number}" for number in range(wanted))


def _wait_for_device(raw: RawSignals) -> None:
    """Wait for the GPU, which returns before it is done, so that its time counts as teaching. The next batch waits anyway."""
    for device in {values.device for values in raw.values() if values.is_cuda}:
        torch.cuda.synchronize(device)
