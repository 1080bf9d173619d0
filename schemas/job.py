"""JOB.yaml: what to compute, where to put it, and with what machines."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Frozen
from schemas.clip import ClipPolicy
from schemas.recipe import Layout, Precision
from schemas.signal import SIGNAL_NAMES, SignalName

EncodingProfile = Literal["fine", "compact", "exact"]


class VideoSource(Frozen):
    """Where the videos are listed: exactly one of the two."""

    manifest: str | None = None
    """A JSON-lines file, one ``{"uri": …, "id": …?}`` a line. Relative uris are taken from the manifest's folder."""
    glob: str | None = None
    """A path or URL with wildcards (``**`` crosses folders)."""
    check: Literal["content", "new"] = "content"
    """Which videos' contents are looked at before a run: all, so that one that changed is taught again; or only those that
    the store does not have yet, which at millions of videos saves hours."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.manifest is None) == (self.glob is None):
            raise ValueError("give exactly one of `manifest` and `glob`")
        return self


class TeacherJob(Frozen):
    """Which teacher to load, and from where."""

    family: str = "l4p"
    """``l4p``; ``classical``, OpenCV's optical flow and background model; or one that an installed package offers."""
    preset: str = "giant"
    """The family's configuration: ``giant`` (as published) and ``tiny`` of ``l4p``, ``px224`` of ``classical``."""
    weights: str | None = None
    """Path or URL of the weights. ``tiny`` comes with its own, and ``classical`` has none."""
    dtype: Precision = "float32"
    """Of the teacher's weights and arithmetic."""
    compile: bool = False
    """Whether the teacher goes through `torch.compile`. It changes speed alone, so it is not in the recipe."""


class EngineJob(Frozen):
    """Where the work runs and how fast; nothing here changes a stored value."""

    kind: str = "local"
    """``local``: threads of one process; ``ray``: a Ray cluster; or one that an installed package offers."""
    teachers: int = Field(1, ge=1)
    """The most teachers at once (``ray``). Fewer work where the cluster has no room for more, and join as it grows."""
    min_teachers: int = Field(1, ge=1)
    """The fewest to work with (``ray``): the job waits while it has not so many."""
    start_timeout_seconds: float = Field(900, gt=0)
    """How long to wait for ``min_teachers``, at the start or after machines were lost, before the job stops."""
    gpus_per_teacher: float = Field(0, ge=0)
    """0 teaches on the CPU; a fraction shares a GPU; more than one puts a copy of the network on each."""
    cpus_per_teacher: float = Field(1, gt=0)
    """CPU cores that Ray sets aside for a teacher's encoding and writing."""
    teacher_resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that a teacher needs besides, such as ``{"spot": 0.01}``: they say on which nodes it may be."""
    batch: int = Field(8, ge=1)
    """Clips in one teacher forward."""
    writers: int = Field(4, ge=1)
    """Units that a teacher's process may be writing to the store while it teaches the next."""
    decoders: int = Field(1, ge=1)
    """Decoder processes for each teacher. Under ``ray`` they may be on any node with a free CPU core."""
    decoder_resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that a decoder needs besides a core, to keep decoding on nodes that offer them."""
    decode_device: Literal["cpu", "cuda"] = "cpu"
    """``cuda`` decodes with the GPU's own decoder what that knows, and the rest on the CPU. Under ``ray`` each decoder then
    takes a twentieth of a GPU, so ``gpus_per_teacher`` must leave room, such as 0.8 with four decoders."""
    decode_timeout_seconds: float = Field(120, gt=0)
    """How long one clip's frames may take before their decoder is killed."""
    threads_per_teacher: int | None = Field(None, ge=1)
    """CPU threads of each teacher's arithmetic; PyTorch's own choice when absent."""
    max_failed_share: float = Field(0.5, gt=0, le=1)
    """The run stops once more than this share of its clips, and more than 20, have failed."""
    grace_seconds: float = Field(20, ge=0)
    """How long a run that is told to stop (SIGTERM) may take to commit what is in work."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.min_teachers > self.teachers:
            raise ValueError(f"`min_teachers` is {self.min_teachers}, more than `teachers`, {self.teachers}")
        if self.gpus_per_teacher > 1 and self.gpus_per_teacher % 1:
            raise ValueError(f"`gpus_per_teacher` is {self.gpus_per_teacher:g}; above 1 it must be whole")
        return self


Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Prices(Frozen):
    """What `plan` counts the cost with. Nothing is assumed: what has no price here has no line in the cost."""

    currency: str | None = None
    """What the prices are in, for people to read."""
    gpu_hour: Price | None = None
    """An hour of one GPU."""
    core_hour: Price | None = None
    """An hour of one CPU core."""
    put_per_1000: Price | None = None
    """A thousand PUT requests."""
    get_per_1000: Price | None = None
    """A thousand GET requests; HEAD requests are billed as these."""
    list_per_1000: Price | None = None
    """A thousand LIST requests."""
    storage_gb_month: Price | None = None
    """A gigabyte (10^9 bytes) kept in the store for a month."""
    egress_gb: Price | None = None
    """A gigabyte of videos brought out of where they lie."""


class Job(Frozen):
    """One run of `teacher-cache`."""

    videos: VideoSource
    """The videos to teach."""
    store: str = Field(min_length=1)
    """Where the targets go: any fsspec URL or a local path."""
    teacher: TeacherJob
    """Whose targets they are."""
    clips: ClipPolicy = ClipPolicy()
    """How a video becomes clips, and how their frames are resized."""
    signals: tuple[SignalName, ...] = SIGNAL_NAMES
    """What to store. A signal that is added later becomes a new array over the same rows."""
    encoding: EncodingProfile | dict[SignalName, EncodingProfile] = "fine"
    """How far stored values may be off: one profile for all signals, or a mapping of signals to profiles, in which those not
    named are ``fine``."""
    layout: Layout = Layout()
    """How clips are grouped into objects."""
    engine: EngineJob = EngineJob()
    """Where the work runs and how fast."""
    prices: Prices = Prices()
    """What ``plan`` counts the cost with."""

    @field_validator("signals")
    @classmethod
    def _some_signals_once(cls, signals: tuple[SignalName, ...]) -> tuple[SignalName, ...]:
        if not signals:
            raise ValueError("name at least one signal")
        if len(set(signals)) != len(signals):
            raise ValueError("name each signal once")
        return tuple(s for s in SIGNAL_NAMES if s in signals)

    def encoding_profile(self, signal: SignalName) -> EncodingProfile:
        """The profile asked for this signal; ``fine`` where a mapping does not name it."""
        return self.encoding if isinstance(self.encoding, str) else self.encoding.get(signal, "fine")
