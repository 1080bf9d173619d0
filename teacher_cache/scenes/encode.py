"""Frames to a video file. In: uint8 frames. Out: an mp4 that any player opens."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teacher_cache.io.output_folder import written_whole


def encode_video(path: str | Path, frames: npt.NDArray[np.uint8], *, fps: float = 24.0, crf: int = 18) -> None:
    """Write frames (frame, y, x, RGB) as H.264 in 4:2:0 (``yuv420p``), which every player decodes; whole or not at all.

    ``crf`` is x264's constant rate factor: 18 is visually lossless, larger is smaller. Raises ValueError where the frames have
    another shape or type, or an odd height or width, which 4:2:0 cannot hold. Needs PyAV (the ``teach`` extra).
    """
    import av  # noqa: PLC0415  # reading or rendering scenes does not take the codec libraries

    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; needed are uint8 (frame, y, x, 3), at least one")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"frames are {width}×{height}; 4:2:0 video needs an even width and height")
    with written_whole(Path(path)) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1  # one file for one input: x264's result can depend on the number of threads
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
