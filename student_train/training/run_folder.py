"""The folder of a training run: its path goes in; the paths of its files, its settings and its report come out."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import BadInput
from schemas.train import FitFailure, FitReport, TrainConfig

Value = TypeVar("Value", bound=BaseModel)


class RunFolder:
    """The folder that ``student-train fit`` writes: settings, losses, report, student and training-only parts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.failure_file = path / "failure.json"
        self.student = path / "student"
        """The plain video language model."""
        self.p4d = path / "p4d"
        """P4D's trained parts, which only training and `eval` need."""
        self.validation = path / "validation"
        """Pictures of the maps of held-out clips, a folder for each validation."""
        self.checkpoints = path / "checkpoints"
        """Checkpoints to resume a stopped run from."""

    def config(self) -> TrainConfig:
        """The run's settings. Raises `BadInput` if the folder holds no run."""
        if not self.config_file.is_file():
            raise BadInput(f"{self.path} holds no run: it has no {self.config_file.name}; give a folder that `fit` wrote")
        return self._read(self.config_file, TrainConfig)

    def result(self) -> FitReport:
        """The report of the finished run. Raises `BadInput` if the run is unfinished or the folder holds no run."""
        self.config()
        if not self.result_file.is_file():
            raise BadInput(f"the run in {self.path} is not finished: it has no {self.result_file.name}; finish it with `fit`")
        return self._read(self.result_file, FitReport)

    def failure(self) -> FitFailure | None:
        """How the run ended, if its loss was not finite."""
        return self._read(self.failure_file, FitFailure) if self.failure_file.is_file() else None

    @staticmethod
    def _read(path: Path, kind: type[Value]) -> Value:
        try:
            return kind.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise BadInput(f"cannot read {path}: {error}; give a run that this version's `fit` wrote") from None
