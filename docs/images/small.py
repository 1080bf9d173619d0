"""A picture in, a PNG of 256 colours out: half of the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_small(picture: Image.Image, out: Path) -> None:
    """Write the picture as a dithered PNG, and say how large it came out."""
    picture = picture.convert("RGB")
    palette = picture.quantize(256)
    ground = picture.getpixel((0, 0))  # the largest area must keep its colour: dithering would show there
    colors = np.array(palette.getpalette()).reshape(-1, 3)
    nearest = int(np.abs(colors - ground).sum(axis=1).argmin())
    colors[nearest] = ground
    palette.putpalette(colors.flatten().tolist())
    indices = np.array(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    indices[(np.asarray(picture) == ground).all(axis=-1)] = nearest
    written = Image.fromarray(indices, "P")
    written.putpalette(colors.flatten().tolist())
    written.save(out, optimize=True)
    print(f"{out}: {picture.width} × {picture.height}, {out.stat().st_size / 1000:.0f} kB")
