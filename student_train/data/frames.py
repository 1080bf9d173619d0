"""A video and frame numbers, or an image, go in; square uint8 frames for the student come out, cached in memory."""

from __future__ import annotations

import io
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from schemas.clip import Segment
from schemas.errors import BadInput, CouldNotRun, VideoError
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.preprocess import BAD_PICTURE, FrameSize, resize
from teacher_cache.io.remote import filesystem

if TYPE_CHECKING:
    from teacher_cache import Targets

Seen = TypeVar("Seen")
Frames = np.ndarray[Any, np.dtype[np.uint8]]


class Watched(NamedTuple):
    """Frames spread over a whole video."""

    frames: Frames
    """(frame, size, size, RGB)."""
    timestamps: np.ndarray[Any, np.dtype[np.float64]]
    """(frame,) presentation times in seconds, as the video states them."""
    seconds: float
    """Length of the video, or from the first frame to the last of a segment."""

    def each_once(self) -> Watched:
        """Without repeated frames, which footage has that is shorter than the number of frames asked for."""
        is_new = np.diff(self.timestamps, prepend=-np.inf) > 0
        return Watched(self.frames[is_new], self.timestamps[is_new], self.seconds)


def reads_stored_frames(cache: Targets, size: int, wanted: Literal["store", "videos"] | None) -> bool:
    """Whether a student that takes frames of ``size`` pixels reads its clips' frames from the store; see `DataConfig.frames`.

    Raises `BadInput` if it is to, and the store has none of that size.
    """
    found = cache.shape("frames")[1] if "frames" in cache.signals else None
    if wanted == "store" and found != size:
        has = "no frames" if found is None else f"frames of {found} pixels"
        raise BadInput(
            f"`data.frames` is store, and {cache.url} has {has}; this student takes {size} pixels. Add `frames` to the "
            f"`signals` of the job that wrote it, with `clips.student_size: {size}`, and run it again, which only decodes; or "
            "leave `data.frames` out to decode while training."
        )
    return found == size and wanted != "videos"


class StudentFrames:
    """Frames at the student's size, with a least-recently-used cache of ``cache_bytes``. Pickles without the cache.

    Videos are decoded and resized in a process of their own, as those of the teacher; it starts with the first video, and ends
    with this object. One thread may use it at a time.

    ``size``: height and width of the frames in pixels. ``decode_timeout_seconds``: deadline of a video's frames.
    """

    def __init__(self, size: int, cache_bytes: int, decode_timeout_seconds: float = DECODE_TIMEOUT_SECONDS) -> None:
        self.size = size
        self.cache_bytes = cache_bytes
        self.decode_timeout_seconds = decode_timeout_seconds
        self._begin()

    def _begin(self) -> None:
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._kept_bytes = 0
        self._decoder = Decoder(None, self.decode_timeout_seconds)
        weakref.finalize(self, self._decoder.close)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("size", "cache_bytes", "decode_timeout_seconds")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __call__(self, uri: str, frame_index: Sequence[int]) -> Frames:
        """The frames of these numbers, uint8 (frame, size, size, RGB). Raises `CouldNotRun` if the video cannot be read."""
        key = (uri, tuple(int(i) for i in frame_index))
        return self._once(key, lambda: self._numbered(*key), lambda frames: frames.nbytes)

    def whole(self, uri: str, count: int) -> Watched:
        """``count`` frames, spread over the whole video. Raises `CouldNotRun` if it cannot be read."""
        return self._once((uri, "whole", count), lambda: self._watched(uri, count), lambda watched: watched.frames.nbytes)

    def watch(self, uri: str, count: int, segment: Segment | None = None) -> Watched:
        """As `whole`, of a segment if one is given, without the cache. Raises `VideoError`.

        A conversation is about the whole video, however a store's sampling cuts it into clips. The frames are those numbered
        round(linspace(0, n − 1, count)): with ``uniform`` sampling, exactly the frames that the teacher saw.
        """
        seen = self._decoder.frames(uri, count, FrameSize(self.size), segment)
        timestamps = np.array(seen.clock.timestamps_seconds)
        fps = seen.footage.fps if segment is None else 0.0
        return Watched(seen.frames, timestamps, _length(seen.footage.frames, fps, timestamps))

    def image(self, uri: str) -> Frames:
        """An image, uint8 (size, size, RGB), rotated by its EXIF orientation. Raises `CouldNotRun` if it cannot be read."""
        return self._once((uri, "image"), lambda: self.picture(_bytes(uri), uri), lambda frame: frame.nbytes)

    def picture(self, data: bytes, name: str) -> Frames:
        """The same of an image file's bytes, without the cache. ``name``: for messages."""
        return self.fitted(_image(data, name))

    def fitted(self, image: Image.Image) -> Frames:
        """The same of an opened image."""
        return resize(np.asarray(ImageOps.exif_transpose(image).convert("RGB")), FrameSize(self.size))

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
            return self.watch(uri, count)
        except VideoError as error:
            raise CouldNotRun(
                f"the student cannot read {uri}: {error}. Restore it, point `data.video_root` at a copy, or set "
                "`data.without_targets: drop` to leave out conversations without targets."
            ) from error

    def _numbered(self, uri: str, frame_index: tuple[int, ...]) -> Frames:
        try:
            return self._decoder.frames(uri, frame_index, FrameSize(self.size)).frames
        except VideoError as error:
            raise CouldNotRun(
                f"the student cannot read {uri}: {error}. The store holds its targets, so it was readable when they were "
                "made: restore it, point `data.video_root` at a copy, or raise `data.decode_timeout_seconds` if it timed out."
            ) from error


def _length(frames: int, fps: float, timestamps: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Length in seconds: frames / fps, or from the first frame to the last if the video states no rate."""
    return frames / fps if fps > 0 else float(timestamps[-1] - timestamps[0])


def _bytes(uri: str) -> bytes:
    fs, path = filesystem(uri)
    try:
        data: bytes = fs.cat_file(path)
    except (OSError, ValueError) as error:
        raise _unreadable(uri, error) from error
    return data


def _image(data: bytes, name: str) -> Image.Image:
    """The image, read to its end."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except BAD_PICTURE as error:
        raise _unreadable(name, error) from error
    return image


def _unreadable(name: str, error: Exception) -> CouldNotRun:
    return CouldNotRun(f"the student cannot read the image {name}: {error}. Restore it, or point `data.image_root` at a copy.")
