"""Batches of clip ids in; their targets out, on the trainer's device, read ahead by threads of the trainer's own process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from queue import Queue
from typing import Any, Protocol

import numpy as np
import torch

from schemas.errors import BadInput
from teacher_cache.reader.fetch import Reading
from teacher_cache.reader.sampler import ResumableBatchSampler
from teacher_cache.reader.stored import StoredBatch
from teacher_cache.store.chunk import Empty

Batch = dict[str, Any]
"""``clip_id``: the clips, in order; and each signal's tensor (clip, …), as a DataLoader over `CachedTargets` gives them."""

_Begun = tuple[Sequence[str], Reading[Any]] | Exception
"""A batch being read, or why it could not be begun."""

_VERSION, _POSITION = "store_version", "batches"


class Readable(Protocol):
    """A `Cache`, or several joined."""

    @property
    def url(self) -> str: ...

    @property
    def version(self) -> Any: ...

    def begin_read(self, signals: Sequence[str], clip_ids: Sequence[str]) -> Reading[dict[str, np.ndarray[Any, Any]]]: ...

    def begin_stored(
        self, signals: Sequence[str], clip_ids: Sequence[str], empty: Empty | None = None
    ) -> Reading[StoredBatch]: ...


class TargetStream:
    """Targets of batch after batch: an iterable over an epoch, as a DataLoader is. `Cache.stream` makes it. ::

        batches = cache.dataset(["f4d", "depth"], seed=0).batches(8, rank=rank, world_size=world_size)
        stream = cache.stream(["f4d", "depth"], batches, device="cuda")
        for batch in stream:  # an epoch, or what is left of one
            train(batch["f4d"], batch["depth"])  # of batch["clip_id"]; stream.state_dict() counts this batch

    Fetching, checking and decoding run in threads, which meanwhile do not hold Python's lock. For a GPU they fill pinned memory
    with what is stored, and a CUDA stream of its own copies it and decodes it there, while the batch before is trained on. No
    worker process is needed, and nothing is pickled or stacked.

    At most ``prefetch`` batches are being read, one more waits, and one is being trained on.
    """

    def __init__(
        self, cache: Readable, signals: Sequence[str], batches: Iterable[Sequence[str]], device: torch.device, prefetch: int
    ) -> None:
        if prefetch < 1:
            raise BadInput(f"prefetch is {prefetch}; a stream reads at least 1 batch ahead")
        self._cache, self._signals, self._batches, self._prefetch = cache, tuple(signals), batches, prefetch
        self._reader: HostReader | DeviceReader = HostReader() if device.type == "cpu" else DeviceReader(device)

    def __len__(self) -> int:
        """This rank's batches of a whole epoch. Raises `TypeError` for batches without a length."""
        return len(self._batches)  # type: ignore[arg-type]  # TypeError, as of any iterable without one

    def __iter__(self) -> Iterator[Batch]:
        """The batches; of a `ResumableBatchSampler`, from its position on, and each counts as consumed when it is yielded.

        Raises what `Cache.read` raises, at the batch that it is about.
        """
        if not isinstance(self._batches, ResumableBatchSampler):
            return self._read()
        return self._batches.track(self._read())

    def _read(self) -> Iterator[Batch]:
        begin = self._reader.begin
        ahead = _Ahead(self._batches, lambda ids: begin(self._cache, self._signals, ids), self._reader.place, self._prefetch)
        try:
            for clip_ids, placed in ahead:
                yield {"clip_id": list(clip_ids), **self._reader.take(placed)}
        finally:
            ahead.close()
            if isinstance(self._batches, ResumableBatchSampler):
                self._batches.set_epoch(self._batches.epoch)  # what was read ahead is not handed out

    def state_dict(self) -> dict[str, Any]:
        """The position in the data and the version of the store: equal on all ranks, and valid for any number of them."""
        return {_VERSION: self._cache.version, _POSITION: self._sampler().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`. Raises `BadInput` if it is of another version of the store, other clips or seed."""
        if set(state) != {_VERSION, _POSITION}:
            raise BadInput(f"this is not a stream's state: it has {', '.join(map(str, state)) or 'nothing'}")
        if state[_VERSION] != self._cache.version:
            raise BadInput(
                f"the state is of version {state[_VERSION]} of {self._cache.url}, which is open at version "
                f"{self._cache.version}; open it with version={state[_VERSION]}"
            )
        self._sampler().load_state_dict(state[_POSITION])

    def _sampler(self) -> ResumableBatchSampler[str]:
        if isinstance(self._batches, ResumableBatchSampler):
            return self._batches
        raise BadInput(
            f"a stream over a {type(self._batches).__name__} has no position; give it a ResumableBatchSampler, such as "
            "cache.dataset(signals).batches(8)"
        )


class HostReader:
    """Targets as float32 on the CPU, decoded in the threads that fetch them."""

    def begin(self, cache: Readable, signals: Sequence[str], clip_ids: Sequence[str]) -> Reading[Any]:
        return cache.begin_read(signals, clip_ids)

    def place(self, values: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(value) for name, value in values.items()}

    def take(self, placed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return placed


class DeviceReader:
    """Targets as they are stored to the device, and decoded there, beside whatever the device does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._beside = torch.cuda.Stream(device) if self._is_cuda else None  # type: ignore[no-untyped-call]
        self._copied: deque[tuple[torch.cuda.Event, StoredBatch]] = deque()
        """Pinned batches whose copies may be under way; their memory is another batch's only after them."""

    def begin(self, cache: Readable, signals: Sequence[str], clip_ids: Sequence[str]) -> Reading[Any]:
        return cache.begin_stored(signals, clip_ids, _pinned if self._is_cuda else None)

    def place(self, stored: StoredBatch) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
        """Launches the copies and the decoding, and waits for neither."""
        while self._copied and self._copied[0][0].query():  # type: ignore[no-untyped-call]
            self._copied.popleft()
        with torch.cuda.stream(self._beside) if self._beside is not None else nullcontext():
            decoded = stored.decode(self._device)
            if self._beside is None:
                return decoded, None
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._beside)
        self._copied.append((done, stored))
        return decoded, done

    def take(self, placed: tuple[dict[str, torch.Tensor], torch.cuda.Event | None]) -> dict[str, torch.Tensor]:
        """The tensors for the trainer's own stream, which waits for them; the host does not."""
        decoded, done = placed
        if done is not None:
            trains = torch.cuda.current_stream(self._device)
            trains.wait_event(done)
            for values in decoded.values():
                values.record_stream(trains)
        return decoded


def _pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """As `numpy.empty`, of pinned memory, which torch lends and takes back."""
    values: np.ndarray[Any, Any] = torch.empty(shape, dtype=getattr(torch, dtype.name), pin_memory=True).numpy()
    return values


class _Ahead:
    """Reads batches ahead in a thread: an iterator of (clip ids, what ``place`` made of them), in order."""

    def __init__(
        self,
        batches: Iterable[Sequence[str]],
        begin: Callable[[Sequence[str]], Reading[Any]],
        place: Callable[[Any], Any],
        count: int,
    ) -> None:
        self._batches, self._begin, self._place, self._count = batches, begin, place, count
        self._ready: Queue[tuple[Sequence[str], Any] | BaseException | None] = Queue(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Sequence[str], Any]]:
        while (found := self._ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found

    def close(self) -> None:
        """Begin nothing more, and end the thread."""
        self._closed.set()
        while self._thread.is_alive():
            if not self._ready.empty():
                self._ready.get()  # it may be waiting for room
            self._thread.join(0.01)

    def _run(self) -> None:
        under_way: deque[_Begun] = deque()
        try:
            for begun in self._begun():
                under_way.append(begun)
                if len(under_way) == self._count:
                    self._deliver(under_way.popleft())
                if self._closed.is_set():
                    return
            while under_way and not self._closed.is_set():
                self._deliver(under_way.popleft())
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001  # it is raised where the batches are taken
            self._ready.put(error)
        finally:
            for begun in under_way:
                if isinstance(begun, tuple):
                    begun[1].cancel()

    def _begun(self) -> Iterator[_Begun]:
        try:
            for clip_ids in self._batches:
                yield clip_ids, self._begin(clip_ids)
        except Exception as error:  # noqa: BLE001  # its turn comes after the batches before it
            yield error

    def _deliver(self, begun: _Begun) -> None:
        if isinstance(begun, Exception):
            raise begun
        clip_ids, reading = begun
        self._ready.put((clip_ids, self._place(reading.result())))
