"""uint8 pictures of a clip's frames in; one image as a data URI, with the frames in a grid, out."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

_COLUMNS = 8
_TILE_PIXELS = 224
_FULL_SIZE_FRAMES = 16
_JPEG_BLOCK = 8


@dataclass(frozen=True)
class Sprite:
    """All frames of one signal in one image: frame i is in column i % columns of row i // columns."""

    uri: str
    count: int
    columns: int
    rows: int
    pixelated: bool
    """Whether its pixels are cells of a coarse grid, to be shown as squares."""


def photo_sprite(frames: npt.NDArray[np.uint8], *, quality: int, full_color: bool = False) -> Sprite:
    """A JPEG sprite of frames (frame, y, x, 3), at most 224 pixels per side, less for more than 16 frames.

    ``full_color`` disables chroma subsampling, for pictures whose colours carry the information.
    """
    count, height, width = frames.shape[:3]
    limit = _TILE_PIXELS * min(1.0, math.sqrt(_FULL_SIZE_FRAMES / count))
    scale = min(1.0, limit / max(height, width))
    # Whole JPEG blocks, so that no frame bleeds into its neighbour; the page restores the clip's aspect ratio.
    size = tuple(max(_JPEG_BLOCK, round(side * scale / _JPEG_BLOCK) * _JPEG_BLOCK) for side in (width, height))
    tiles = np.stack([_resized(frame, (size[0], size[1])) for frame in frames])
    buffer = io.BytesIO()
    Image.fromarray(_grid(tiles)).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0 if full_color else 2)
    return _sprite(buffer, "jpeg", count, pixelated=False)


def grid_sprite(frames: npt.NDArray[np.uint8]) -> Sprite:
    """A lossless sprite of coarse grids (frame, y, x, 3), one image pixel per grid cell."""
    buffer = io.BytesIO()
    Image.fromarray(_grid(frames)).save(buffer, "PNG", optimize=True)
    return _sprite(buffer, "png", len(frames), pixelated=True)


def png_uri(picture: npt.NDArray[np.uint8]) -> str:
    """One picture (y, x, 3 or 4) as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "png")


def resize_frames(frames: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Frames (frame, y, x, 3) at another size, antialiased."""
    return np.stack([_resized(frame, (width, height)) for frame in frames])


def _resized(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if frame.shape[:2] == size[::-1]:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def _grid(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Arrange tiles (frame, y, x, 3) in one picture (rows * y, columns * x, 3). Cells after the last frame are grey."""
    count, height, width = tiles.shape[:3]
    columns, rows = _layout(count)
    canvas = np.full((rows * columns, height, width, 3), 128, np.uint8)
    canvas[:count] = tiles
    return canvas.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def _layout(count: int) -> tuple[int, int]:
    columns = min(count, _COLUMNS)
    return columns, math.ceil(count / columns)


def _sprite(buffer: io.BytesIO, kind: str, count: int, *, pixelated: bool) -> Sprite:
    columns, rows = _layout(count)
    return Sprite(data_uri(buffer.getvalue(), kind), count, columns, rows, pixelated)


def data_uri(picture: bytes, kind: str) -> str:
    """An image file as a URI, so that a page needs nothing else for it. ``kind``: ``png`` or ``jpeg``, as in its type."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
