"""The order of the samples: one stream, however many processes, forward passes and batches it is cut into."""

from __future__ import annotations

from itertools import islice

import pytest

from schemas.errors import BadInput
from student_train.training.batches import StepBatches
from student_train.training.ranks import Ranks


def stream(samples: int, batch: int, size: int, steps: int, *, skip: int = 0) -> list[int]:
    """The samples of some steps in the order of the steps, and in each in the order of the ranks."""
    all_ranks = [StepBatches(samples, batch, seed=3, ranks=Ranks(rank, size)) for rank in range(size)]
    for batches in all_ranks:
        for _ in range(skip):
            batches.advance()
    return [index for together in islice(zip(*all_ranks, strict=True), steps) for batch_ in together for index in batch_]


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    order = stream(7, batch=1, size=1, steps=21)
    epochs = [order[:7], order[7:14], order[14:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("batch", "size"), [(1, 2), (3, 1), (2, 3), (3, 4), (12, 1)])
def test_the_stream_is_the_same_however_it_is_cut(batch: int, size: int) -> None:
    steps = 24 // (batch * size)
    assert stream(7, batch, size, steps) == stream(7, 1, 1, 24)


def test_a_position_is_good_for_another_number_of_processes() -> None:
    before = StepBatches(7, 2, seed=3, ranks=Ranks(1, 3))
    before.advance()
    before.advance()
    after = StepBatches(7, 4, seed=3, ranks=Ranks())
    after.load_state_dict(before.state_dict())
    assert [i for batch in islice(after, 3) for i in batch] == stream(7, 1, 1, 24)[12:]


def test_reading_ahead_moves_no_position() -> None:
    batches = StepBatches(7, 2, seed=3, ranks=Ranks())
    list(islice(batches, 10))
    assert batches.state_dict()["position"] == 0


def test_the_state_of_other_samples_is_refused() -> None:
    state = StepBatches(7, 1, seed=3, ranks=Ranks()).state_dict()
    with pytest.raises(BadInput, match="other samples"):
        StepBatches(8, 1, seed=3, ranks=Ranks()).load_state_dict(state)
