"""The order of the samples: one stream, however many processes, forward passes and batches it is cut into."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice, pairwise

import pytest
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from schemas.errors import BadInput
from student_train.training.batches import StepBatches
from student_train.training.ranks import Ranks

LENGTHS = (5, 9, 2, 7, 7, 1, 3)


def steps_of(batch: int, size: int, accumulate: int, steps: int) -> list[list[list[int]]]:
    """For each optimizer step, each of its forward passes, with the samples of all ranks."""
    ranks = [StepBatches(LENGTHS, batch, seed=3, ranks=Ranks(rank, size), accumulate=accumulate) for rank in range(size)]
    passes = [[i for mine in together for i in mine] for together in islice(zip(*ranks, strict=True), steps * accumulate)]
    return [passes[start : start + accumulate] for start in range(0, len(passes), accumulate)]


def stream(count: int) -> list[int]:
    return [i for ((i,),) in steps_of(1, 1, 1, count)]


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    order = stream(21)
    epochs = [order[:7], order[7:14], order[14:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("batch", "size", "accumulate"), [(1, 2, 1), (3, 1, 2), (2, 3, 1), (1, 3, 4), (12, 1, 1), (2, 2, 3)])
def test_a_step_has_the_same_samples_however_it_is_cut(batch: int, size: int, accumulate: int) -> None:
    each, order = batch * size * accumulate, stream(24)
    for number, step in enumerate(steps_of(batch, size, accumulate, 24 // each)):
        assert sorted(i for together in step for i in together) == sorted(order[number * each : (number + 1) * each])
        lengths = [[LENGTHS[i] for i in together] for together in step]
        assert all(min(longer) >= max(shorter) for longer, shorter in pairwise(lengths))


def test_a_position_is_good_for_another_number_of_processes() -> None:
    before = StepBatches(LENGTHS, 2, seed=3, ranks=Ranks(1, 3))
    before.advance()
    before.advance()
    after = StepBatches(LENGTHS, 4, seed=3, ranks=Ranks(), accumulate=3)
    after.load_state_dict(before.state_dict())
    assert sorted(i for batch in islice(after, 3) for i in batch) == sorted(stream(24)[12:])


def test_reading_ahead_moves_no_position() -> None:
    batches = StepBatches(LENGTHS, 2, seed=3, ranks=Ranks())
    list(islice(batches, 10))
    assert batches.state_dict()["position"] == 0


def test_the_state_of_other_samples_is_refused() -> None:
    state = StepBatches([1] * 7, 1, seed=3, ranks=Ranks()).state_dict()
    with pytest.raises(BadInput, match="other samples"):
        StepBatches([1] * 8, 1, seed=3, ranks=Ranks()).load_state_dict(state)


def padding(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the tokens that are padding."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded


def test_at_a_mix_like_the_papers_little_is_padded() -> None:
    """Of the paper's conversations 45% are about an image, 55% about a video of 16 frames; 448 pixels make 122 tokens."""
    rng = random.Random(0)
    count, batch, ranks, accumulate = 2**14, 4, 8, 2
    lengths = [122 * (1 if rng.random() < 0.45 else 16) + rng.randint(60, 400) for _ in range(count)]

    def of_steps(accumulate: int, size: int) -> float:
        every = [StepBatches(lengths, batch, seed=0, ranks=Ranks(rank, size), accumulate=accumulate) for rank in range(size)]
        return padding(lengths, [b for each in every for b in islice(each, count // (batch * size))])

    order = list(LengthGroupedSampler(batch, lengths=lengths, generator=torch.Generator().manual_seed(0)))
    transformers = padding(lengths, [order[i : i + batch] for i in range(0, count, batch)])
    assert of_steps(1, 1) == pytest.approx(0.37, abs=0.01)  # one pass a step: nothing to sort
    assert of_steps(accumulate, ranks) < 0.06
    assert of_steps(8, ranks) < 0.01  # a quarter of the paper's step
    assert transformers < 0.02  # less, but its steps are all of images or all of videos
