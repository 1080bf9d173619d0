"""The number of samples and a seed go in; an endless stream of batches for this rank, and its resumable position, come out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from schemas.errors import CacheError
from student_train.data.workers import begin_worker
from student_train.training.ranks import Ranks
from teacher_cache import ResumableBatchSampler

Sample = TypeVar("Sample")


class StepBatches:
    """A ``batch_sampler`` over one stream of sample indices: the first epoch's order, then the second's, and so on.

    Each forward pass takes the next ``batch`` · ``ranks.size`` indices of the stream, and each rank its slice of them. The
    stream depends only on the seed and the number of samples. An optimizer step therefore has the same samples however they
    are split over ranks, batches and gradient accumulation, and one position tells all that was seen. No sample of an epoch
    is left out or seen twice; a batch may hold the end of one epoch and the beginning of the next.
    """

    def __init__(self, samples: int, batch: int, *, seed: int, ranks: Ranks) -> None:
        self.batch, self.ranks, self.seed = batch, ranks, seed
        self.consumed = ResumableBatchSampler(range(samples), 1, seed=seed)
        """Position of what was trained on. DataLoader workers read ahead of it."""

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
        """Count one batch of every rank as trained on."""
        for _ in range(self.batch * self.ranks.size):
            self.consumed.advance()

    def state_dict(self) -> dict[str, Any]:
        """Position in the data: the same on every rank, and valid for any other world size."""
        return self.consumed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position. Raises `BadInput` if it belongs to another number of samples or another seed."""
        self.consumed.load_state_dict(state)


class Loader(Generic[Sample]):
    """A DataLoader over `StepBatches` that counts each batch as trained on when it yields it.

    It has no length, so Trainer sees one endless epoch and cuts no optimizer step short.
    """

    def __init__(self, dataset: Dataset[Sample], batches: StepBatches, collator: Any, **options: Any) -> None:
        self.batches = batches
        # Its own generator, so that loading data does not advance the global random state that training uses.
        self.loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=ErrorsAsValues(collator),
            generator=torch.Generator(),
            worker_init_fn=begin_worker,
            **options,
        )

        self._reading: Generator[dict[str, Any], None, None] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._reading = self._read()
        return self._reading

    def close(self) -> None:
        """Stop the worker processes now; if left to the interpreter's exit, they end with a traceback."""
        if self._reading is not None:
            self._reading.close()

    def _read(self) -> Generator[dict[str, Any], None, None]:
        for batch in self.loader:
            if isinstance(batch, CacheError):
                raise batch
            self.batches.advance()
            yield batch


class ErrorsAsValues:
    """A collator that returns `CacheError` as a value: DataLoader would put a worker's whole traceback into the message."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[Any]) -> Any:
        try:
            return self.collator(samples)
        except CacheError as error:
            return error
