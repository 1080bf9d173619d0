"""GRID.yaml: which settings of one TRAIN.yaml a sweep combines; and what its runs found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from schemas.base import Frozen
from schemas.train import SmoothedLosses, Validated


class SweepConfig(Frozen):
    """One grid of fits over one store, as ``student-train sweep`` reads it."""

    train: str = Field(min_length=1)
    """The TRAIN.yaml that every run starts from; a relative path starts from the grid's own folder."""
    output: str = Field(min_length=1)
    """Folder of the sweep, with a run's folder for each combination, and the table."""
    grid: dict[str, tuple[Any, ...]] = Field(min_length=1)
    """Field of TRAIN.yaml by its dotted path, such as ``loss.alpha``, ``loss.weights``, ``seed`` or ``store_version`` → its
    values. Every combination is a run."""

    @field_validator("grid")
    @classmethod
    def _values_of_fields(cls, grid: Mapping[str, tuple[Any, ...]]) -> Mapping[str, tuple[Any, ...]]:
        if fixed := sorted({"store", "output"} & grid.keys()):
            raise ValueError(f"a sweep has one {fixed[0]}: leave `{fixed[0]}` out of the grid")
        if empty := [name for name, values in grid.items() if not values]:
            raise ValueError(f"`{empty[0]}` has no values; needed at least one")
        return grid


class SweepRun(Frozen):
    """One fit of a sweep."""

    settings: dict[str, Any]
    """Its values of the grid's fields."""
    output: str
    """Its run folder."""
    first: SmoothedLosses
    last: SmoothedLosses
    validation: Validated | None
    """As in `FitReport`."""
    bad_steps: int
    seconds: float
    """Wall time of its training loop."""


class FailedRun(Frozen):
    """A fit of a sweep that ended without a student, since its loss or gradient was not finite."""

    settings: dict[str, Any]
    """Its values of the grid's fields."""
    output: str
    """Its run folder, where ``failure.json`` says the same."""
    failed: str
    """Why."""
    bad_steps: int
    seconds: float
    """Wall time of its training loop."""


class SweepReport(Frozen):
    """A finished sweep, as ``sweep.json`` holds it and ``--json`` prints it."""

    output: str
    store: str
    fingerprint: str
    """Fingerprint of the store's recipe."""
    runs: tuple[SweepRun, ...]
    failed: tuple[FailedRun, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every run has a student."""
        return not self.failed
