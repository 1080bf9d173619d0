"""One unit of work: decode → teach → encode → write. Knows no Ray; any engine repeats it.

A unit is safe to repeat and to run twice at once: its objects are created, never overwritten, and its ledger
entry, written last, is what makes it visible.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self, cast

import numpy as np
import torch

from schemas.base import Frozen, sha256_digest
from schemas.clip import Clip, FailureReason, FrameClock
from schemas.errors import BadInput, CouldNotRun, StoreDamaged, VideoError
from schemas.job import EngineJob, TeacherJob
from schemas.ledger import ErrorFigure, LedgerEntry, RowOutcome, StoredObject, Unit, WorkItem
from schemas.report import StageSeconds, UnitReport
from schemas.signal import SIGNALS, SignalName
from teacher_cache.clips.decode import DecodedClip
from teacher_cache.clips.decoder import DecoderPool
from teacher_cache.encodings.base import Arrays
from teacher_cache.encodings.registry import encoding
from teacher_cache.store.chunk import encode_chunk, split_checksum
from teacher_cache.store.layout import shard_key, stored_arrays
from teacher_cache.store.ledger import Journal
from teacher_cache.store.shard import pack_shard, unpack_shard
from teacher_cache.store.store import open_store, put_heads
from teacher_cache.tally import OF_VIDEOS
from teacher_cache.teachers.protocol import RawSignals
from teacher_cache.teachers.registry import family

_COMPRESSORS = 4


class WorkerSpec(Frozen):
    """All that a worker on any machine needs to begin."""

    store: str
    teacher: TeacherJob
    engine: EngineJob
    ledger_volume: int = 0
    """The volume of the ledger that was open when the work was planned."""


class Worker:
    """A loaded teacher with its decoders, at one store. Use as a context manager."""

    def __init__(self, spec: WorkerSpec) -> None:
        if spec.engine.threads_per_teacher is not None:
            torch.set_num_threads(spec.engine.threads_per_teacher)
        self._batch = spec.engine.batch
        self._store = open_store(spec.store)
        self._teacher = family(spec.teacher.family).load(spec.teacher, _device(spec.engine))
        if self._teacher.identity != self._store.recipe.teacher:
            raise BadInput(
                f"the weights at {spec.teacher.weights} are not those that {spec.store} was begun with; they changed since"
            )
        put_heads(self._store, self._teacher.heads())
        self._journal = Journal(self._store.objects, spec.ledger_volume)
        # The compressors release the GIL, so a batch is compressed while the next one is taught.
        self._compressors = ThreadPoolExecutor(_COMPRESSORS, thread_name_prefix="compress")
        self._decoders = DecoderPool(self._store.recipe.clips, spec.engine.decoders, spec.engine.decode_timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._decoders.close()
        self._compressors.shutdown(cancel_futures=True)

    def run(self, item: WorkItem) -> UnitReport:
        """Do one unit and commit it. A clip that fails costs its own row."""
        clock = StageClock()
        standing = self._journal.standing(item.unit.shard)
        left = [part for part in item.unit.parts if not any(part in entry.unit.parts for entry in standing)]
        if not left:
            return self._told(_report(item.unit, standing[-1], clock, already_done=True))
        shard = _ShardInProgress(self, item.model_copy(update={"unit": Unit(shard=item.unit.shard, parts=tuple(left))}), clock)
        for batch in self._decoded(item.clips, shard, clock):
            shard.teach(batch)
        entry = shard.write()
        already_done = not self._journal.commit(entry)
        return self._told(_report(item.unit, entry, clock, already_done=already_done))

    def _told(self, report: UnitReport) -> UnitReport:
        """With what was asked of store and videos since the last report."""
        asked = {"requests": self._store.objects.take_requests(), "video_requests": OF_VIDEOS.take()}
        return report.model_copy(update=asked)

    def _decoded(
        self, clips: Sequence[Clip], shard: _ShardInProgress, clock: StageClock
    ) -> Iterator[list[tuple[Clip, DecodedClip]]]:
        """Batches of clips that decoded; the others are recorded as failed."""
        batch: list[tuple[Clip, DecodedClip]] = []
        results = self._decoders.map((clip.video for clip in clips), (clip.window for clip in clips))
        for clip in clips:
            with clock.stage("decode_wait"):
                decoded = next(results)
            if isinstance(decoded, VideoError):
                shard.fail(clip, cast("FailureReason", decoded.reason), decoded.detail)
                continue
            batch.append((clip, decoded))
            if len(batch) == self._batch:
                yield batch
                batch = []
        if batch:
            yield batch


class StageClock:
    """Seconds spent in each stage of a unit."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(StageSeconds.model_fields, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


class _ShardInProgress:
    """Encoded chunks and outcomes of a unit's rows, until they are written."""

    def __init__(self, worker: Worker, item: WorkItem, clock: StageClock) -> None:
        self._store, self._teacher = worker._store, worker._teacher  # noqa: SLF001  # one thing in two classes
        self._item, self._clock = item, clock
        self._signals: tuple[SignalName, ...] = tuple(part for part in item.unit.parts if part != "clock")
        self._outcomes: dict[int, RowOutcome] = {outcome.row: outcome for outcome in item.settled}
        shapes = self._teacher.shapes
        self._arrays = {a.name: a for part in item.unit.parts for a in stored_arrays(self._store.recipe, part, shapes)}
        self._compressors = worker._compressors  # noqa: SLF001
        self._chunks: dict[str, dict[int, Future[bytes]]] = {}

    def fail(self, clip: Clip, reason: FailureReason, detail: str) -> None:
        self._outcomes[clip.row] = RowOutcome(row=clip.row, clip_id=clip.clip_id, status="failed", reason=reason, detail=detail)

    def teach(self, batch: Sequence[tuple[Clip, DecodedClip]]) -> None:
        """Teach and encode a batch of decoded clips, which may come from different videos."""
        with self._clock.stage("teach"):
            raw: RawSignals = {}
            if self._signals:
                raw = self._teacher.raw(torch.from_numpy(np.stack([d.frames for _, d in batch])), self._signals)
        with self._clock.stage("encode"):
            for place, (clip, decoded) in enumerate(batch):
                self._encode(clip, decoded, {signal: values[place] for signal, values in raw.items()})

    def _encode(self, clip: Clip, decoded: DecodedClip, raw: RawSignals) -> None:
        arrays: Arrays = _clock_values(decoded.clock) if "clock" in self._item.unit.parts else {}
        errors: dict[str, ErrorFigure] = {}
        for signal, values in raw.items():
            if not bool(torch.isfinite(values).all()):
                self.fail(clip, "teacher_nonfinite", f"the teacher gave NaN or infinity in {signal}")
                return
            encoder = encoding(signal, self._store.recipe.encodings[signal])
            encoded, error = encoder.encode(SIGNALS[signal], values)
            if not error.measured <= error.bound * (1 + 1e-6):  # a NaN is no bound kept
                found = f"{signal}: {error.measure} {error.measured:.4g} exceeds {error.bound:.4g} under {encoder.name}"
                self.fail(clip, "encoding_bound", f"{found}; keep this signal in a store with `encoding: exact`")
                return
            arrays |= encoded
            errors[signal] = error
        place = clip.row % self._store.recipe.layout.clips_per_shard
        for name, values_ in arrays.items():
            compression = self._arrays[name].compression
            self._chunks.setdefault(name, {})[place] = self._compressors.submit(encode_chunk, values_, compression)
        self._outcomes[clip.row] = RowOutcome(
            row=clip.row,
            clip_id=clip.clip_id,
            status="committed",
            decoder=decoded.decoder,
            errors=errors,
            optional_arrays=tuple(name for name in arrays if self._arrays[name].optional),
        )

    def write(self) -> LedgerEntry:
        """Create the unit's shards; the entry returned is not yet committed."""
        objects: dict[str, StoredObject] = {}
        for array in self._arrays.values():
            with self._clock.stage("encode"):
                chunks = {place: chunk.result() for place, chunk in self._chunks.get(array.name, {}).items()}
            if chunks:  # Zarr writes no object for a shard without chunks
                with self._clock.stage("put"):
                    objects[shard_key(array, self._item.unit.shard)] = self._put(
                        shard_key(array, self._item.unit.shard), chunks
                    )
        rows = tuple(self._outcomes[row] for row in sorted(self._outcomes))
        return LedgerEntry(unit=self._item.unit, fingerprint=self._store.recipe.fingerprint, objects=objects, rows=rows)

    def _put(self, key: str, chunks: dict[int, bytes]) -> StoredObject:
        clips_per_shard = self._store.recipe.layout.clips_per_shard
        data = pack_shard(chunks, clips_per_shard)
        if not self._store.objects.create(key, data):
            data = self._adopted(key, data, set(chunks))
        return StoredObject(digest=sha256_digest(data), length=len(data))

    def _adopted(self, key: str, own: bytes, places: set[int]) -> bytes:
        """The object that another worker, or an earlier run, created for this unit and did not commit.

        It is taken as it is, if it is whole: GPU arithmetic does not repeat to the last bit, so its bytes need not
        equal ours, but it came from the same teacher and the same frames.
        """
        found = self._store.objects.get(key)
        if found is None:
            raise CouldNotRun(f"{key} of {self._store.url} was deleted while this unit was written; run the job again")
        if found != own:
            try:
                chunks = unpack_shard(found, self._store.recipe.layout.clips_per_shard)
            except StoreDamaged:
                chunks = {}
            if chunks.keys() != places or not all(split_checksum(chunk)[1] for chunk in chunks.values()):
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


def _device(engine: EngineJob) -> str:
    if engine.gpus_per_teacher == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise CouldNotRun(
            "engine.gpus_per_teacher asks for a GPU, and PyTorch finds none here; set it to 0 to teach on the CPU"
        )
    return "cuda"


def _report(unit: Unit, entry: LedgerEntry, clock: StageClock, *, already_done: bool) -> UnitReport:
    committed = sum(row.status == "committed" for row in entry.rows)
    return UnitReport(
        unit=unit.name,
        committed=committed,
        failed=len(entry.rows) - committed,
        bytes=sum(stored.length for stored in entry.objects.values()),
        seconds=StageSeconds(**clock.seconds),
        already_done=already_done,
    )
