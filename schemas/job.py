"""JOB.yaml: which videos to teach, with which teacher, into which store, and on which machines."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Frozen
from schemas.clip import ClipPolicy
from schemas.recipe import Layout, Precision
from schemas.signal import P4D_SIGNALS, SIGNAL_NAMES, SignalName
from schemas.storage import DEFAULT_STORAGE, HUB_IS_READ_ONLY, StorageOptions

EncodingProfile = Literal["fine", "compact", "exact"]


ListFormat = Literal["jsonl", "json", "csv", "parquet", "conversations"]
ListColumn = Literal["uri", "id", "start", "end", "phrases", "masks"]
VideoIdentity = Literal["listed", "sampled"]


class VideoSource(Frozen):
    """Where the videos are listed. Give one of ``manifest``, ``mixture`` and ``glob``."""

    manifest: str | None = None
    """A list of videos: JSON lines, a JSON array, CSV, Parquet, conversations, or the folder of a Hugging Face dataset
    with ``metadata.csv``, ``.jsonl`` or ``.parquet``. A row has a ``uri`` (or ``file_name``, ``video``, ``video_path``,
    ``path``, whichever comes first) and, if wanted, an ``id``, and ``start`` and ``end`` in seconds for a segment of the video.
    For a teacher that takes them, ``phrases`` name the objects to find, as a list or as a text with ``;`` or full stops between
    them, and ``masks`` are where a set's truth masks are. Its other texts, numbers and truth values are kept for reading.
    Relative uris and masks start from ``root``. A ``uri`` may also name a tar, a member of one
    (``x.tar#0001.mp4``), or, with a ``/`` at its end, a folder of numbered pictures."""
    format: ListFormat | None = None
    """The manifest's format, where its name and its first bytes would tell another one."""
    columns: dict[ListColumn, str] = Field(default_factory=dict)
    """The manifest's own names of columns: ``{uri: clip_path, start: t0}``."""
    root: str | None = None
    """The folder or URL that a manifest's relative uris start from; the manifest's own folder when absent. Of a ``glob``, the
    one that ids start from, so that they stay as they are when patterns are added: a video elsewhere has its whole path or URL
    as its id. When absent, ids start from the folder that all patterns share."""
    phrases: str | None = None
    """Of a teacher that takes phrases: a file of JSON lines, ``{"id": …, "phrases": […]}``: the phrases of the video or segment
    of that id, before those of the list. Ids that are not listed are left out."""
    mixture: str | None = None
    """A YAML file of sets of conversations, as the ``data.mixture`` of TRAIN.yaml names it: the videos of all its sets, each
    once. A set's relative videos start from the first of its ``video_root``, or from each file's folder."""
    glob: str | tuple[str, ...] | None = None
    """A path or URL with wildcards (``**`` crosses folders), or several of them. Links are followed; hidden folders are only
    looked into if the pattern names them. A tar that matches stands for the videos in it. A pattern with a ``/`` at its end
    matches folders of numbered pictures."""
    folder_fps: float = Field(24, ge=1e-3, le=1e6)
    """Pictures a second of a folder of them whose row has no ``fps``."""
    https: bool = False
    """Whether videos may be at ``https://`` URLs, which anyone on the internet may serve. Local paths and ``s3://``, ``gs://``
    and ``az://`` URLs always may; no other protocol, no chain of them, and no URL with a query or a fragment."""
    identity: VideoIdentity = "listed"
    """What tells that a video changed, and is kept in its rows. ``listed``: the size and ETag by which its server lists it,
    which costs next to nothing; on a disk, and where a server has no ETags, as ``sampled``. ``sampled``: a digest of its size
    and of three blocks of it, which is the same wherever a copy lies."""
    check: Literal["content", "new"] = "content"
    """Which videos to look at before a run. ``content``: all, so that a video that changed is taught again; ``new``: only those
    that are not in the store yet."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(one is not None for one in (self.manifest, self.mixture, self.glob)) != 1:
            raise ValueError("give exactly one of `manifest`, `mixture` and `glob`")
        if self.glob == ():
            raise ValueError("`glob` is an empty list; give at least one pattern")
        if self.manifest is None and (self.format or self.columns):
            raise ValueError("`format` and `columns` describe a `manifest`; leave them out")
        if self.mixture is not None and self.root:
            raise ValueError(
                "`root` is of a `manifest` or a `glob`, and the sets of a `mixture` have a `video_root` each; leave it out"
            )
        return self

    @property
    def origin(self) -> str:
        """What lists the videos, for messages."""
        if self.glob is not None:
            return f"the glob {', '.join(self.globs)}"
        return f"the manifest {self.manifest}" if self.mixture is None else f"the mixture {self.mixture}"

    @property
    def globs(self) -> tuple[str, ...]:
        """The patterns of ``glob``; none with a manifest."""
        return (self.glob,) if isinstance(self.glob, str) else self.glob or ()


class TeacherJob(Frozen):
    """Which teacher to load, and from where."""

    family: str = "l4p"
    """``l4p``; ``classical``: OpenCV's optical flow and background model; ``grounded-sam``: objects by Grounding DINO and SAM
    2; ``sam3``: objects by SAM 3; ``given``: a set's truth masks; or one that an installed package provides."""
    preset: str = "giant"
    """The family's configuration: ``giant`` (as published) and ``tiny`` of ``l4p``, ``px224`` of ``classical``,
    ``px112`` to ``px1024`` of ``grounded-sam``, ``sam3`` and ``given``."""
    weights: str | None = None
    """Path or URL of the weights; of ``grounded-sam`` and ``sam3`` a folder of models. ``tiny`` has its own in the
    package; ``classical`` and ``given`` need none."""
    weights_digest: str | None = Field(None, pattern="^sha256:[0-9a-f]{64}$")
    """sha256 of the weights' file. If it is given, the job refuses a file with another one."""
    dtype: Precision = "float32"
    """Precision of the teacher's weights and arithmetic."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Settings of the family's own, such as ``{objects: 16}`` of those that give regions. They are in the recipe."""
    compile: bool = False
    """Whether to compile the teacher with `torch.compile`. It only changes speed, so it is not in the recipe."""

    @model_validator(mode="after")
    def _weights_for_the_digest(self) -> Self:
        if self.weights_digest is not None and self.weights is None:
            raise ValueError("`weights_digest` is of the file that `weights` names, and there is no `weights`; leave it out")
        return self


class EngineJob(Frozen):
    """Where the work runs and how fast. Nothing here changes a stored value."""

    kind: str = "local"
    """``local``: threads of one process; ``ray``: a Ray cluster; or one that an installed package provides."""
    teachers: int = Field(1, ge=1)
    """Most teachers at once (``ray``). While the cluster has room for fewer, fewer work; more join as it grows."""
    min_teachers: int = Field(1, ge=1)
    """Fewest teachers to work with (``ray``). With fewer, the job waits."""
    start_timeout_seconds: float = Field(900, gt=0)
    """How long to wait for ``min_teachers``, at the start or after losing machines, before the job stops."""
    gpus_per_teacher: float = Field(0, ge=0)
    """GPUs of each teacher. 0 teaches on the CPU; a fraction shares a GPU; above 1, each GPU gets a copy of the network."""
    cpus_per_teacher: float = Field(1, gt=0)
    """CPU cores that Ray reserves for a teacher's encoding and writing."""
    teacher_resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that a teacher needs as well, such as ``{"spot": 0.01}``, to choose its nodes."""
    batch: int = Field(8, ge=1)
    """Clips in one forward pass of the teacher."""
    writers: int = Field(4, ge=1)
    """Units that a teacher's process may write to the store while it teaches the next."""
    decoders: int = Field(1, ge=1)
    """Decoder processes per teacher. Under ``ray`` they run on any node with a free CPU core."""
    decoder_resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that a decoder needs in addition to a core, to keep decoding on nodes that have them."""
    decode_device: Literal["cpu", "cuda"] = "cpu"
    """``cuda`` uses the GPU's video decoder for the formats that it supports, and the CPU for the rest. Under ``ray`` each
    decoder then takes a twentieth of a GPU, so ``gpus_per_teacher`` must leave room, such as 0.8 with four decoders."""
    decode_timeout_seconds: float = Field(120, gt=0)
    """How long decoding one clip may take before its decoder is killed."""
    threads_per_teacher: int | None = Field(None, ge=1)
    """CPU threads of each teacher's arithmetic; PyTorch's default when absent."""
    max_failed_share: float = Field(0.5, gt=0, le=1)
    """The run stops once more than this share of its clips have failed, and more than 20."""
    ok_failed_share: float = Field(0, ge=0, le=1)
    """A run's exit status is 0 if at most this share of the clips that it tried have failed, 1 if more. What failed in earlier
    runs does not count. With 1, only what stops a run makes it fail in the eyes of a scheduler."""
    grace_seconds: float = Field(20, ge=0)
    """How long a run that is asked to stop (SIGTERM) may take to commit the units in work."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.min_teachers > self.teachers:
            raise ValueError(f"`min_teachers` is {self.min_teachers}, more than `teachers`, {self.teachers}")
        if self.gpus_per_teacher > 1 and self.gpus_per_teacher % 1:
            raise ValueError(f"`gpus_per_teacher` is {self.gpus_per_teacher:g}; above 1 it must be whole")
        return self


Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Prices(Frozen):
    """Prices for `plan`. None has a default: what has no price here is left out of the cost."""

    currency: str | None = None
    """Currency of the prices, for display only."""
    gpu_hour: Price | None = None
    """Price of one GPU for an hour."""
    core_hour: Price | None = None
    """Price of one CPU core for an hour."""
    put_per_1000: Price | None = None
    """Price of a thousand PUT requests."""
    get_per_1000: Price | None = None
    """Price of a thousand GET requests; HEAD requests count as GET."""
    list_per_1000: Price | None = None
    """Price of a thousand LIST requests."""
    storage_gb_month: Price | None = None
    """Price of a gigabyte (10^9 bytes) in the store for a month."""
    egress_gb: Price | None = None
    """Price of transferring a gigabyte of videos out of where they are stored."""


class Job(Frozen):
    """One job of `teacher-cache`."""

    videos: VideoSource
    """The videos to teach."""
    store: str = Field(min_length=1)
    """Where to write the targets: a local path, or an ``s3://``, ``gs://`` or ``az://`` URL."""
    storage_options: StorageOptions = DEFAULT_STORAGE
    """How to reach the store's server, where the environment does not say it, or says it for another one."""
    teacher: TeacherJob
    """The teacher that makes the targets."""
    clips: ClipPolicy = ClipPolicy()
    """How a video becomes clips, and how their frames are resized."""
    signals: tuple[SignalName, ...] = P4D_SIGNALS
    """Signals to store. One that is added later becomes a new array with the same rows."""
    encoding: EncodingProfile | dict[SignalName, EncodingProfile] = "fine"
    """How much stored values may differ from the teacher's: one profile for all signals, or a mapping of signals to profiles,
    where signals that are not named are ``fine``."""
    layout: Layout = Layout()
    """How clips are grouped into objects."""
    engine: EngineJob = EngineJob()
    """Where the work runs and how fast."""
    prices: Prices = Prices()
    """Prices that ``plan`` computes the cost with."""

    @field_validator("signals")
    @classmethod
    def _some_signals_once(cls, signals: tuple[SignalName, ...]) -> tuple[SignalName, ...]:
        if not signals:
            raise ValueError("name at least one signal")
        if len(set(signals)) != len(signals):
            raise ValueError("name each signal once")
        return tuple(s for s in SIGNAL_NAMES if s in signals)

    @field_validator("store")
    @classmethod
    def _where_one_can_write(cls, store: str) -> str:
        if store.startswith("hf://"):
            raise ValueError(HUB_IS_READ_ONLY)
        return store

    def encoding_profile(self, signal: SignalName) -> EncodingProfile:
        """The profile of this signal; ``fine`` if a mapping does not name it."""
        return self.encoding if isinstance(self.encoding, str) else self.encoding.get(signal, "fine")
