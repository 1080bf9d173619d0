"""Videos and the clips cut from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Frozen

Sampling = Literal["uniform"]
Preprocessing = Literal["l4p", "student"]

FailureReason = Literal[
    "video_missing",  # nothing at the uri
    "video_empty",  # zero bytes
    "not_a_video",  # no decoder opens it
    "no_frames",  # opens, but holds no frame
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


class ClipPolicy(Frozen):
    """Which frames of a video make a clip, and how they are brought to the teacher's size."""

    frames: int = Field(16, ge=2, multiple_of=2)
    sampling: Sampling = "uniform"
    preprocessing: Preprocessing = "l4p"
    size: int | None = Field(None, ge=14)
    """Height and width of the frames the teacher sees, in pixels; the teacher's own when absent."""
    student_size: int = Field(384, ge=14)
    """The student's square input size in pixels, which the ``student`` preprocessing passes through."""


class Clip(Frozen):
    """One row of the store: a window of one video."""

    clip_id: str
    row: int = Field(ge=0)
    video: str
    """The video's uri."""
    content_digest: str | None
    """Digest of the video's size and sampled blocks; None where the video could not be read when planned."""


class FrameClock(Frozen):
    """Where a clip's frames lie in their video."""

    frame_index: tuple[int, ...]
    """Source frame number of each frame, counted from 0."""
    timestamps_seconds: tuple[float, ...]
    """Presentation time of each frame, in seconds."""
