"""JOB.yaml: what to compute, where to put it, and with what machines."""

from __future__ import annotations

from typing import Literal, Self

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
    preset: str = "giant"
    weights: str | None = None
    """Path or URL of the weights. A preset that says so needs none and starts from a fixed seed."""
    dtype: Precision = "float32"
    compile: bool = False
    """Whether the teacher goes through `torch.compile`. It changes speed alone, so it is not in the recipe."""


class EngineJob(Frozen):
    """Where the work runs and how fast; nothing here changes a stored value."""

    kind: str = "local"
    gpus_per_teacher: float = Field(0, ge=0)
    teachers: int = Field(1, ge=1)
    """How many teachers run at once (``ray``)."""
    batch: int = Field(8, ge=1)
    """Clips in one teacher forward."""
    decoders: int = Field(1, ge=1)
    """Decoder processes of each teacher."""
    decode_timeout_seconds: float = Field(120, gt=0)
    threads_per_teacher: int | None = Field(None, ge=1)
    """CPU threads of each teacher's arithmetic; PyTorch's own choice when absent."""


class Job(Frozen):
    """One run of `teacher-cache`."""

    videos: VideoSource
    store: str = Field(min_length=1)
    teacher: TeacherJob
    clips: ClipPolicy = ClipPolicy()
    signals: tuple[SignalName, ...] = SIGNAL_NAMES
    encoding: EncodingProfile | dict[SignalName, EncodingProfile] = "fine"
    layout: Layout = Layout()
    engine: EngineJob = EngineJob()

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
