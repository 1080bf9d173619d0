"""Videos and the clips cut from them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.base import Frozen

Sampling = Literal["uniform", "shots", "fps", "dense"]
Preprocessing = Literal["l4p", "student"]
ClipView = Literal["plain", "flipped"]
Hdr = Literal["refuse", "bt2390"]
Interlaced = Literal["refuse", "bwdif"]

FailureReason = Literal[
    "video_missing",  # nothing at the uri
    "video_empty",  # zero bytes
    "not_a_video",  # no decoder opens it
    "no_frames",  # opens, but holds no frame
    "pictures_misnumbered",  # a folder of numbered pictures has a gap, or two of one number
    "segment_outside",  # opens, but the row's segment is not in it
    "not_probed",  # opens now, but did not when its windows were planned
    "decode_error",  # opens, but the wanted frames do not decode
    "times_run_back",  # the wanted frames are not in the order of their times
    "hdr_unsupported",  # PQ or HLG, and the recipe maps no tones
    "interlaced_unsupported",  # frames of two fields, and the recipe does not deinterlace
    "decode_timeout",  # the decoder exceeded its deadline and was killed
    "decoder_crashed",  # the decoder's process died
    "prompt_missing",  # the teacher takes more than frames, and what the row names was not there
    "prompt_unusable",  # what the row gives the teacher beside frames cannot be read, or does not fit
    "teacher_nonfinite",  # the teacher gave NaN or infinity
    "teacher_crashed",  # teachers were lost over it, at last with nothing else in work
    "encoding_bound",  # the encoding cannot hold the values within its stated bound
    "missing_in_shard",  # an earlier attempt left the shard without the clip, or with other values; the next run does it again
    "superseded",  # a later row holds the clip; this row was never taught
]


FLIPPED = "~flipped"
"""What the id of a flipped clip ends with."""

MOST_FRAMES = 2**12
"""The most frames of one clip."""

SPREAD: tuple[Sampling, ...] = ("uniform", "shots")
"""Samplings whose clips have frames that are spread over all of a part; the others' have frames that follow each other."""

DEFAULT_TAIL_SHARE = 0.2
"""The share of a video's frames that may not decode at its end, where no job says it."""

LARGEST_SIZE = 2**13
"""The largest height and width of the frames that a teacher or student sees, in pixels."""


class Video(Frozen):
    """One source video."""

    uri: str = Field(min_length=1)
    """Path or URL of the video."""
    id: str = Field(min_length=1)
    """The user's name for the video."""


class Shot(Frozen):
    """What a camera took at one go: the frames between two cuts."""

    start_seconds: float = Field(ge=0, allow_inf_nan=False)
    """Where it begins: at the cut, or where the video or its segment does."""
    end_seconds: float | None = Field(None, allow_inf_nan=False)
    """Where the next one begins; null for the last, which goes on to the end."""
    frames: int = Field(ge=1)
    """Number of frames."""


class VideoInfo(Frozen):
    """How much there is of a video."""

    frames: int = Field(ge=1)
    """Number of frames."""
    fps: float = Field(ge=0, allow_inf_nan=False)
    """Average frames per second; 0 if the video does not state it."""
    taken: int | None = Field(None, ge=1)
    """How many of the frames a sampling takes, before it mirrors any; null if none was asked about."""
    shots: tuple[Shot, ...] = ()
    """Its shots, if the sampling is by them."""


class Segment(Frozen):
    """A part of a video: its frames from ``start_seconds`` on, before ``end_seconds``, by their presentation times.

    If it ends before its next frame, it has the one that is shown at its start.
    """

    start_seconds: float = Field(ge=0, allow_inf_nan=False)
    """Time of the first frame that may belong to it."""
    end_seconds: float | None = Field(None, allow_inf_nan=False)
    """Time of the first frame after it; null for the video's end."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.end_seconds is not None and self.end_seconds <= self.start_seconds:
            raise ValueError(f"a segment from {self.start_seconds:g} to {self.end_seconds:g} s is empty; needed start < end")
        return self


class Window(Frozen):
    """A half-open range [start, stop) of a video's track: the frames that the sampling takes, continued by their mirror image.

    With ``dense``, positions on the track are frame numbers, up to the video's end; with ``fps`` they count the frames that are
    nearest to the moments of that rate. Of a segment, the track is made of its frames alone.
    """

    start: int = Field(ge=0)
    """First position."""
    stop: int = Field(ge=1)
    """Position after the last."""
    segment: Segment | None = None
    """The part of the video that the track is of; null for all of it."""


Part = Window | Segment | None
"""What a clip shows of its video: a window, all of a segment, or all of the video."""


class ClipPolicy(Frozen):
    """Which frames of a video make a clip, and how they are resized for the teacher."""

    frames: int = Field(16, ge=2, le=MOST_FRAMES, multiple_of=2)
    """Frames of one clip."""
    sampling: Sampling = "uniform"
    """``uniform``: one clip over the whole video; ``shots``: one over each shot, which PySceneDetect finds; ``fps``: one clip
    after another at ``fps``; ``dense``: overlapping clips of consecutive frames."""
    fps: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Frames per second to take, by the times at which they are shown; required with the sampling ``fps``, and only there."""
    preprocessing: Preprocessing = "l4p"
    """How frames are resized for the teacher. ``l4p``: as L4P's own loader does; ``student``: first to ``student_size``, then
    to the teacher's size."""
    size: int | None = Field(None, ge=14, le=LARGEST_SIZE)
    """Height and width of the frames the teacher sees, in pixels; the teacher's own when absent."""
    student_size: int = Field(384, ge=14, le=LARGEST_SIZE)
    """The student's square input size in pixels; used only by the ``student`` preprocessing and for the signal ``frames``."""
    views: tuple[ClipView, ...] = Field(("plain",), min_length=1)
    """As what each clip is taught. ``flipped``: with left and right swapped, as a row of its own, since the features of a
    mirrored video are not mirrored features. Both together decode a video once."""
    shot_threshold: float = Field(27.0, gt=0, le=255)
    """How much a frame differs from the one before at a cut: the mean difference of hue, saturation and brightness, each of 0
    to 255, as PySceneDetect's ``ContentDetector`` counts it; used only by ``shots``."""
    shortest_shot_seconds: float = Field(0.6, ge=0.01, le=3600)
    """Cuts that follow each other in less time are taken for one; used only by ``shots``."""
    hdr: Hdr = "refuse"
    """What becomes of high dynamic range (PQ, HLG). ``refuse``: the clip fails; ``bt2390``: it is mapped to SDR by the curve of
    ITU-R BT.2390."""
    interlaced: Interlaced = "refuse"
    """What becomes of interlaced frames. ``refuse``: the clip fails; ``bwdif``: FFmpeg's filter of that name makes of each a
    picture of the time of its first field."""
    max_undecodable_tail_share: float = Field(DEFAULT_TAIL_SHARE, ge=0, lt=1)
    """The most that may lack at the end of a video or segment, as a share of its frames, since it was cut short or is damaged.
    A clip that would have shown them is then of the frames before; with more, it fails."""

    @model_validator(mode="after")
    def _each_view_once(self) -> Self:
        if len(set(self.views)) != len(self.views):
            raise ValueError("`views` names a view twice; name each once")
        return self

    @model_validator(mode="after")
    def _a_rate_where_it_is_used(self) -> Self:
        if self.sampling == "fps" and self.fps is None:
            raise ValueError("`sampling: fps` needs `fps`, the frames per second to take")
        if self.sampling != "fps" and self.fps is not None:
            raise ValueError(
                f"`fps` is for `sampling: fps`, and the sampling here is {self.sampling}; change it or leave `fps` out"
            )
        return self


class Clip(Frozen):
    """One row of the store: a window of one video."""

    clip_id: str
    """Unique name of the clip in the store."""
    row: int = Field(ge=0)
    """Index on the first axis of every array."""
    video: str
    """The video's uri."""
    video_id: str
    """The user's name for the video or segment. Under ``uniform`` it is also the clip's id; ``shots`` adds the shot's times,
    ``ID@0-12.48``, and the others a window, ``ID#0000``. Of a flipped clip, the id ends with ``~flipped``."""
    content_digest: str | None
    """What tells that the video changed, its kind first: ``etag:SIZE:ETAG``, as its server lists it, or ``sampled-sha256:HEX``,
    a digest of its size and of three blocks of its file. For a member of a tar and for a folder of pictures it ends with ``@``
    and what its uri ends with. Null if the video could not be read when planned."""
    window_start: int | None = None
    window_stop: int | None = None
    """With ``window_start``, the clip's `Window`; null under ``uniform``, and if the video could not be opened when planned."""
    segment_start: float | None = None
    segment_end: float | None = None
    """The clip's `Segment` in seconds, of which the window is; ``segment_start`` is null if the clip is of the whole video, and
    ``segment_end`` also if the segment goes on to the video's end."""
    flipped: bool = False
    """Whether left and right are swapped: `ClipView`."""

    prompt: str | None = None
    """What it gives a teacher that takes more than frames, as JSON: `schemas.prompt.Prompt`. Null for other teachers, and where
    the masks that its list names were not there."""

    @property
    def video_bytes(self) -> int:
        """Length of the video's file, if what is kept of its server's listing says it; otherwise 0."""
        kind, size, *rest = [*(self.content_digest or "").split(":", 2), ""]
        return int(size) if kind == "etag" and size.isdigit() and "@" not in rest[0] else 0

    @property
    def segment(self) -> Segment | None:
        """``segment_start`` and ``segment_end``, or None."""
        if self.segment_start is None:
            return None
        return Segment(start_seconds=self.segment_start, end_seconds=self.segment_end)

    @property
    def part(self) -> Part:
        """What the clip shows of its video."""
        return self.window or self.segment

    @property
    def window(self) -> Window | None:
        """``window_start`` and ``window_stop`` in the segment, or None."""
        if self.window_start is None or self.window_stop is None:
            return None
        return Window(start=self.window_start, stop=self.window_stop, segment=self.segment)


class FrameClock(Frozen):
    """Which frames of its video a clip has, and when they are shown."""

    frame_index: tuple[int, ...]
    """Frame number in the video of each frame of the clip, counted from 0."""
    timestamps_seconds: tuple[float, ...]
    """Presentation time of each frame in seconds, as the video states it; a video need not start at 0."""
    undecodable_tail_frames: int = Field(0, ge=0)
    """Frames at the end of the video, or of its segment, that do not decode, and that the clip was made without."""
