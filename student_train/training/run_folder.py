"""What a run's folder holds, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import BadInput
from schemas.train import FitReport, TrainConfig

Value = TypeVar("Value", bound=BaseModel)


class RunFolder:
    """A run of ``student-train fit``: its settings, losses, report, student and training-only parts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.student = path / "student"
        """The plain video language model."""
        self.p4d = path / "p4d"
        """What P4D trained and only training needs."""
        self.checkpoints = path / "checkpoints"
        """Where a run that was stopped goes on from."""

    def config(self) -> TrainConfig:
        """The run's settings. Raises `BadInput` where this is no run's folder."""
        if not self.config_file.is_file():
            raise BadInput(f"{self.path} holds no run: there is no {self.config_file.name}; needed a folder that `fit` wrote")
        return self._read(self.config_file, TrainConfig)

    def result(self) -> FitReport:
        """The report of the finished run. Raises `BadInput` where the run is not finished, or this is no run's folder."""
        self.config()
        if not self.result_file.is_file():
            raise BadInput(f"the run in {self.path} is not finished: there is no {self.result_file.name}; finish it with `fit`")
        return self._read(self.result_file, FitReport)

    @staticmethod
    def _read(path: Path, kind: type[Value]) -> Value:
        try:
            return kind.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise BadInput(f"cannot read {path}: {error}; needed what this version's `fit` writes") from None
