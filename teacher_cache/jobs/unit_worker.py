"""Decoded clips of one unit in; its shards, and what the log is to say of it, out: teach → encode → write.

Independent of Ray and of the engine. A unit is idempotent and may run twice at once: its objects are created, never
overwritten, and one that stands already is taken over. Workers write shards and nothing else; the run's driver commits them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch

from schemas.base import Frozen, sha256_digest
from schemas.clip import Clip, FailureReason, FrameClock
from schemas.errors import BadInput, CouldNotRun, StoreDamaged, TeacherFailed, VideoError, first_line
from schemas.job import EngineJob, TeacherJob
from schemas.log import ErrorFigure, ErrorFigures, FailedRow, PartName, StoredObject, UnitCommitted, WorkItem
from schemas.report import FailedClip, StageSeconds, UnitReport
from schemas.signal import SIGNALS, Shape, SignalName, exact_array
from schemas.storage import DEFAULT_STORAGE, StorageOptions
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.video import DecodedClip
from teacher_cache.encodings.base import Arrays, StoredArray
from teacher_cache.encodings.drift import taken_over
from teacher_cache.encodings.registry import encoding
from teacher_cache.io.patience import expect
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.encode_batch import EncodedClip, encode_batch
from teacher_cache.jobs.memory import (
    BATCHES_AT_ONCE,
    COMPRESSORS,
    ENCODED_CLIPS,
    devices_of,
    machine_bytes,
    peak_bytes,
    require_device_memory,
    require_host_memory,
    units_at_once,
    worker_bytes,
)
from teacher_cache.jobs.self_test import self_test
from teacher_cache.store.chunk import Buffer, clip_buffer, decode_chunks, encode_chunks
from teacher_cache.store.layout import shard_key, stored_arrays
from teacher_cache.store.shard import pack_clips, unpack_clips
from teacher_cache.store.store import open_store, put_heads
from teacher_cache.teachers.batch import told_of
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.lane import Bring, Lane, lane_for
from teacher_cache.teachers.protocol import Teacher
from teacher_cache.teachers.registry import family, loaded

Result = TypeVar("Result")


class WorkerSpec(Frozen):
    """All that a worker needs to start, on any machine."""

    store: str
    storage_options: StorageOptions = DEFAULT_STORAGE
    teacher: TeacherJob
    engine: EngineJob
    shapes: dict[SignalName, Shape]
    """Shape of one clip of each signal that is to be made."""

    def lacking(self, parts: Collection[PartName]) -> WorkerSpec:
        """Only the signals among these parts. A worker of frames alone loads no teacher and takes no GPU."""
        spec = self.model_copy(update={"shapes": {signal: shape for signal, shape in self.shapes.items() if signal in parts}})
        if spec.teaches:
            return spec
        return spec.model_copy(update={"engine": self.engine.model_copy(update={"gpus_per_teacher": 0})})

    @property
    def teaches(self) -> bool:
        """Whether any of them needs the teacher."""
        return any(SIGNALS[signal].source == "teacher" for signal in self.shapes)

    @property
    def student_size(self) -> int | None:
        """Height and width of the student's frames, if they are among the signals."""
        return self.shapes["frames"][1] if "frames" in self.shapes else None


@dataclass
class _Place:
    """A device: its copy of the teacher, and the way there and back."""

    teacher: Teacher
    lane: Lane
    batches: int = 0
    """Batches on their way through it."""


class UnitWorker:
    """A loaded teacher and one store, shared by several units at once. Thread-safe; use as a context manager.

    While one unit's batch is on the device, others are encoded, compressed or written. The caller decides how many units
    run at once; `teaching_at_once` of them keep the devices busy.

    Raises `CouldNotRun` if the machine or its GPUs lack the memory, `TeacherFailed` if a device does not do what the job will
    ask of it, `BadInput` if the weights are not the store's, and what opening the store and loading the teacher raise.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        if spec.engine.threads_per_teacher is not None:
            torch.set_num_threads(spec.engine.threads_per_teacher)
        self._spec, self.batch, self._is_halved = spec, spec.engine.batch, False
        expect(spec.store, spec.storage_options.endpoint_url)
        self.store = open_store(spec.store, spec.storage_options)
        self.devices = _devices(spec.engine) if spec.teaches else ("cpu",)
        self._require_memory(spec)
        self.shapes = spec.shapes
        self._places, self._choosing = self._loaded(spec) if spec.teaches else [], threading.Lock()
        self.teaching_at_once = units_at_once(spec.engine)
        """Number of units that keep the devices busy."""
        self._pads = spec.teacher.compile or bool(spec.engine.gpus_per_teacher)
        """Whether each batch is filled up, so that a compiler and cuDNN see one shape alone."""
        # The compressors release the GIL, so they run in parallel with a teacher.
        self.compressors = ThreadPoolExecutor(COMPRESSORS, thread_name_prefix="compress")
        self.encoded = threading.BoundedSemaphore(ENCODED_CLIPS)
        """Back-pressure: one slot per clip between teaching and compression, so that a fast teacher cannot fill the memory."""

    def _loaded(self, spec: WorkerSpec) -> list[_Place]:
        """A tried teacher on each device, its heads in the store."""
        for device in self.devices:
            self_test(spec.teacher, spec.engine, device)
        teachers = [loaded(spec.teacher, device) for device in self.devices]
        if teachers[0].identity != self.store.recipe.teacher:
            raise BadInput(
                f"the weights at {spec.teacher.weights} have changed since the store {spec.store} was created with them"
            )
        put_heads(self.store, teachers[0].heads())
        return [
            _Place(teacher, lane_for(device, BATCHES_AT_ONCE)) for teacher, device in zip(teachers, self.devices, strict=True)
        ]

    def _require_memory(self, spec: WorkerSpec) -> None:
        """Raises `CouldNotRun` before anything large is loaded."""
        needed = worker_bytes(self.store.recipe, spec.shapes, family(spec.teacher.family), spec.teacher, spec.engine)
        require_host_memory(needed, machine_bytes(), "this machine")
        for device in self.devices if spec.engine.gpus_per_teacher and spec.teaches else ():
            total = torch.cuda.get_device_properties(device).total_memory
            require_device_memory(needed, int(total * min(1, spec.engine.gpus_per_teacher)), device)

    def decoder(self) -> Decoder:
        """A decoder of what it is to be given: close it, or use it as a context manager."""
        engine, student_size = self._spec.engine, self._spec.student_size
        return Decoder(self.store.recipe.clips, engine.decode_timeout_seconds, engine.decode_device, student_size)

    def told_of(self, clip: Clip, clock: FrameClock) -> list[Any]:
        """See `teacher_cache.teachers.batch.told_of`."""
        return told_of(self._places[0].teacher, clip, clock)

    def through(
        self,
        frames: torch.Tensor,
        signals: Sequence[SignalName],
        encode: Callable[[RawSignals, Bring], list[Result]],
        told: Sequence[Any] = (),
    ) -> tuple[list[Result], float]:
        """Teach uint8 frames (clip, frame, y, x, rgb), and ``encode`` the raw signals on the device: see `Lane.through`.

        ``told`` is what else the teacher takes of each clip; empty if that is nothing.

        Returns what ``encode`` returned, one result a clip, and the seconds for which the teacher held a device. If a batch is
        more than the device's memory holds, it and all later ones are halved, once. Raises `TeacherFailed`.
        """
        try:
            return self._through(frames, signals, encode, told)
        except torch.OutOfMemoryError as error:
            if len(frames) == 1 or (self._is_halved and len(frames) <= self.batch):
                raise TeacherFailed(f"out of memory with {len(frames)} clips at once: {first_line(error)}") from error
        except RuntimeError as error:  # as CUDA's errors are, of which a process does not recover
            raise TeacherFailed(f"the teacher failed: {first_line(error)}") from error
        if not self._is_halved:
            self._is_halved, self.batch = True, max(1, self.batch // 2)
        torch.cuda.empty_cache()  # of other batches' sizes
        starts = range(0, len(frames), self.batch)
        halves = [self.through(frames[s : s + self.batch], signals, encode, told[s : s + self.batch]) for s in starts]
        return [result for results, _ in halves for result in results], sum(seconds for _, seconds in halves)

    def _through(
        self,
        frames: torch.Tensor,
        signals: Sequence[SignalName],
        encode: Callable[[RawSignals, Bring], list[Result]],
        told: Sequence[Any],
    ) -> tuple[list[Result], float]:
        count, missing = len(frames), self.batch - len(frames)
        if self._pads and missing > 0:
            frames = torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
            told = [*told, *list(told[-1:]) * missing]

        def encode_own(raw: RawSignals, bring: Bring) -> list[Result]:
            return encode({signal: values[:count] for signal, values in raw.items()}, bring)

        with self._place() as place:
            teach = partial(place.teacher.raw, signals=signals)
            return place.lane.through(frames, partial(teach, told=told) if told else teach, encode_own)

    @contextmanager
    def _place(self) -> Iterator[_Place]:
        """The device with the fewest batches on their way through it."""
        with self._choosing:
            place = min(self._places, key=lambda place: place.batches)
            place.batches += 1
        try:
            yield place
        finally:
            with self._choosing:
                place.batches -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel waiting compressions and end the threads."""
        self.compressors.shutdown(cancel_futures=True)

    def teach(self, item: WorkItem, decoded: Iterator[DecodedClip | VideoError]) -> TaughtUnit:
        """Teach and encode a unit's clips. ``decoded`` yields them in the item's order. A failed clip fails only its row."""
        unit = TaughtUnit(self, item)
        for batch in unit.batches(decoded):
            unit.teach(batch)
        return unit

    def write(self, unit: TaughtUnit) -> UnitReport:
        """Write a taught unit's shards. The report says what the log is to say of it: until then, it is not committed."""
        return self._told(unit.report(unit.write()))

    def _told(self, report: UnitReport) -> UnitReport:
        """Add the requests to store and videos since the last report, of whichever unit, and the process's memory."""
        asked = {"requests": self.store.objects.take_requests(), "video_requests": VIDEO_REQUESTS.take()}
        return report.model_copy(update={**asked, "memory_bytes": peak_bytes()})


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

    chunks: dict[str, list[bytes]]
    """Array's name → its chunks."""
    seconds: float
    """CPU seconds that compressing them took."""


@dataclass(frozen=True)
class _Committed:
    """What is to be said of a row with targets."""

    decoder: str
    """Name and version."""
    undecodable_tail_frames: int
    errors: dict[str, ErrorFigure]
    """Signal → its encoding error."""
    exact: frozenset[str]
    """Signals that are in their exact array."""


@dataclass(frozen=True)
class _Kept:
    """A taught batch, in case that it must be compared with what stands."""

    clips: list[tuple[Clip, str, FrameClock]]
    """Clip, its decoder, and its clock."""
    frames: torch.Tensor
    """uint8 (clip, frame, y, x, rgb)."""
    student: list[bytes]
    """A digest of each clip's frames for the student: of 7 MB a clip no more is kept. Empty if there are none."""
    told: list[Any]
    """What else the teacher was told of each clip."""


class TaughtUnit:
    """A unit being taught: its clips' encoded chunks and its rows' outcomes, before they are written."""

    def __init__(self, worker: UnitWorker, item: WorkItem) -> None:
        self.clock = StageClock()
        self._worker, self._store, self._item = worker, worker.store, item
        signals: list[SignalName] = [part for part in item.unit.parts if part != "clock"]
        self._taught = tuple(signal for signal in signals if SIGNALS[signal].source == "teacher")
        self._has_student = "frames" in signals
        self._failed: dict[int, FailedRow] = {row.row: row for row in item.settled}
        self._failures: list[FailedClip] = []
        self._committed: dict[int, _Committed] = {}
        self._kept: list[_Kept] = []
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
            batch.append((clip, frames.seen(flipped=clip.flipped)))
            if len(batch) == self._worker.batch:
                yield batch
                batch = []
        if batch:
            yield batch

    def fail(self, clip: Clip, reason: FailureReason, detail: str) -> None:
        """Record the clip's row as failed."""
        self._failures.append(FailedClip(clip_id=clip.clip_id, video=clip.video, reason=reason, detail=detail))
        self._failed[clip.row] = FailedRow(row=clip.row, reason=reason, detail=detail)
        self._committed.pop(clip.row, None)

    def teach(self, batch: Sequence[tuple[Clip, DecodedClip]]) -> None:
        """Teach and encode a batch of decoded clips, which may come from different videos."""
        batch, told = self._prepared(batch)
        if not batch:
            return
        frames = torch.from_numpy(np.stack([decoded.frames for _, decoded in batch]))
        student = [_of_student(decoded) for _, decoded in batch] if self._has_student else []
        clips = [(clip, decoded.decoder, decoded.clock) for clip, decoded in batch]
        self._kept.append(_Kept(clips, frames, list(map(_digest, student)), told))
        encodings = self._store.recipe.encodings
        taught: list[EncodedClip] = self._through(frames, told, lambda raw, bring: encode_batch(encodings, raw, bring))
        encoded_clips = taught or [EncodedClip() for _ in batch]
        for pictures, encoded in zip(student, encoded_clips, strict=True) if student else ():
            stored, figure = encoding("frames", encodings["frames"]).encode(SIGNALS["frames"], torch.tensor(pictures))
            encoded.arrays, encoded.errors = encoded.arrays | stored, encoded.errors | {"frames": figure}
        for (clip, decoded), encoded in zip(batch, encoded_clips, strict=True):
            arrays = self._accepted(clip, decoded, encoded)
            if arrays is not None:
                self._worker.encoded.acquire()
                try:
                    self._compressed[clip.row] = self._worker.compressors.submit(self._compress, arrays)
                except BaseException:
                    self._worker.encoded.release()
                    raise

    def _prepared(self, batch: Sequence[tuple[Clip, DecodedClip]]) -> tuple[Sequence[tuple[Clip, DecodedClip]], list[Any]]:
        """The clips of which the teacher can be told what it takes beside frames, and that. Records the others as failed."""
        told: list[Any] = []
        kept = []
        for clip, decoded in batch:
            try:
                told += self._worker.told_of(clip, decoded.clock) if self._taught else []
                kept.append((clip, decoded))
            except VideoError as error:
                self.fail(clip, cast("FailureReason", error.reason), error.detail)
        return kept, told

    def _through(
        self, frames: torch.Tensor, told: Sequence[Any], encode: Callable[[RawSignals, Bring], list[Result]]
    ) -> list[Result]:
        """What ``encode`` makes of each clip's raw signals; nothing if the unit has none of the teacher's."""
        if not self._taught:
            return []

        def timed(raw: RawSignals, bring: Bring) -> list[Result]:
            with self.clock.stage("encode", time.thread_time):
                return encode(raw, bring)

        results, seconds = self._worker.through(frames, self._taught, timed, told)
        self.clock.seconds["teach"] += seconds
        return results

    def _accepted(self, clip: Clip, decoded: DecodedClip, encoded: EncodedClip) -> Arrays | None:
        """The clip's arrays; None if it fails, non-finite or beyond its encoding's bound."""
        if encoded.nonfinite:
            self.fail(clip, "teacher_nonfinite", f"the teacher gave NaN or infinity in {encoded.nonfinite[0]}")
            return None
        for signal, error in encoded.errors.items():
            if not error.measured <= error.bound * (1 + 1e-6):  # written so that NaN counts as exceeding the bound
                name = self._store.recipe.encodings[cast("SignalName", signal)]
                found = f"{signal}: {error.measure} {error.measured:.4g} exceeds {error.bound:.4g} under {name}"
                self.fail(clip, "encoding_bound", found)  # encodings keep exactly what they can, so no other one would hold it
                return None
        exact = frozenset(signal for signal in encoded.errors if exact_array(signal) in encoded.arrays)
        tail = decoded.clock.undecodable_tail_frames
        self._committed[clip.row] = _Committed(decoded.decoder, tail, dict(encoded.errors), exact)
        return encoded.arrays | (_clock_values(decoded.clock) if "clock" in self._item.unit.parts else {})

    def _compress(self, arrays: Arrays) -> _Compressed:
        start = time.thread_time()
        try:
            chunks = {name: encode_chunks(values, self._arrays[name]) for name, values in arrays.items()}
        finally:
            self._worker.encoded.release()
        return _Compressed(chunks, time.thread_time() - start)

    def write(self) -> UnitCommitted:
        """Create the unit's shards. Returns what the log is to say of it."""
        per_shard = self._store.recipe.layout.clips_per_shard
        shard = self._item.unit.shard
        compressed = {row % per_shard: future.result() for row, future in self._compressed.items()}
        self.clock.seconds["encode"] += sum(clip.seconds for clip in compressed.values())
        objects: dict[str, StoredObject] = {}
        standing: dict[str, bytes] = {}
        differs = False
        for name, array in self._arrays.items():
            chunks = {slot: clip.chunks.pop(name) for slot, clip in compressed.items() if name in clip.chunks}
            if chunks:  # Zarr writes no object for a shard without chunks
                key, own = shard_key(array, shard), pack_clips(chunks, array, per_shard)
                with self.clock.stage("put"):
                    found = self._created(key, own)
                objects[key] = StoredObject(digest=sha256_digest(found), length=len(found))
                standing[name] = found
                differs = differs or found != own
        if differs:
            self._take_over(standing)
        self._kept.clear()
        return UnitCommitted(
            shard=shard,
            parts=self._item.unit.parts,
            rows=len(self._item.clips) + len(self._item.settled),
            failed=tuple(self._failed[row] for row in sorted(self._failed)),
            exact=self._rows_by(lambda row: sorted(row.exact)),
            objects=objects,
            figures=self._figures(),
            decoders=self._rows_by(lambda row: [row.decoder]),
            undecodable_tail_frames=self._rows_by(
                lambda row: [row.undecodable_tail_frames] * bool(row.undecodable_tail_frames)
            ),
        )

    def _created(self, key: str, own: bytes) -> bytes:
        """The bytes that stand at the key: this unit's, or those of another worker, or an earlier run, that did it before."""
        while not self._store.objects.create(key, own):
            found = self._store.objects.get(key)
            if found is not None:  # otherwise it was deleted in between
                return found
        return own

    def _take_over(self, standing: Mapping[str, bytes]) -> None:
        """Let the rows' outcomes be what the unit's objects hold, some of which another worker made; teaches them once more.

        Its bytes may differ from ours, since GPU arithmetic is not bit-reproducible. A row is committed if every array holds it
        within the drift that such arithmetic explains. Its figures are measured on what stands.
        """
        per_shard = self._store.recipe.layout.clips_per_shard
        chunks = {name: _chunks_in(data, self._arrays[name], per_shard) for name, data in standing.items()}
        for batch in self._kept:
            raw = self._through(batch.frames, batch.told, _by_clip) or [{}] * len(batch.clips)
            students: Sequence[bytes | None] = batch.student or [None] * len(batch.clips)
            for (clip, decoder, clock), values, student in zip(batch.clips, raw, students, strict=True):
                if clip.row in self._committed:
                    self._take_over_row(clip, decoder, clock, values, student, chunks)

    def _take_over_row(  # noqa: PLR0917
        self,
        clip: Clip,
        decoder: str,
        clock: FrameClock,
        raw: RawSignals,
        student: bytes | None,
        chunks: Mapping[str, Mapping[int, Sequence[Buffer]]],
    ) -> None:
        slot = clip.row % self._store.recipe.layout.clips_per_shard
        decoded = {name: self._decoded(name, chunks[name][slot]) for name in chunks if slot in chunks[name]}
        held = {name: values for name, values in decoded.items() if values is not None}
        errors: dict[str, ErrorFigure] = {}
        exact: set[str] = set()
        if "clock" in self._item.unit.parts:
            for name, own in _clock_values(clock).items():
                if name not in held or not np.array_equal(held[name], own):
                    return self._fail_row(clip, name)
        if student is not None:
            if "frames" not in held or _digest(held["frames"]) != student:
                return self._fail_row(clip, "frames")
            errors["frames"] = self._committed[clip.row].errors["frames"]  # none: they are equal
        for signal, values in raw.items():
            name = signal if signal in held else exact_array(signal)
            encoder = self._store.recipe.encodings[signal]
            figure = taken_over(signal, encoder, values, {name: held[name]}) if name in held else None
            if figure is None:
                return self._fail_row(clip, signal)
            errors[signal] = figure
            exact |= {signal} if name != signal else set()
        self._committed[clip.row] = _Committed(decoder, clock.undecodable_tail_frames, errors, frozenset(exact))
        return None

    def _fail_row(self, clip: Clip, array: str) -> None:
        detail = (
            f"the shard of {array} that an earlier attempt left does not hold this clip as it is taught now; "
            "the next run teaches it in a new row"
        )
        self.fail(clip, "missing_in_shard", detail)

    def _decoded(self, name: str, chunks: Sequence[Buffer]) -> np.ndarray[Any, Any] | None:
        values: np.ndarray[Any, Any] = clip_buffer(self._arrays[name], 1)[0]
        try:
            decode_chunks(chunks, self._arrays[name], values)
        except ValueError:
            return None
        return values

    def _rows_by(self, keys: Callable[[_Committed], list[Any]]) -> dict[Any, tuple[int, ...]]:
        found: defaultdict[Any, list[int]] = defaultdict(list)
        for row in sorted(self._committed):
            for key in keys(self._committed[row]):
                found[key].append(row)
        return {key: tuple(rows) for key, rows in sorted(found.items())}

    def _figures(self) -> tuple[ErrorFigures, ...]:
        found: defaultdict[tuple[SignalName, str, float], list[tuple[int, ErrorFigure]]] = defaultdict(list)
        for row in sorted(self._committed):
            for signal, error in self._committed[row].errors.items():
                found[cast("SignalName", signal), error.measure, error.bound].append((row, error))
        return tuple(
            ErrorFigures(
                signal=signal,
                measure=measure,
                bound=bound,
                rows=tuple(row for row, _ in errors),
                measured=tuple(_short(error.measured) for _, error in errors),
                relative_rms=tuple(_short(error.relative_rms) for _, error in errors),
            )
            for (signal, measure, bound), errors in sorted(found.items())
        )

    def report(self, written: UnitCommitted) -> UnitReport:
        """The unit's event for the engine's caller: counts, bytes and seconds."""
        return UnitReport(
            unit=self._item.unit.name,
            committed=written.rows - len(written.failed),
            failed=sum(row.reason != "superseded" for row in written.failed),
            bytes=sum(stored.length for stored in written.objects.values()),
            seconds=StageSeconds(**self.clock.seconds),
            failures=tuple(self._failures),
            written=written,
        )


def _by_clip(raw: RawSignals, _: Bring) -> list[RawSignals]:
    """Each clip's raw signals, where they are."""
    return [{signal: values[clip] for signal, values in raw.items()} for clip in range(len(next(iter(raw.values()))))]


def _of_student(decoded: DecodedClip) -> np.ndarray[Any, Any]:
    if decoded.student is None:
        raise CouldNotRun("the engine's decoders give no frames for the student; make them by `UnitWorker.decoder`")
    return decoded.student


def _digest(frames: np.ndarray[Any, Any]) -> bytes:
    return hashlib.blake2b(frames.tobytes(), digest_size=16).digest()


def _short(value: float) -> float:
    """Four significant digits: a log that ten million clips are in is read often."""
    return float(f"{value:.4g}")


def _chunks_in(shard: bytes, array: StoredArray, clips_per_shard: int) -> Mapping[int, Sequence[Buffer]]:
    try:
        return unpack_clips(shard, array, clips_per_shard)
    except StoreDamaged:
        return {}


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
