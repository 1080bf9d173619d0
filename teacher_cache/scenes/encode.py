"""uint8 frames in, an mp4 file that any player opens out; and its first and last frame back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teacher_cache.io.output_folder import written_whole


def encode_video(path: str | Path, frames: npt.NDArray[np.uint8], *, fps: float = 24.0, crf: int = 18) -> None:
    """Write uint8 frames (frame, y, x, RGB) as H.264 in 4:2:0 (``yuv420p``), which every player decodes. Atomic.

    ``crf`` is x264's constant rate factor: 18 is visually lossless; larger values give smaller files. Raises ValueError for
    another shape or dtype, or an odd height or width, which 4:2:0 does not allow. Needs PyAV (the ``teach`` extra).
    """
    import av  # noqa: PLC0415  # scenes can be rendered without the codec libraries

    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; needed are uint8 (frame, y, x, 3), at least one")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"frames are {width}×{height}; 4:2:0 video needs an even width and height")
    with written_whole(Path(path)) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1  # deterministic: x264's output can depend on the number of threads
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def first_and_last(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The first frame and the last of a file that `encode_video` wrote, uint8 (y, x, RGB)."""
    import av  # noqa: PLC0415  # as above

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return frames[0], frames[-1]
