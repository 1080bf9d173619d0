"""Whatever the world was before and is after a cut, an epoch's samples are seen once each, in the epoch's order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from schemas.errors import BadInput, CouldNotRun
from teacher_cache import open_cache
from teacher_cache.reader.sampler import ResumableBatchSampler, Tail, epoch_order

worlds = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))  # ranks, samples in a batch, workers


class ReadsAhead:
    """A loader as DataLoader with workers is one: it draws two batches for each worker before it gives the first."""

    def __init__(self, batches: Iterable[list[int]], workers: int) -> None:
        self.batches, self.depth = batches, 2 * workers

    def __iter__(self) -> Iterator[list[int]]:
        ahead: deque[list[int]] = deque()
        for batch in self.batches:
            ahead.append(batch)
            if len(ahead) > self.depth:
                yield ahead.popleft()
        yield from ahead


def train(
    count: int, seed: int | None, world: tuple[int, int, int], tail: Tail, *, state: dict[str, Any] | None, steps: int | None
) -> tuple[list[int], dict[str, Any]]:
    """The samples that all ranks see in some steps, or to the epoch's end, in the order of the steps; and the state then."""
    ranks, batch_size, workers = world
    samplers = [
        ResumableBatchSampler(range(count), batch_size, seed=seed, rank=r, world_size=ranks, tail=tail) for r in range(ranks)
    ]
    seen: list[list[list[int]]] = []  # rank, step
    for sampler in samplers:
        if state is not None:
            sampler.load_state_dict(state)
        mine: list[list[int]] = []
        if steps != 0:
            for batch in sampler.track(ReadsAhead(sampler, workers)):
                mine.append(batch)
                if len(mine) == steps:
                    break
        seen.append(mine)
    states = [sampler.state_dict() for sampler in samplers]
    assert all(state == states[0] for state in states)
    longest = max(map(len, seen))
    return [key for step in range(longest) for mine in seen if step < len(mine) for key in mine[step]], states[0]


@given(
    count=st.integers(20, 60), seed=st.none() | st.integers(0, 99), epoch=st.integers(0, 3), last=worlds,
    cuts=st.lists(st.tuples(worlds, st.integers(0, 4)), max_size=3),
)  # fmt: skip
def test_runs_that_were_cut_see_the_epoch_s_order_exactly(
    count: int, seed: int | None, epoch: int, last: tuple[int, int, int], cuts: list[tuple[tuple[int, int, int], int]]
) -> None:
    state: dict[str, Any] = ResumableBatchSampler(range(count), 1, seed=seed).state_dict() | {"epoch": epoch}
    seen: list[int] = []
    for world, steps in cuts:
        if state["epoch"] == epoch:
            some, state = train(count, seed, world, "short", state=state, steps=steps)
            seen += some
    if state["epoch"] == epoch:
        some, state = train(count, seed, last, "short", state=state, steps=None)
        seen += some
    assert seen == epoch_order(count, seed, epoch).tolist()
    assert (state["epoch"], state["position"]) == (epoch + 1, 0)
    following, _ = train(count, seed, last, "short", state=state, steps=None)
    assert following == epoch_order(count, seed, epoch + 1).tolist()


@given(count=st.integers(20, 60), world=worlds)
def test_a_loop_that_counts_by_itself_sees_each_epoch_whole(count: int, world: tuple[int, int, int]) -> None:
    ranks, batch_size, workers = world
    samplers = [ResumableBatchSampler(range(count), batch_size, rank=r, world_size=ranks, tail="short") for r in range(ranks)]
    for epoch in range(3):
        seen = []
        for sampler in samplers:
            for batch in ReadsAhead(sampler, workers):
                sampler.advance()
                seen += batch
        assert sorted(seen) == list(range(count))
        assert samplers[0].epoch == epoch + 1


@given(count=st.integers(20, 60), first=worlds, second=worlds, steps=st.integers(0, 3))
def test_a_tail_is_dropped_or_padded_as_chosen(
    count: int, first: tuple[int, int, int], second: tuple[int, int, int], steps: int
) -> None:
    order = epoch_order(count, 7, 0).tolist()
    for tail in ("drop", "pad"):
        seen, state = train(count, 7, first, tail, state=None, steps=steps)
        left = count - len(seen)
        step = second[0] * second[1]
        if state["epoch"] == 0 and (tail == "pad" or left >= step):
            after, state = train(count, 7, second, tail, state=state, steps=None)
            assert state["epoch"] == 1
            assert len(after) == (left - left % step if tail == "drop" else left + -left % step)
            seen += after
        assert seen[:count] == order[: len(seen)]
        assert max(Counter(seen).values()) <= 2


def test_ranks_share_every_step_and_have_as_many_batches() -> None:
    samplers = [ResumableBatchSampler(range(100), 8, rank=r, world_size=3) for r in range(3)]
    assert [len(s) for s in samplers] == [4, 4, 4]
    batches = [list(s) for s in samplers]
    assert {len(batch) for mine in batches for batch in mine} == {8}
    assert len({key for mine in batches for batch in mine for key in batch}) == 96


def test_an_order_is_the_same_on_every_machine_and_for_ever() -> None:
    assert epoch_order(8, 0, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize("tail", ["drop", "pad", "short"])
def test_an_epoch_s_length_stays_what_it_is_while_it_is_read(tail: Tail) -> None:
    batches = ResumableBatchSampler(range(11), 2, world_size=2, rank=1, tail=tail)
    whole = len(batches)
    for count, _ in enumerate(batches.track(batches), 1):
        assert len(batches) == whole
        assert count == whole or batches.left == whole - count
    assert count == whole
    batches.load_state_dict({**batches.state_dict(), "epoch": 1, "position": 4})
    assert (len(batches), batches.left) == (whole, whole - 1)


def test_epochs_follow_each_other_without_being_set() -> None:
    batches = ResumableBatchSampler(range(10), 5)
    seen = []
    while batches.epoch < 3:
        seen.append([key for batch in batches.track(batches) for key in batch])
    assert seen == [epoch_order(10, 0, epoch).tolist() for epoch in range(3)]
    for before, after in pairwise(seen):
        assert before != after


def test_a_loop_may_set_epochs_itself_and_setting_where_it_stands_keeps_the_place() -> None:
    batches = ResumableBatchSampler(range(12), 3)
    for epoch in range(3):
        batches.set_epoch(epoch)
        assert [key for batch in batches for key in batch] == epoch_order(12, 0, epoch).tolist()
    batches.advance()
    batches.set_epoch(2)
    assert [key for batch in batches for key in batch] == epoch_order(12, 0, 2)[3:].tolist()


def test_an_epoch_that_would_repeat_itself_is_refused() -> None:
    batches = ResumableBatchSampler(range(12), 3)
    list(batches)
    with pytest.raises(CouldNotRun, match=r"epoch 0 was iterated to its end.*track\(loader\)"):
        list(batches)


def test_a_state_of_other_samples_or_another_seed_is_refused() -> None:
    state = ResumableBatchSampler(["a", "b", "c"], 1).state_dict()
    with pytest.raises(BadInput, match="is for other samples"):
        ResumableBatchSampler(["a", "c", "b"], 1).load_state_dict(state)
    with pytest.raises(BadInput, match="is for seed 0, and the seed here is 4"):
        ResumableBatchSampler(["a", "b", "c"], 1, seed=4).load_state_dict(state)
    with pytest.raises(BadInput, match="not a sampler's state: position"):
        ResumableBatchSampler(["a", "b", "c"], 1).load_state_dict({**state, "position": -1})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size": 0}, "at least 1 sample"), ({"batch_size": 1, "rank": 2, "world_size": 2}, "ranks count from 0"),
        ({"batch_size": 1, "seed": -1}, "not negative"), ({"batch_size": 3, "world_size": 4}, "needs 12"),
        ({"batch_size": 1, "world_size": 11, "tail": "short"}, "needs 11"), ({"batch_size": 1, "tail": "long"}, "drop, pad"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ResumableBatchSampler(range(10), **wrong)


def test_a_loader_with_workers_resumes_in_another_world(tiny_store: Path) -> None:
    dataset = open_cache(str(tiny_store)).dataset(["camray"], seed=3)
    orders = [[dataset.clip_ids[i] for i in epoch_order(4, 3, epoch)] for epoch in range(2)]
    batches = dataset.batches(1)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    tracked = batches.track(loader)
    batch = next(tracked)
    assert torch.equal(batch["camray"][0], dataset[orders[0][0]]["camray"])
    state = batches.state_dict()
    assert state["position"] == 1  # the worker has read further by now
    assert batch["clip_id"] + [clip_id for later in tracked for clip_id in later["clip_id"]] == orders[0]
    assert [clip_id for later in batches.track(loader) for clip_id in later["clip_id"]] == orders[1]
    seen = []
    for rank in range(3):
        batches = dataset.batches(1, rank=rank, world_size=3)
        batches.load_state_dict(state)
        for batch in batches.track(DataLoader(dataset, batch_sampler=batches)):
            seen += batch["clip_id"]
        assert (batches.epoch, batches.position) == (1, 0)
    assert seen == orders[0][1:]
