"""A run's config, and the one that it began with, go in; its stores come out, each at one version on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from schemas.errors import BadInput
from schemas.train import ConfidenceConfig, RegionsConfig, TrainConfig, TrainedOn
from student_train.training.ranks import Ranks
from teacher_cache import Cache, open_cache

_CONFIDENCE, _REGIONS = "loss.confidence", "regions"


class Stores(NamedTuple):
    """The store that a run learns from, and what it reads beside."""

    cache: Cache
    config: TrainConfig
    """The run's config, with the version of each store that is read beside."""
    beside: dict[str, str]
    """Setting that names such a store → the fingerprint of its recipe."""

    def trained_on(self, conversations: str, samples_per_step: int) -> TrainedOn:
        """What a run learns from, of the digest of its conversations."""
        fingerprints = {"store": self.cache.recipe.fingerprint, **self.beside}
        return TrainedOn(fingerprints=fingerprints, conversations=conversations, samples_per_step=samples_per_step)


def opened(config: TrainConfig, then: TrainConfig | None, ranks: Ranks) -> Stores:
    """The stores at the versions that the run began with, if ``then`` gives them, or else at those of the config. Collective.

    Raises `BadInput` if the store has another recipe than ``config.fingerprint``.
    """
    cache: Cache | None = None
    beside: dict[str, tuple[int, str]] = {}
    with ranks.raise_on_any_rank():
        if ranks.is_rank_zero:  # alone: a store that grows would have another newest version for the next rank
            cache = open_cache(config.store, version=(then or config).store_version)
            _refuse_another_recipe(cache, config)
            begun = _read_beside(then or config)
            for name, one in _read_beside(config).items():
                other = open_cache(one.store, version=begun.get(name, one).version)
                beside[name] = other.version, other.recipe.fingerprint
    version, beside = ranks.broadcast((None if cache is None else cache.version, beside))
    with ranks.raise_on_any_rank():
        return Stores(
            cache or open_cache(config.store, version=version),
            _at(config, {name: version for name, (version, _) in beside.items()}),
            {f"{name}.store": fingerprint for name, (_, fingerprint) in beside.items()},
        )
    raise AssertionError  # for mypy: the block ends or raises


def _read_beside(config: TrainConfig) -> dict[str, ConfidenceConfig | RegionsConfig]:
    found: dict[str, ConfidenceConfig | RegionsConfig] = {}
    if config.loss.confidence is not None:
        found[_CONFIDENCE] = config.loss.confidence
    if config.regions is not None and (config.loss.regions is not None or config.regions.marks != "none"):
        found[_REGIONS] = config.regions
    return found


def _at(config: TrainConfig, versions: Mapping[str, int]) -> TrainConfig:
    """The config with the versions of the stores that are read beside."""
    at = {name: one.model_copy(update={"version": versions[name]}) for name, one in _read_beside(config).items()}
    loss = config.loss.model_copy(update={"confidence": at.get(_CONFIDENCE)})
    return config.model_copy(update={"loss": loss, "regions": at.get(_REGIONS, config.regions)})


def _refuse_another_recipe(cache: Cache, config: TrainConfig) -> None:
    if config.fingerprint is not None and not cache.recipe.fingerprint.startswith(config.fingerprint):
        raise BadInput(
            f"the store {cache.url} has another recipe: its fingerprint is {cache.recipe.fingerprint[:16]}…, needed "
            f"{config.fingerprint[:16]}; `teacher-cache diff {cache.url} JOB.yaml` names the fields that differ from a job's"
        )
