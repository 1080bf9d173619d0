"""A trainer's stream: what is read, in the sampler's order; where it resumes; how far it reads ahead; where its errors come."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import BadInput, SignalMissing, UnknownClip
from teacher_cache import Cache, ResumableBatchSampler, open_cache
from teacher_cache.reader.in_flight import FEWEST, MOST, InFlight
from teacher_cache.reader.sampler import epoch_order
from teacher_cache.reader.stream import DeviceReader, TargetStream

NAMES = ["f4d", "flow", "timestamps"]


@pytest.fixture(scope="module")
def cache(tiny_store: Path) -> Cache:
    return open_cache(str(tiny_store))


def streams() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "stream"]


@pytest.mark.parametrize("decoded", ["by threads", "on the device"])
def test_a_stream_gives_what_is_read_in_the_order_of_its_batches(cache: Cache, decoded: str) -> None:
    batches = cache.dataset(NAMES, seed=1).batches(3, tail="short")
    stream = cache.stream(NAMES, batches)
    if decoded == "on the device":
        stream._reader = DeviceReader(torch.device("cpu"))  # as for a GPU, but for pinned memory and the stream beside
    assert len(stream) == len(batches) == 2
    for epoch in range(2):
        ids = []
        for batch in stream:
            assert list(batch) == ["clip_id", *NAMES]
            read = cache.read(NAMES, batch["clip_id"])
            for name, values in read.items():
                torch.testing.assert_close(batch[name], torch.from_numpy(values), rtol=1e-6, atol=0)
            ids += batch["clip_id"]
        assert ids == [cache.committed_ids()[i] for i in epoch_order(4, 1, epoch)]
        assert (batches.epoch, batches.position) == (epoch + 1, 0)
    assert not streams()


def test_a_stream_resumes_in_another_world(cache: Cache) -> None:
    ids = [cache.committed_ids()[i] for i in epoch_order(4, 0, 0)]
    first = cache.stream(["camray"], cache.dataset(["camray"]).batches(1))
    for batch in first:
        assert batch["clip_id"] == ids[:1]
        break
    assert not streams()  # a loop that is left ends the thread
    state = first.state_dict()
    assert state["store_version"] == cache.version
    assert [batch["clip_id"][0] for batch in first] == ids[1:]  # and the same stream goes on
    seen = []
    for rank in range(3):
        stream = cache.stream(["camray"], cache.dataset(["camray"]).batches(1, rank=rank, world_size=3))
        stream.load_state_dict(state)
        seen += [clip_id for batch in stream for clip_id in batch["clip_id"]]
        assert stream.state_dict() == first.state_dict()
    assert seen == ids[1:]


def test_an_error_comes_at_its_batch_and_the_stream_can_be_read_again(cache: Cache) -> None:
    stream = cache.stream(["camray"], [["scene-0.mp4"], ["scene-1.mp4"], ["scene-9.mp4"], ["scene-2.mp4"]], prefetch=3)
    for _ in range(2):
        seen = []
        with pytest.raises(UnknownClip, match=r"no clip 'scene-9.mp4'"):
            seen.extend(batch["clip_id"] for batch in stream)
        assert seen == [["scene-0.mp4"], ["scene-1.mp4"]]
    lost = cache.stream(["camray"], ResumableBatchSampler(["scene-9.mp4", "scene-8.mp4"], 1, seed=None))
    for _ in range(2):
        with pytest.raises(UnknownClip):
            next(iter(lost))
    assert lost.state_dict()["batches"]["position"] == 0


class Counting:
    """A cache that counts the reads begun."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.begun = cache, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def begin_read(self, signals: Sequence[str], clip_ids: Sequence[str], **some: Any) -> Any:
        self.begun += 1
        return self.cache.begin_read(signals, clip_ids, **some)


def test_no_more_is_read_ahead_than_was_said(cache: Cache) -> None:
    counting = Counting(cache)

    def endless() -> Iterator[list[str]]:
        while True:
            yield ["scene-0.mp4"]

    batches = iter(TargetStream(counting, ["camray"], endless(), torch.device("cpu"), 3))
    for taken in range(1, 4):
        next(batches)
        until = time.monotonic() + 20
        while counting.begun < taken + 4 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        assert counting.begun == taken + 4  # three under way, of which one is whole and waits, and one in the queue
    batches.close()  # type: ignore[attr-defined]
    assert not streams()


def test_what_a_stream_cannot_do_is_told(cache: Cache) -> None:
    with pytest.raises(SignalMissing):
        cache.stream(["sound"], [])
    with pytest.raises(BadInput, match="at least 1 batch ahead"):
        cache.stream(["camray"], [], prefetch=0)
    plain = cache.stream(["camray"], [["scene-0.mp4"]])
    with pytest.raises(BadInput, match="a stream over a list has no position"):
        plain.state_dict()
    stream = cache.stream(["camray"], cache.dataset(["camray"]).batches(1))
    with pytest.raises(BadInput, match="not a stream's state: it has position"):
        stream.load_state_dict({"position": 3})
    state = stream.state_dict()
    with pytest.raises(BadInput, match=rf"version 1 of .* at version {cache.version}; open it with version=1"):
        stream.load_state_dict(state | {"store_version": 1})
    with pytest.raises(BadInput, match="in_flight is 0"):
        open_cache(cache.url, in_flight=0)


def test_more_is_in_flight_where_the_server_is_far() -> None:
    near, far, fixed = InFlight(), InFlight(), InFlight(3)
    assert (near.count, fixed.count) == (FEWEST, 3)
    near.timed(lambda: None)
    far.timed(lambda: time.sleep(0.03))
    assert near.count == FEWEST
    assert 48 <= far.count <= MOST
    most, running, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    for done in [fixed.submit(work) for _ in range(20)]:
        done.result()
    assert most == 3
