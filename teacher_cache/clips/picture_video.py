"""A file of packed pictures in, an opened video out, by Pillow: see `teacher_cache.clips.pictures`."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from schemas.clip import VideoInfo
from schemas.errors import VideoError
from teacher_cache.clips.packets import MAX_PIXELS
from teacher_cache.clips.preprocess import BAD_PICTURE, Frame
from teacher_cache.clips.video import PACKED_PICTURES, PLAIN, Shown, TimedFrame

DECODER = f"Pillow {PIL.__version__} (pictures)"
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


class _Packed(NamedTuple):
    name: str
    start: int
    size: int


class PictureVideo:
    """`teacher_cache.clips.video.OpenVideo`, by Pillow. Frame ``n`` is shown at ``n / fps``."""

    decoder = DECODER
    missing = 0

    def __init__(self, file: int, pictures: Sequence[_Packed], fps: float) -> None:
        self._file, self._pictures = file, pictures
        self.times = np.arange(len(pictures)) / fps
        self.footage = VideoInfo(frames=len(pictures), fps=fps)
        self._other_size = self._of_other_size()

    def whole_frames(self, least: int) -> int:
        """See `OpenVideo.whole_frames`."""
        for number in range(len(self._pictures), max(least - 1, 0), -1):
            with contextlib.suppress(VideoError):
                self._picture(number - 1)
                return number
        return max(least - 1, 0)

    def frames(self, indices: Sequence[int]) -> Iterator[TimedFrame]:
        """See `OpenVideo.frames`."""
        if self._other_size:
            raise VideoError("decode_error", self._other_size)
        for index in indices:
            yield TimedFrame(self._picture(index), float(self.times[index]))

    def _picture(self, index: int) -> Frame:
        try:
            with self._opened(index) as image:
                if image.mode not in _EIGHT_BITS:
                    raise ValueError(f"its pixels are of the kind {image.mode}, and 8 bits a colour were needed")
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except BAD_PICTURE as error:
            name = self._pictures[index].name
            raise VideoError("decode_error", f"frame {index} of {len(self._pictures)}, {name}: {error}") from None

    def _opened(self, index: int) -> Image.Image:
        _, start, size = self._pictures[index]
        image = Image.open(io.BytesIO(os.pread(self._file, size, start)), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it is {image.width} × {image.height}; {MAX_PIXELS} pixels may be decoded")
        return image

    def _of_other_size(self) -> str | None:
        """What is said of a picture whose size is not the first's, by their headers; one that has none does not decode."""
        first: tuple[str, tuple[int, int]] | None = None
        for index, picture in enumerate(self._pictures):
            try:
                with self._opened(index) as image:
                    size = image.size
            except BAD_PICTURE:
                continue
            first = first or (picture.name, size)
            if size != first[1]:
                (width, height), (name, (its_width, its_height)) = size, first
                sizes = f"{picture.name} is {width} × {height}, and {name} is {its_width} × {its_height}"
                return f"{sizes}; the pictures of a video have one size"
        return None


@contextlib.contextmanager
def opened(file: int, _shown: Shown = PLAIN) -> Iterator[PictureVideo]:
    """`teacher_cache.clips.video.Opener`, by Pillow."""
    if os.pread(file, len(PACKED_PICTURES), 0) != PACKED_PICTURES:
        raise VideoError("not_a_video", "")  # there is nothing to say of another format
    begin = len(PACKED_PICTURES) + 8
    length = int.from_bytes(os.pread(file, 8, len(PACKED_PICTURES)), "little")
    try:
        header = json.loads(os.pread(file, length, begin))
        names, sizes = zip(*header["pictures"], strict=True)
        starts = itertools.accumulate(sizes, initial=begin + length)
        pictures = [_Packed(*one) for one in zip(names, starts, sizes, strict=False)]
        fps = float(header["fps"])
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise VideoError("not_a_video", f"damaged: {error}") from None
    yield PictureVideo(file, pictures, fps)
