"""A video and frame numbers, or an image, in; square uint8 pixels for the student out, each decoded once if memory allows."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from schemas.errors import CouldNotRun, VideoError
from teacher_cache.remote import filesystem

Frames = np.ndarray[Any, np.dtype[np.uint8]]
Decode = Callable[[str, Sequence[int]], Frames]
"""(uri, frame numbers) to uint8 (frame, height, width, RGB), as `teacher_cache.clips.decode.decode_frames`."""


class StudentFrames:
    """Decodes and resizes frames, and keeps the latest within a bound of bytes. Pickles without what it keeps."""

    def __init__(self, size: int, cache_bytes: int, decode: Decode | None = None) -> None:
        self.size = size
        self.cache_bytes = cache_bytes
        self.decode = decode
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Frames] = OrderedDict()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_kept_bytes": 0}

    def __call__(self, uri: str, frame_index: Sequence[int]) -> Frames:
        """Frames as uint8 (frame, size, size, RGB). Raises `CouldNotRun` where the video cannot be read any more."""
        key = (uri, tuple(int(i) for i in frame_index))
        return self._once(key, lambda: self._decoded(*key))

    def image(self, uri: str) -> Frames:
        """An image as uint8 (size, size, RGB), turned as its metadata says. Raises `CouldNotRun` where it cannot be read."""
        frame: Frames = self._once((uri, ()), lambda: _image(uri)[None])[0]
        return frame

    def _once(self, key: tuple[str, tuple[int, ...]], read: Callable[[], Frames]) -> Frames:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        frames = resize(read(), self.size)
        self._keep(key, frames)
        return frames

    def _decoded(self, uri: str, frame_index: tuple[int, ...]) -> Frames:
        try:
            return (self.decode or _decoder())(uri, frame_index)
        except VideoError as error:
            raise CouldNotRun(
                f"the student cannot read {uri}: {error}. The store holds its targets, so the video was readable when it was "
                "taught: bring it back, or point `data.video_root` at a copy."
            ) from error

    def _keep(self, key: tuple[str, tuple[int, ...]], frames: Frames) -> None:
        if frames.nbytes > self.cache_bytes:
            return
        self._kept[key] = frames
        self._kept_bytes += frames.nbytes
        while self._kept_bytes > self.cache_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes


def _decoder() -> Decode:
    from teacher_cache.clips.decode import decode_frames  # noqa: PLC0415  # only who decodes loads a video library

    return decode_frames


def _image(uri: str) -> Frames:
    """uint8 (height, width, RGB)."""
    fs, path = filesystem(uri)
    try:
        with Image.open(io.BytesIO(fs.cat_file(path))) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise CouldNotRun(
            f"the student cannot read the image {uri}: {error}. Bring it back, or point `data.image_root` at a copy."
        ) from error


def resize(frames: Frames, size: int) -> Frames:
    """uint8 (frame, height, width, RGB) to (frame, size, size, RGB): bicubic with antialiasing, aspect ratio squashed.

    As SigLIP's image processor resizes, and as 4D-RGPT's released recipe feeds its student.
    """
    square = [Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(image) for image in square])
