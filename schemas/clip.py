"""Videos and the clips cut from them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.base import Frozen

Sampling = Literal["uniform", "fps", "dense"]
Preprocessing = Literal["l4p", "student"]

FailureReason = Literal[
    "video_missing",  # nothing at the uri
    "video_empty",  # zero bytes
    "not_a_video",  # no decoder opens it
    "no_frames",  # opens, but holds no frame
    "not_probed",  # opens now, but could not be opened when its windows were planned
    "decode_error",  # opens, but the wanted frames do not decode
    "decode_timeout",  # the decoder passed its deadline and was killed
    "decoder_crashed",  # the decoder's process died
    "teacher_nonfinite",  # the teacher gave NaN or infinity
    "encoding_bound",  # the encoding cannot hold the values within its stated bound
    "superseded",  # a later row holds the clip; this one was never taught
]


class Video(Frozen):
    """One source video: where it is and what the user calls it."""

    uri: str = Field(min_length=1)
    id: str = Field(min_length=1)


class VideoInfo(Frozen):
    """What a video holds: all that the choice of frames is a function of, besides the recipe."""

    frames: int = Field(ge=1)
    fps: float = Field(ge=0, allow_inf_nan=False)
    """Average frames per second; 0 where the video does not say."""


class Window(Frozen):
    """A half-open range [start, stop) of a video's track: the frames its sampling takes, continued by their mirror image.

    For ``dense`` positions on the track are frame numbers, up to the video's end; for ``fps`` they count the frames at that
    rate.
    """

    start: int = Field(ge=0)
    stop: int = Field(ge=1)


class ClipPolicy(Frozen):
    """Which frames of a video make a clip, and how they are brought to the teacher's size."""

    frames: int = Field(16, ge=2, multiple_of=2)
    """Frames of one clip."""
    sampling: Sampling = "uniform"
    """``uniform``: one clip over the whole video; ``fps``: one clip after another at ``fps``; ``dense``: overlapping clips of
    consecutive frames."""
    fps: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Frames per second that the sampling ``fps`` takes."""
    preprocessing: Preprocessing = "l4p"
    """How frames come to the teacher's size: ``l4p``: as L4P's own loader resizes; ``student``: by ``student_size`` first."""
    size: int | None = Field(None, ge=14)
    """Height and width of the frames the teacher sees, in pixels; the teacher's own when absent."""
    student_size: int = Field(384, ge=14)
    """The student's square input size in pixels, which the ``student`` preprocessing passes through."""

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
    row: int = Field(ge=0)
    video: str
    """The video's uri."""
    video_id: str
    """What the user calls the video. The clip's id is the same under ``uniform``; else it adds its window: ``ID#0000``."""
    content_digest: str | None
    """Digest of the video's size and sampled blocks; None where the video could not be read when planned."""
    window_start: int | None = None
    window_stop: int | None = None
    """The clip's `Window`. None under ``uniform``, and where the video could not be probed when planned."""

    @property
    def window(self) -> Window | None:
        if self.window_start is None or self.window_stop is None:
            return None
        return Window(start=self.window_start, stop=self.window_stop)


class FrameClock(Frozen):
    """Where a clip's frames lie in their video."""

    frame_index: tuple[int, ...]
    """Source frame number of each frame, counted from 0."""
    timestamps_seconds: tuple[float, ...]
    """Presentation time of each frame, in seconds, as the video says it: the first frame of all need not be at 0."""
