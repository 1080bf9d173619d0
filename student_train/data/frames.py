"""A video and frame numbers, or an image, go in; square uint8 frames for the student come out, cached in memory."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from schemas.errors import CouldNotRun, VideoError
from teacher_cache.io.remote import filesystem

Seen = TypeVar("Seen")
Frames = np.ndarray[Any, np.dtype[np.uint8]]
Decode = Callable[[str, Sequence[int]], Frames]
"""(uri, frame numbers) to uint8 (frame, height, width, RGB), as `teacher_cache.clips.decode.decode_frames`."""


class Watched(NamedTuple):
    """Frames spread over a whole video."""

    frames: Frames
    """(frame, size, size, RGB)."""
    timestamps: np.ndarray[Any, np.dtype[np.float64]]
    """(frame,) presentation times in seconds, as the video states them."""
    seconds: float
    """Length of the video."""


class StudentFrames:
    """Decodes and resizes frames, with a least-recently-used cache of ``cache_bytes``. Pickles without the cache.

    ``size``: height and width of the frames in pixels.
    """

    def __init__(self, size: int, cache_bytes: int, decode: Decode | None = None) -> None:
        self.size = size
        self.cache_bytes = cache_bytes
        self.decode = decode
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_kept_bytes": 0}

    def __call__(self, uri: str, frame_index: Sequence[int]) -> Frames:
        """The frames of these numbers, uint8 (frame, size, size, RGB). Raises `CouldNotRun` if the video cannot be read."""
        key = (uri, tuple(int(i) for i in frame_index))
        return self._once(key, lambda: resize(self._decoded(*key), self.size), lambda frames: frames.nbytes)

    def whole(self, uri: str, count: int) -> Watched:
        """``count`` frames, spread over the whole video. Raises `CouldNotRun` if it cannot be read."""
        return self._once((uri, "whole", count), lambda: self._watched(uri, count), lambda watched: watched.frames.nbytes)

    def image(self, uri: str) -> Frames:
        """An image, uint8 (size, size, RGB), rotated by its EXIF orientation. Raises `CouldNotRun` if it cannot be read."""
        return self._once((uri, "image"), lambda: resize(_image(uri)[None], self.size)[0], lambda frame: frame.nbytes)

    def _once(self, key: Hashable, read: Callable[[], Seen], size: Callable[[Seen], int]) -> Seen:
        """The cached value, or the value read now and cached."""
        if key in self._kept:
            self._kept.move_to_end(key)
            kept: Seen = self._kept[key][0]
            return kept
        seen = read()
        if size(seen) <= self.cache_bytes:
            self._kept[key] = seen, size(seen)
            self._kept_bytes += size(seen)
        while self._kept_bytes > self.cache_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1][1]
        return seen

    def _watched(self, uri: str, count: int) -> Watched:
        try:
            return watch(uri, count, self.size)
        except VideoError as error:
            raise CouldNotRun(
                f"the student cannot read {uri}: {error}. Restore it, point `data.video_root` at a copy, or set "
                "`data.without_targets: drop` to leave out conversations without targets."
            ) from error

    def _decoded(self, uri: str, frame_index: tuple[int, ...]) -> Frames:
        try:
            return (self.decode or _decoder())(uri, frame_index)
        except VideoError as error:
            raise CouldNotRun(
                f"the student cannot read {uri}: {error}. The store holds its targets, so it was readable when they were "
                "made: restore it, or point `data.video_root` at a copy."
            ) from error


def _decoder() -> Decode:
    from teacher_cache.clips.decode import decode_frames  # noqa: PLC0415  # loads a video library, so only when needed

    return decode_frames


def watch(uri: str, count: int, size: int) -> Watched:
    """``count`` frames, spread over the whole video and resized to ``size``. Raises `VideoError`.

    A conversation is about the whole video, however a store's sampling cuts it into clips. The frames are those numbered
    round(linspace(0, n − 1, count)): with ``uniform`` sampling, exactly the frames that the teacher saw.
    """
    from teacher_cache.clips.decode import opened  # noqa: PLC0415  # loads a video library, so only when needed
    from teacher_cache.clips.sampling import spread  # noqa: PLC0415

    with opened(uri) as video:
        footage = video.footage
        indices = spread(count, footage)
        wanted = sorted(set(indices))
        # Resized one by one, so that full-size frames do not pile up in memory.
        found = {
            i: (resize(frame.picture[None], size)[0], frame.seconds)
            for i, frame in zip(wanted, video.frames(wanted), strict=True)
        }
    timestamps = np.array([found[index][1] for index in indices])
    return Watched(
        np.stack([found[index][0] for index in indices]), timestamps, _length(footage.frames, footage.fps, timestamps)
    )


def _length(frames: int, fps: float, timestamps: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Length in seconds: frames / fps, or from the first frame to the last if the video states no rate."""
    return frames / fps if fps > 0 else float(timestamps[-1] - timestamps[0])


def _image(uri: str) -> Frames:
    """uint8 (height, width, RGB)."""
    fs, path = filesystem(uri)
    try:
        with Image.open(io.BytesIO(fs.cat_file(path))) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise CouldNotRun(
            f"the student cannot read the image {uri}: {error}. Restore it, or point `data.image_root` at a copy."
        ) from error


def resize(frames: Frames, size: int) -> Frames:
    """uint8 (frame, height, width, RGB) to (frame, size, size, RGB): bicubic with antialiasing, ignoring the aspect ratio.

    The same as SigLIP's image processor and 4D-RGPT's released recipe.
    """
    square = [Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(image) for image in square])
