"""The samples' lengths and a seed go in; this rank's endless stream of batches, and its resumable position, come out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from schemas.errors import CacheError
from student_train.data.mixture import Epochs
from student_train.data.workers import begin_worker
from student_train.training.ranks import Ranks
from teacher_cache import ResumableBatchSampler
from teacher_cache.reader.stream import ReadAhead

Sample = TypeVar("Sample")


class StepBatches:
    """A ``batch_sampler`` over one stream of sample indices: the first epoch's order, then the second's, and so on.

    ``epochs`` says which samples each epoch has; without it, each has all of them once.

    Each optimizer step takes the next ``batch`` · ``accumulate`` · ``ranks.size`` indices of the stream, which depends only on
    the seed, the number of samples and the epochs. A step therefore has the same samples however they are split over ranks,
    batches and gradient accumulation, and one position tells all that was seen. Nothing of an epoch is left out or seen again;
    a step may hold the end of one epoch and the beginning of the next.

    Within a step, samples of like ``lengths`` share a forward pass, the longest first, so that little is padded and ranks
    seldom wait for each other. A step's losses are means over all its samples, so this changes nothing that is learnt, as
    batches of like lengths over many steps would.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch: int,
        *,
        seed: int,
        ranks: Ranks,
        accumulate: int = 1,
        epochs: Epochs | None = None,
    ) -> None:
        self.lengths, self.batch, self.ranks, self.seed, self.accumulate = lengths, batch, ranks, seed, accumulate
        self.epochs = epochs or Epochs([""] * len(lengths), {}, seed)
        self.consumed = ResumableBatchSampler(range(len(self.epochs)), 1, seed=seed)
        """Position of what was trained on. DataLoader workers read ahead of it."""

    def __iter__(self) -> Iterator[list[int]]:
        stream = self._stream()
        mine = slice(self.ranks.rank * self.batch, (self.ranks.rank + 1) * self.batch)
        together = self.batch * self.ranks.size
        while True:
            step = sorted(islice(stream, together * self.accumulate), key=lambda index: -self.lengths[index])
            for start in range(0, len(step), together):
                yield step[start : start + together][mine]

    def _stream(self) -> Iterator[int]:
        ahead = ResumableBatchSampler(self.consumed.keys, 1, seed=self.seed)
        ahead.load_state_dict(self.consumed.state_dict())
        while True:
            drawn = self.epochs.of(ahead.epoch)
            for (place,) in ahead:
                ahead.advance()
                yield int(drawn[place])

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
    """A DataLoader over `StepBatches`, and what is read beside it; counts each batch as trained on when it yields it.

    Targets are read by threads of this process: a worker's would be copied to it, at what the read itself costs. So
    ``collator`` makes the rest of a batch, in worker processes if there are any, and ``ahead`` begins to read the targets of
    batch after batch of samples; it is closed with the loader.

    It has no length, so Trainer sees one endless epoch and cuts no optimizer step short.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        batches: StepBatches,
        collator: Any,
        ahead: Callable[[Iterable[list[Sample]]], ReadAhead],
        **options: Any,
    ) -> None:
        self.batches, self._dataset, self._ahead = batches, dataset, ahead
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
        targets = self._ahead([self._dataset[index] for index in indices] for indices in self.batches)
        try:
            for batch in self.loader:
                if isinstance(batch, CacheError):
                    raise batch
                whole = {**batch, **next(targets)}
                self.batches.advance()
                yield whole
        finally:
            targets.close()


class ErrorsAsValues:
    """A collator that returns `CacheError` as a value: DataLoader would put a worker's whole traceback into the message."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[Any]) -> Any:
        try:
            return self.collator(samples)
        except CacheError as error:
            return error
