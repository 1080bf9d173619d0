"""Batches of clip ids in; their targets out, on the trainer's device, read ahead by threads of the trainer's own process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from schemas.errors import BadInput
from teacher_cache.reader.fetch import Reading
from teacher_cache.reader.sampler import ResumableBatchSampler
from teacher_cache.reader.selection import EVERYTHING, Selection
from teacher_cache.reader.stored import StoredBatch
from teacher_cache.store.chunk import Empty

Batch = dict[str, Any]
"""``clip_id``: the clips, in order; and each signal's tensor (clip, …), as a DataLoader over `CachedTargets` gives them."""

Then = Callable[[dict[str, torch.Tensor]], Batch]
"""What to make of a batch's tensors, on their device."""

_Begun = tuple[Reading[Any], Then] | Exception
"""A batch being read, or why it could not be begun."""

_VERSION, _POSITION = "store_version", "batches"


class Begins(Protocol):
    """A `Cache`, or several joined."""

    def begin_read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> Reading[dict[str, np.ndarray[Any, Any]]]: ...

    def begin_stored(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        empty: Empty | None = None,
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> Reading[StoredBatch]: ...


class Readable(Begins, Protocol):
    """The same, with what tells it from others."""

    @property
    def url(self) -> str: ...

    @property
    def version(self) -> Any: ...


class TargetStream:
    """Targets of batch after batch: an iterable over an epoch, as a DataLoader is. `Cache.stream` makes it. ::

        batches = cache.dataset(["f4d", "depth"], seed=0).batches(8, rank=rank, world_size=world_size)
        stream = cache.stream(["f4d", "depth"], batches, device="cuda")
        for batch in stream:  # an epoch, or what is left of one
            train(batch["f4d"], batch["depth"])  # of batch["clip_id"]; stream.state_dict() counts this batch

    Fetching, checking and decoding run in threads, which meanwhile do not hold Python's lock. For a GPU they fill pinned memory
    with what is stored, and a CUDA stream of its own copies it and decodes it there, while the batch before is trained on. No
    worker process is needed, and nothing is pickled or stacked.

    At most ``prefetch`` batches are being read, one more waits on the device, and one is being trained on.
    """

    def __init__(
        self,
        cache: Readable,
        signals: Sequence[str],
        batches: Iterable[Sequence[str]],
        device: torch.device,
        prefetch: int,
        *,
        selection: Selection = EVERYTHING,
    ) -> None:
        if prefetch < 1:
            raise BadInput(f"prefetch is {prefetch}; a stream reads at least 1 batch ahead")
        self._cache, self._signals, self._batches, self._prefetch = cache, tuple(signals), batches, prefetch
        self._reader, self._selection = reader_for(device), selection

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
        wanted = (Wanted(clip_ids, partial(_named, list(clip_ids))) for clip_ids in self._batches)
        ahead = ReadAhead(self._cache, self._signals, wanted, self._reader, self._prefetch, selection=self._selection)
        try:
            yield from ahead
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


def _named(clip_ids: list[str], targets: dict[str, torch.Tensor]) -> Batch:
    return {"clip_id": clip_ids, **targets}


class HostReader:
    """Targets as float32 on the CPU, decoded in the threads that fetch them."""

    def begin(self, cache: Begins, signals: Sequence[str], clip_ids: Sequence[str], selection: Selection) -> Reading[Any]:
        return cache.begin_read(signals, clip_ids, **selection)

    def place(self, values: Mapping[str, np.ndarray[Any, Any]], then: Then) -> Batch:
        return then({name: torch.from_numpy(value) for name, value in values.items()})

    def take(self, placed: Batch) -> Batch:
        return placed


class DeviceReader:
    """Targets as they are stored to the device, and decoded there, beside whatever the device does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._beside = torch.cuda.Stream(device) if self._is_cuda else None  # type: ignore[no-untyped-call]
        self._copied: deque[tuple[torch.cuda.Event, StoredBatch]] = deque()
        """Pinned batches whose copies may be under way; their memory is another batch's only after them."""

    def begin(self, cache: Begins, signals: Sequence[str], clip_ids: Sequence[str], selection: Selection) -> Reading[Any]:
        return cache.begin_stored(signals, clip_ids, _pinned if self._is_cuda else None, **selection)

    def place(self, stored: StoredBatch, then: Then) -> tuple[Batch, torch.cuda.Event | None]:
        """Launches the copies, the decoding and what follows it, and waits for none of them."""
        while self._copied and self._copied[0][0].query():  # type: ignore[no-untyped-call]
            self._copied.popleft()
        with torch.cuda.stream(self._beside) if self._beside is not None else nullcontext():
            batch = then(stored.decode(self._device))
            if self._beside is None:
                return batch, None
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._beside)
        self._copied.append((done, stored))
        return batch, done

    def take(self, placed: tuple[Batch, torch.cuda.Event | None]) -> Batch:
        """The batch for the trainer's own stream, which waits for it; the host does not."""
        batch, done = placed
        if done is not None:
            trains = torch.cuda.current_stream(self._device)
            trains.wait_event(done)
            for values in _tensors(batch):
                values.record_stream(trains)
        return batch


def reader_for(device: torch.device) -> HostReader | DeviceReader:
    """What brings targets to the device."""
    return HostReader() if device.type == "cpu" else DeviceReader(device)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor) and value.is_cuda:
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)


def _pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """As `numpy.empty`, of pinned memory, which torch lends and takes back."""
    values: np.ndarray[Any, Any] = torch.empty(shape, dtype=getattr(torch, dtype.name), pin_memory=True).numpy()
    return values


class Wanted(NamedTuple):
    """A batch to read."""

    clip_ids: Sequence[str]
    then: Then


class ReadAhead:
    """Reads batches ahead in a thread: an iterator of what each one's ``then`` makes of its tensors, in order.

    At most ``count`` batches are being read, or are whole and wait; one more is on the device. `close` it.
    """

    def __init__(
        self,
        cache: Begins,
        signals: Sequence[str],
        batches: Iterable[Wanted],
        reader: HostReader | DeviceReader,
        count: int,
        *,
        selection: Selection = EVERYTHING,
    ) -> None:
        self._cache, self._signals, self._batches, self._reader, self._count = cache, signals, batches, reader, count
        self._selection = selection
        self._ready: SimpleQueue[Any] = SimpleQueue()
        self._room = threading.Semaphore()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        found = self._ready.get()
        if isinstance(found, BaseException):
            self._ready.put(found)  # as every later one
            raise found
        self._room.release()
        return self._reader.take(found)

    def close(self) -> None:
        """Begin nothing more, and end the thread."""
        self._closed = True
        self._room.release()
        self._thread.join()

    def _run(self) -> None:
        under_way: deque[_Begun] = deque()
        try:
            for begun in self._begun():
                under_way.append(begun)
                if len(under_way) == self._count:
                    self._deliver(under_way.popleft())
                if self._closed:
                    return
            while under_way and not self._closed:
                self._deliver(under_way.popleft())
            self._ready.put(StopIteration())
        except BaseException as error:  # noqa: BLE001  # it is raised where the batches are taken
            self._ready.put(error)
        finally:
            for begun in under_way:
                if not isinstance(begun, Exception):
                    begun[0].cancel()

    def _begun(self) -> Iterator[_Begun]:
        try:
            for wanted in self._batches:
                yield self._reader.begin(self._cache, self._signals, wanted.clip_ids, self._selection), wanted.then
        except Exception as error:  # noqa: BLE001  # its turn comes after the batches before it
            yield error

    def _deliver(self, begun: _Begun) -> None:
        if isinstance(begun, Exception):
            raise begun
        reading, then = begun
        found = reading.result()
        self._room.acquire()
        self._ready.put(self._reader.place(found, then))
