"""How many samples there are and the seed in; the batches of one process out, without end, and where all stand in the data."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from schemas.errors import CacheError
from student_train.training.ranks import Ranks
from teacher_cache import ResumableBatchSampler

Sample = TypeVar("Sample")


class StepBatches:
    """A ``batch_sampler`` over one stream of samples: the first epoch's order, then the second's, and so on.

    Each forward pass takes the next ``batch`` · ``ranks.size`` samples of the stream, and each process its slice of them.
    The stream is a function of the seed and the number of samples alone, so that however many processes, forward passes
    and samples in a batch make a step, equal steps have equal samples, and a position says all that was seen. No sample of
    an epoch is left out or seen twice; a batch may have the end of one epoch and the beginning of the next.
    """

    def __init__(self, samples: int, batch: int, *, seed: int, ranks: Ranks) -> None:
        self.batch, self.ranks, self.seed = batch, ranks, seed
        self.consumed = ResumableBatchSampler(range(samples), 1, seed=seed)
        """What was trained on. Workers read ahead of it."""

    def __iter__(self) -> Iterator[list[int]]:
        stream = self._stream()
        mine = slice(self.ranks.rank * self.batch, (self.ranks.rank + 1) * self.batch)
        while True:
            yield list(islice(stream, self.batch * self.ranks.size))[mine]

    def _stream(self) -> Iterator[int]:
        ahead = ResumableBatchSampler(self.consumed.keys, 1, seed=self.seed)
        ahead.load_state_dict(self.consumed.state_dict())
        while True:
            for (index,) in ahead:
                ahead.advance()
                yield index

    def advance(self) -> None:
        """Count one batch of every process as trained on."""
        for _ in range(self.batch * self.ranks.size):
            self.consumed.advance()

    def state_dict(self) -> dict[str, Any]:
        """Where training stands in its data: the same in every process, and good for any other number of them."""
        return self.consumed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises `BadInput` where the state is of another number of samples or another seed."""
        self.consumed.load_state_dict(state)


class Loader(Generic[Sample]):
    """The collated batches of `StepBatches`, each counted as trained on when it is handed over.

    It has no length, so that Trainer sees one epoch without end and cuts no optimizer step short.
    """

    def __init__(self, dataset: Dataset[Sample], batches: StepBatches, collator: Any, **options: Any) -> None:
        self.batches = batches
        # With a generator of its own, reading draws nothing from the random state that training draws from.
        self.loader = DataLoader(
            dataset, batch_sampler=batches, collate_fn=ErrorsAsValues(collator), generator=torch.Generator(), **options
        )

        self._reading: Generator[dict[str, Any], None, None] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._reading = self._read()
        return self._reading

    def close(self) -> None:
        """End the processes that read ahead now, and not with the interpreter, which tells of them with a traceback."""
        if self._reading is not None:
            self._reading.close()

    def _read(self) -> Generator[dict[str, Any], None, None]:
        for batch in self.loader:
            if isinstance(batch, CacheError):
                raise batch
            self.batches.advance()
            yield batch


class ErrorsAsValues:
    """A collator's errors as its result: raised in a worker process, they would come back with its traceback for a message."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[Any]) -> Any:
        try:
            return self.collator(samples)
        except CacheError as error:
            return error
