"""An interlaced frame and those next to it in; one picture of the time of its first field out, by FFmpeg's ``bwdif``."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from av.filter import Graph


def deinterlaced(before: Any | None, frame: Any, after: Any | None) -> Any:
    """``frame`` with its first field's lines and, in between, lines estimated from the fields around it.

    At a video's ends, and next to damage, ``before`` or ``after`` is None, and the frame's own fields stand in.
    """
    graph = Graph()
    graph.threads = 1  # a decoder has one core
    kind = f"pix_fmt={frame.format.name}:colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"
    source = graph.add("buffer", f"video_size={frame.width}x{frame.height}:{kind}:time_base=1/25")
    filtered, out = graph.add("bwdif", "mode=send_frame:parity=auto:deint=all"), graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(out)
    graph.configure()
    given = [other for other in (before, frame, after) if other is not None]
    for number, other in enumerate(given):
        stamp, base = other.pts, other.time_base
        other.pts, other.time_base = number, Fraction(1, 25)
        source.push(other)
        other.pts, other.time_base = stamp, base
    source.push(None)
    pictures = [out.pull() for _ in given]
    return pictures[0 if before is None else 1]
