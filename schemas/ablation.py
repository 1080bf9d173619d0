"""What an ablation compares, and what it found: the same student, data and steps, with and without each kind of target."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.evaluation import SceneTask
from schemas.job import EncodingProfile
from schemas.train import Mode, OptimConfig, Precision

ArmName = Literal["SFT", "SFT+TPE", "LD", "LD+TPE", "LD+ED", "LD+ED+TPE"]
"""What the student learns from: conversations (SFT), and besides F4D (LD), maps (ED) and the frames' times (TPE)."""


class Arm(Frozen):
    """One way of training."""

    name: ArmName
    mode: Mode
    has_times: bool
    """Whether the student gets the frames' times."""
    encoding: EncodingProfile
    """Encoding profile of the store that it learns from."""


class AblationConfig(Frozen):
    """Settings of ``student-train ablation``."""

    videos: int = Field(512, ge=2)
    """Rendered scenes to train on."""
    held_out: int = Field(128, ge=1)
    """Other rendered scenes, to ask questions about."""
    seeds: int = Field(3, ge=1)
    """Runs of each arm, each with another seed."""
    steps: int = Field(240, ge=1)
    """Optimizer steps of each run."""
    batch: int = Field(8, ge=1)
    """Videos in a step, each with all its questions."""
    alpha: float = Field(0.5, ge=0)
    """Weight of LD; the default is the paper's."""
    beta: float = Field(0.1, ge=0)
    """Weight of ED; the default is the paper's."""
    optim: OptimConfig = OptimConfig(optimizer="muon", learning_rate=5e-3, warmup=0.1)
    """The optimizer and its schedule."""
    precision: Precision = "bf16"
    """Precision of the students' and the teacher's arithmetic. ``bf16`` takes half the time on CPUs that support it."""
    tasks: tuple[SceneTask, ...] = Field(("Scene Depth", "Duration"), min_length=1)
    """Kinds of questions to teach and ask, as `teacher-cache scenes` names them. The defaults ask about the whole scene, one
    about space and one about time: in so few steps, a small student with random weights learns neither to find marked objects
    nor many kinds of questions."""
    encodings: tuple[EncodingProfile, ...] = Field(("fine",), min_length=1)
    """Encoding profiles, one store for each. All arms learn from the first store, the last arm from each other one as well."""
    arms: tuple[ArmName, ...] = Field(("SFT", "SFT+TPE", "LD", "LD+TPE", "LD+ED", "LD+ED+TPE"), min_length=1)
    """The ways of training to compare."""
    processes: int = Field(2, ge=1)
    """Runs at the same time; they share the CPU cores."""


class ArmRun(Frozen):
    """One trained and evaluated student."""

    arm: Arm
    seed: int
    accuracy: dict[str, float]
    """Kind of question → share of right letters; ``all`` is over all questions."""
    maps: dict[str, float]
    """Metric → mean score of the student's maps against the teacher's over the held-out clips; empty for SFT, which has no
    maps."""
    sft_loss: float
    """Mean language-modelling loss of the last steps."""
    seconds: float
    """Wall time of the training loop."""


class Spread(Frozen):
    """Mean and spread of one figure over the seeds."""

    mean: float
    deviation: float | None
    """Standard deviation over the runs (n - 1); null for a single run."""


class ArmSummary(Frozen):
    """One arm over its seeds."""

    arm: Arm
    accuracy: dict[str, Spread]
    """As in `ArmRun`."""
    maps: dict[str, Spread]
    """As in `ArmRun`."""
    seconds: Spread
    """As in `ArmRun`."""


class AblationReport(Frozen):
    """A finished ablation, as ``ablation.json`` holds it and ``--json`` prints it."""

    out: str
    """The ablation's folder."""
    config: AblationConfig
    fingerprints: dict[EncodingProfile, str]
    """Encoding profile → fingerprint of its store's recipe."""
    questions: dict[str, int]
    """Kind of question → how many each student was asked."""
    baseline: dict[str, float]
    """Kind of question → accuracy of always giving the most frequent answer of the training questions."""
    map_guess: dict[str, float]
    """Metric → score of its constant baseline on the held-out clips."""
    arms: tuple[ArmSummary, ...]
    runs: tuple[ArmRun, ...]
    cores: int
    """CPU cores of the machine."""
    seconds: float
    """Wall time of this call, without what an earlier call had done."""

    def label(self, arm: Arm) -> str:
        """The arm's name, followed by its store's encoding if there are several encodings."""
        return f"{arm.name}, {arm.encoding}" if len(self.config.encodings) > 1 else arm.name
