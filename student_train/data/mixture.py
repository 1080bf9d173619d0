"""TRAIN.yaml's data in; its sets of conversations, and which of their samples each epoch has, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schemas.errors import BadInput
from schemas.mixture import MixtureSet
from schemas.train import DataConfig, TrainConfig, TrainedSet
from teacher_cache.clips.mixture import mixture_of
from teacher_cache.reader.sampler import epoch_order

Indices = npt.NDArray[np.intp]


def with_mixture(config: TrainConfig) -> TrainConfig:
    """The config with the sets in the place of the name of their file, so that a run keeps what it began with.

    Raises `BadInput`.
    """
    if not isinstance(config.data.mixture, str):
        return config
    data = config.data.model_copy(update={"mixture": mixture_of(config.data.mixture)})
    return config.model_copy(update={"data": data})


def sets_of(config: DataConfig) -> dict[str, MixtureSet]:
    """The sets by their names, each with the roots that hold for it; one without a name, if there is no mixture."""
    roots = {"video_root": config.video_root, "image_root": config.image_root}
    if config.mixture is None:
        return {"": MixtureSet(conversations=config.conversations, **roots)} if config.conversations else {}
    given = mixture_of(config.mixture).sets
    absent = {name: {k: v for k, v in roots.items() if not getattr(one, k)} for name, one in given.items()}
    return {name: one.model_copy(update=absent[name]) for name, one in given.items()}


def weights_of(config: DataConfig) -> dict[str, float]:
    """Set → its weight."""
    return {name: one.weight for name, one in sets_of(config).items()}


def video_roots(config: DataConfig) -> tuple[str, ...]:
    """All folders and URLs that any of the videos may be read from."""
    return tuple(dict.fromkeys((*config.video_root, *(root for one in sets_of(config).values() for root in one.video_root))))


def image_roots(config: DataConfig) -> tuple[str, ...]:
    """The same of the images."""
    return tuple(dict.fromkeys((*config.image_root, *(root for one in sets_of(config).values() for root in one.image_root))))


def chosen(size: int, count: int | None, name: str, seed: int) -> Sequence[int]:
    """Which of a set's conversations are its ``count``, ascending: by the seed and the set's name. Raises `BadInput`."""
    if count is None:
        return range(size)
    if count > size:
        raise BadInput(
            f"the mixture's set {name!r} has {size:,} conversations to train on, and its `count` is {count:,}; leave `count` "
            "out to take all, and give a `weight` for them to come more often"
        )
    kept: list[int] = np.sort(epoch_order(size, _seed_of(name, seed), 0)[:count]).tolist()
    return kept


def _seed_of(name: str, seed: int) -> int:
    """A seed for a set of its own, which the other sets do not change."""
    return int(np.random.SeedSequence((seed, *name.encode())).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Epochs:
    """Which samples each epoch has, without their order in it."""

    parts: Sequence[str]
    """The set of each sample."""
    weights: Mapping[str, float]
    """Set → how often an epoch has each of its samples; 1 for a set that is not named."""
    seed: int

    @cached_property
    def _members(self) -> dict[str, Indices]:
        """Set → the indices of its samples."""
        names, of = np.unique(np.asarray(self.parts, dtype=object), return_inverse=True)
        return {str(name): np.flatnonzero(of == number) for number, name in enumerate(names)}

    @cached_property
    def sets(self) -> dict[str, TrainedSet]:
        """Set → how many samples it has, and how many an epoch has of it, at least one."""
        return {
            name: TrainedSet(samples=len(held), in_epoch=max(1, round(self.weights.get(name, 1) * len(held))))
            for name, held in self._members.items()
        }

    def __len__(self) -> int:
        """Samples of an epoch."""
        return sum(one.in_epoch for one in self.sets.values())

    def of(self, epoch: int) -> Indices:
        """The samples of an epoch: a function of the arguments alone, whatever came before.

        Each set is one endless stream, an order of all its samples after the other, of which each epoch has the next part.
        """
        drawn = [self._part(name, held, self.sets[name].in_epoch, epoch) for name, held in self._members.items()]
        return np.sort(np.concatenate(drawn), kind="stable")

    def _part(self, name: str, held: Indices, count: int, epoch: int) -> Indices:
        if count == len(held):
            return held
        first, last = epoch * count // len(held), (epoch * count + count - 1) // len(held)
        seed = _seed_of(name, self.seed)
        stream = np.concatenate([held[epoch_order(len(held), seed, turn + 1)] for turn in range(first, last + 1)])
        start = epoch * count - first * len(held)
        return stream[start : start + count]
