"""Keys and a seed in; each rank's batches out, with a position that a checkpoint can store. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from schemas.base import Frozen, canonical_json
from schemas.errors import BadInput, CouldNotRun

Key = TypeVar("Key", bound=Hashable)
Batch = TypeVar("Batch")
Tail = Literal["drop", "pad", "short"]

_AT_ONCE = 2**16  # keys hashed at once: millions of ids in one JSON text would take gigabytes


def epoch_order(count: int, seed: int | None, epoch: int) -> npt.NDArray[np.intp]:
    """A permutation of 0 … count - 1, determined by the arguments alone; the identity if ``seed`` is None.

    It sorts the raw output of PCG64, which NumPy guarantees to be stable; `Generator.permutation` may change with a release.
    """
    if seed is None:
        return np.arange(count)
    raw = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(count)
    return np.argsort(raw, kind="stable")


class SamplerState(Frozen):
    """How far training has read its data. Equal on every rank, and valid for any other number of ranks and workers."""

    seed: int | None
    epoch: int = Field(ge=0)
    position: int = Field(ge=0)
    """Samples of the epoch's order that all ranks together have consumed."""
    fingerprint: str
    """Digest of the keys, in order."""


class ResumableBatchSampler(Generic[Key]):
    """One rank's batches of keys: a ``batch_sampler`` for torch's DataLoader. Resumes exactly, even with another world size.

    Seed, epoch and keys alone determine an epoch's order. Each step takes its next ``world_size`` · ``batch_size`` samples
    and gives each rank a slice. So one position, in samples, states what was consumed, and training can resume from it with
    another number of ranks, workers or samples per batch without repeating or skipping a sample. ::

        dataset = cache.dataset(["f4d", "depth"], seed=0)
        batches = dataset.batches(8, rank=rank, world_size=world_size)
        loader = DataLoader(dataset, batch_sampler=batches, num_workers=4, multiprocessing_context="spawn")
        if resuming:
            batches.load_state_dict(checkpoint["batches"])
        while batches.epoch < epochs:
            for batch in batches.track(loader):
                train(batch)
                if it_is_time:
                    save({"batches": batches.state_dict(), ...})  # on one rank: all have the same

    Workers prefetch, so the sampler cannot know which batches were trained on. `track` counts a batch when the loop receives
    it, and moves on to the next epoch at the end. A loop that cannot be wrapped calls `advance` after each batch instead; one
    that never resumes may call `set_epoch` before each epoch. The loader must keep batches in order, as it does by default.

    ``keys`` are the dataset's keys: clip ids, or ``range(len(dataset))`` for another dataset. ``tail`` treats an epoch's last
    samples if they do not fill a batch on every rank: ``drop`` skips them; ``pad`` fills the batches with the epoch's first
    samples, which are then seen twice; ``short`` divides them among the ranks, so each sample is seen exactly once, but last
    batches differ in size by one, and some ranks get none if fewer samples than ranks are left.

    Raises `BadInput` for sizes, ranks, a seed or a ``tail`` that are out of range, and for an epoch without a batch.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        batch_size: int,
        *,
        seed: int | None = 0,
        rank: int = 0,
        world_size: int = 1,
        tail: Tail = "drop",
    ) -> None:
        self.keys, self.batch_size, self.seed, self.tail = keys, batch_size, seed, tail
        self.rank, self.world_size = rank, world_size
        self.epoch, self.position = 0, 0
        self._handed_out: tuple[int, int] | None = None
        self._require()

    def _require(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.world_size or (self.seed or 0) < 0:
            raise BadInput(
                f"batch_size {self.batch_size}, rank {self.rank}, world_size {self.world_size}, seed {self.seed}: "
                "a batch has at least 1 sample, ranks count from 0 to world_size - 1, and a seed is not negative"
            )
        if self.tail not in ("drop", "pad", "short"):
            raise BadInput(f"no tail is called {self.tail!r}; use drop, pad or short")
        least = {"drop": self._step, "pad": 1, "short": self.world_size}[self.tail]
        if len(self.keys) < least:
            raise BadInput(
                f"an epoch has {len(self.keys)} samples, and with tail={self.tail!r}, {self.world_size} ranks and batches of "
                f"{self.batch_size} it needs {least}; take smaller batches, or tail='pad'"
            )

    @property
    def _step(self) -> int:
        """Samples that all ranks together consume in one step."""
        return self.batch_size * self.world_size

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the keys, in order: ``sha256:…``."""
        digest = hashlib.sha256()
        for start in range(0, len(self.keys), _AT_ONCE):
            digest.update(canonical_json(list(self.keys[start : start + _AT_ONCE])))
        return f"sha256:{digest.hexdigest()}"

    def __len__(self) -> int:
        """This rank's batches of a whole epoch, wherever in one it is: a loader's length does not change while it is read."""
        return self._batches(self.rank, 0)

    @property
    def left(self) -> int:
        """Batches that this rank has left in this epoch."""
        return self._batches(self.rank, self.position)

    def _batches(self, rank: int, position: int) -> int:
        full, rest = divmod(len(self.keys) - position, self._step)
        return full + {"drop": False, "pad": rest > 0, "short": rest > rank}[self.tail]

    def __iter__(self) -> Iterator[list[Key]]:
        """This rank's batches, starting at the first sample that is not counted as consumed."""
        if not self.left:  # the epoch's remaining samples belong to other ranks
            resumed = self._handed_out is None
            self._move(self.epoch + 1, 0)
            if resumed:
                return
        began = self.epoch, self.position
        if began == self._handed_out:
            raise CouldNotRun(
                f"epoch {self.epoch} was iterated to its end, but no batch was counted as consumed, so the next epoch would "
                "repeat it; iterate over `track(loader)`, call `advance` after each batch or `set_epoch` before each epoch"
            )
        order = epoch_order(len(self.keys), self.seed, self.epoch)
        for start in range(self.position, self.position + self.left * self._step, self._step):
            together = order[start : start + self._step]
            if self.tail == "pad":
                together = np.concatenate([together, np.resize(order, self._step - len(together))])
            yield [self.keys[i] for i in np.array_split(together, self.world_size)[self.rank]]
        self._handed_out = began

    def track(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches. Each counts as consumed when it is yielded, so `state_dict` in the loop's body includes it."""
        for batch in loader:
            self.advance()
            yield batch
        if not self.left:  # the other ranks had one batch more, and this rank kept their position until now
            self._move(self.epoch + 1, 0)

    def advance(self) -> None:
        """Count one more batch of every rank as consumed; after an epoch's last one, move on to the next epoch."""
        self._move(self.epoch, min(self.position + self._step, len(self.keys)))

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch; if it is the current one, keep its position."""
        self._handed_out = None
        if epoch != self.epoch:
            self._move(epoch, 0)

    def _move(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        if not self._batches(0, position):  # the tail is divided from rank 0 on, so rank 0 has the most batches
            self.epoch, self.position = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The position, as `SamplerState` in a plain dictionary: put it in the checkpoint. Equal on all ranks."""
        state = SamplerState(seed=self.seed, epoch=self.epoch, position=self.position, fingerprint=self.fingerprint)
        return state.model_dump()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`. Raises `BadInput` if it is for other keys or another seed, or is no such state."""
        try:
            loaded = SamplerState.model_validate(dict(state))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise BadInput(f"this is not a sampler's state: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if loaded.fingerprint != self.fingerprint or loaded.position > len(self.keys):
            raise BadInput(
                f"the state is for other samples ({loaded.fingerprint}) than these {len(self.keys)} ({self.fingerprint}), so "
                "its position is meaningless here; give the same keys in the same order, or begin an epoch with `set_epoch`"
            )
        if loaded.seed != self.seed:
            raise BadInput(f"the state is for seed {loaded.seed}, and the seed here is {self.seed}; use the state's seed")
        self._handed_out = None
        self._move(loaded.epoch, loaded.position)
