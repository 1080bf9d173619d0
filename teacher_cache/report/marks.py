"""A store of regions in; a Set-of-Mark picture of each clip out, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from schemas.errors import BadInput, VideoError
from schemas.report import MarksReport, MarkStyle, UndrawnClip
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.io.output_folder import file_name, written_whole
from teacher_cache.io.places import Roots
from teacher_cache.reader.marked import RegionFrames, RegionTargets, require_regions
from teacher_cache.report.write import VIDEOS_OPTION, known_rows


def write_marks(
    cache: RegionTargets,
    clip_ids: Sequence[str] | None,
    out: Path,
    *,
    videos: Sequence[str] = (),
    frame: int = 0,
    style: MarkStyle = "box",
    size: FrameSize,
) -> MarksReport:
    """Write ``out/CLIP.png`` for each of ``clip_ids``, or for every committed clip if None.

    ``videos``: folders and URLs that videos may be read from. ``frame``: which of the clip's frames, from 0. A clip that cannot
    be drawn costs itself alone. Raises `SignalMissing` for a store without regions, `UnknownClip`, and `BadInput` if the folder
    cannot be written.
    """
    require_regions(cache)
    rows = [row for row in known_rows(cache, clip_ids) if clip_ids is not None or row["status"] == "committed"]
    files: list[str] = []
    undrawn: list[UndrawnClip] = []
    with RegionFrames(cache, Roots(tuple(videos), VIDEOS_OPTION), size) as frames:
        for row in rows:
            clip_id = row["clip_id"]
            if row["status"] != "committed":
                reason = row["reason"] or row["status"]
                undrawn.append(UndrawnClip(clip_id=clip_id, reason=reason, detail=row["detail"] or "it has no targets"))
                continue
            try:
                picture = frames(clip_id, row["video"], frame).marked(style=style)
            except VideoError as error:
                undrawn.append(UndrawnClip(clip_id=clip_id, reason=error.reason, detail=error.detail))
                continue
            except BadInput as error:
                undrawn.append(UndrawnClip(clip_id=clip_id, reason="not_shown", detail=str(error)))
                continue
            path = out / file_name(clip_id, ".png")
            try:
                out.mkdir(parents=True, exist_ok=True)
                with written_whole(path) as draft:
                    Image.fromarray(picture).save(draft, "PNG")
            except OSError as error:
                raise BadInput(f"cannot write {path}: {error.strerror or error}; give another --out") from None
            files.append(str(path))
    return MarksReport(out=str(out), files=tuple(files), undrawn=tuple(undrawn))
