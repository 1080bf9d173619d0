"""A video's windows in, one stitched video of targets out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.clip import Clip
from schemas.errors import BadInput
from teacher_cache.geometry.stitch import STITCHED, Alignment, overwrite, stitch
from teacher_cache.reader.fetch import Values
from teacher_cache.store.layout import CLOCK_ARRAYS

Read = Callable[[Sequence[str], Sequence[str]], dict[str, Values]]
"""(signals, clip ids) → arrays with the clips as first axis: `Cache.read`."""


def read_stitched(read: Read, clips: Sequence[Clip], signals: Sequence[str], align: Alignment, seed: int) -> dict[str, Values]:
    """Stitch the windows ``clips`` of one video: signal → float32 (frame, …), plus ``timestamps`` and ``frame_index``.

    Raises `BadInput` for a signal without a frame axis, and what ``read`` raises.
    """
    if without := [name for name in signals if name not in (*STITCHED, *CLOCK_ARRAYS)]:
        raise BadInput(f"{without[0]!r} has no frame axis to stitch along; {', '.join(STITCHED)} have")
    together = ("depth", "camray") if align == "joint" and {"depth", "camray"} & set(signals) else ()
    wanted = [name for name in STITCHED if name in (*signals, *together)]
    windows = sorted((clip for clip in clips if not clip.flipped), key=lambda clip: clip.window_start or 0)
    found = read([*wanted, *CLOCK_ARRAYS], [clip.clip_id for clip in windows])
    starts = [clip.window_start or 0 for clip in windows]
    stitched = stitch({name: list(found[name]) for name in wanted}, starts, align=align, seed=seed)
    clock = {name: overwrite(list(found[name]), starts) for name in CLOCK_ARRAYS}
    frames = int(clock["frame_index"].max() - clock["frame_index"].min()) + 1  # the last window ends in mirrored frames
    return {name: values[:frames] for name, values in (stitched | clock).items() if name in (*signals, *CLOCK_ARRAYS)}
