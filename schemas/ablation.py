"""What an ablation compares, and what it found: the same student, data and steps, with and without what is distilled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.evaluation import SceneTask
from schemas.job import EncodingProfile
from schemas.train import Mode, OptimConfig, Precision

ArmName = Literal["SFT", "SFT+TPE", "LD", "LD+TPE", "LD+ED", "LD+ED+TPE"]
"""What is learnt from: conversations, and F4D (LD), and maps (ED), and the frames' times (TPE)."""


class Arm(Frozen):
    """One way of training."""

    name: ArmName
    mode: Mode
    has_times: bool
    """Whether the student is told the frames' times."""
    encoding: EncodingProfile
    """Of the store that it learns from."""


class AblationConfig(Frozen):
    """What ``student-train ablation`` does."""

    videos: int = Field(512, ge=2)
    """Rendered scenes to train on."""
    held_out: int = Field(128, ge=1)
    """Others, to be asked about."""
    seeds: int = Field(3, ge=1)
    """Runs of each arm; its spread is over them."""
    steps: int = Field(240, ge=1)
    batch: int = Field(8, ge=1)
    """Videos in a step, each with all its questions."""
    alpha: float = Field(0.5, ge=0)
    """Weight of LD, the paper's."""
    beta: float = Field(0.1, ge=0)
    """Weight of ED, the paper's."""
    optim: OptimConfig = OptimConfig(optimizer="muon", learning_rate=5e-3, warmup=0.1)
    precision: Precision = "bf16"
    """Of the students' and the teacher's products; bf16 takes half the time on processors that have it."""
    tasks: tuple[SceneTask, ...] = Field(("Scene Depth", "Duration"), min_length=1)
    """Kinds of questions that are taught and asked, as `teacher-cache scenes` names them. The default ones ask about the whole
    scene, one about space and one about time: a student as small as this, which begins from nothing, learns neither to find
    marked objects nor many kinds of questions in so few steps."""
    encodings: tuple[EncodingProfile, ...] = Field(("fine",), min_length=1)
    """Encoding profiles of the stores: all arms learn from the first one, and the last arm from each other one too."""
    arms: tuple[ArmName, ...] = Field(("SFT", "SFT+TPE", "LD", "LD+TPE", "LD+ED", "LD+ED+TPE"), min_length=1)
    """Which ways of training are compared."""
    processes: int = Field(2, ge=1)
    """Runs at a time; they share the cores."""


class ArmRun(Frozen):
    """One trained and evaluated student."""

    arm: Arm
    seed: int
    accuracy: dict[str, float]
    """By kind of question: the share of right letters; ``all`` is over all questions."""
    maps: dict[str, float]
    """By metric: the student's maps against the teacher's, means over the held-out clips; empty for SFT, which has none."""
    sft_loss: float
    """Of the last steps."""
    seconds: float


class Spread(Frozen):
    """One figure over the seeds."""

    mean: float
    deviation: float | None
    """Standard deviation of the runs (n - 1); null for one run."""


class ArmSummary(Frozen):
    """One arm over its seeds."""

    arm: Arm
    accuracy: dict[str, Spread]
    maps: dict[str, Spread]
    seconds: Spread


class AblationReport(Frozen):
    """A finished ablation, as ``ablation.json`` holds it and ``--json`` prints it."""

    out: str
    config: AblationConfig
    fingerprints: dict[EncodingProfile, str]
    """Of the stores' recipes."""
    questions: dict[str, int]
    """How many of each kind were asked of each student."""
    baseline: dict[str, float]
    """What always giving the kind's most frequent answer of the training questions would score."""
    map_guess: dict[str, float]
    """By metric, what its constant scores on the held-out clips."""
    arms: tuple[ArmSummary, ...]
    runs: tuple[ArmRun, ...]
    cores: int
    seconds: float
    """Of this call; what an earlier one had done is not in it."""

    def label(self, arm: Arm) -> str:
        """The arm's name, with its store's encoding where there are several."""
        return f"{arm.name}, {arm.encoding}" if len(self.config.encodings) > 1 else arm.name
