"""A store's URL in, an HTML page of its clips and their videos out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from schemas.errors import BadInput, CacheError, ClipFailed, ClipPending, UnknownClip
from schemas.regions import RegionObject
from schemas.signal import SIGNALS
from schemas.storage import StorageOptions
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.io.places import Roots
from teacher_cache.reader.cache import Cache, open_cache
from teacher_cache.reader.joined import join_caches
from teacher_cache.reader.marked import require_regions
from teacher_cache.report.page import render_page
from teacher_cache.report.panels import ClipPanel

if TYPE_CHECKING:
    import numpy.typing as npt

VIDEOS_OPTION = "--videos"
_CLIPS_SHOWN = 8


class _WithClips(Protocol):
    """A store, or joined ones."""

    @property
    def url(self) -> str: ...

    @property
    def clips(self) -> pa.Table: ...


_SHOWN = FrameSize(320, "own")


def write_report(
    url: str,
    clip_ids: Sequence[str] | None,
    out: Path,
    extra_sections: Sequence[str] = (),
    *,
    storage_options: StorageOptions | None = None,
    videos: Sequence[str] = (),
    regions: str | None = None,
) -> list[str]:
    """Write one self-contained HTML file. Returns the ids of the clips that it shows.

    Shows ``clip_ids`` in that order, or the store's first eight clips if None. ``extra_sections`` are trusted HTML, shown
    before the clips. ``videos`` are the folders and URLs that videos may be read from, to show their frames in place of stored
    ones; ``regions`` is another store, whose objects are shown with the rest. Raises `UnknownClip`, and
    `BadInput` if ``out`` cannot be written.
    """
    cache = open_cache(url, storage_options=storage_options)
    rows = known_rows(cache, clip_ids)[: None if clip_ids is not None else _CLIPS_SHOWN]
    roots = Roots(tuple(videos), VIDEOS_OPTION)
    with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder:
        of_regions = opened_regions(cache, regions, storage_options)
        panels = (clip_panel(cache, row, decoder, roots, of_regions) for row in rows)
        page = render_page(f"Teacher's targets: {url}", _summary(cache), panels, extra_sections)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}") from None
    return [row["clip_id"] for row in rows]


def known_rows(cache: _WithClips, clip_ids: Sequence[str] | None) -> list[dict[str, Any]]:
    """The rows of `Cache.clips` of these clips, in order, or of all clips if None. Raises `UnknownClip`."""
    rows = {row["clip_id"]: row for row in cache.clips.to_pylist()}
    wanted = list(rows) if clip_ids is None else list(clip_ids)
    if unknown := [clip_id for clip_id in wanted if clip_id not in rows]:
        raise UnknownClip(
            f"the store {cache.url} has no clip {unknown[0]!r}; its ids are in the output of `status` and in cache.clips"
        )
    return [rows[clip_id] for clip_id in wanted]


def _summary(cache: Cache) -> dict[str, str]:
    teacher, clips = cache.recipe.teacher, cache.recipe.clips
    statuses = cache.clips["status"].to_pylist()
    return {
        "teacher": f"{teacher.family}, {teacher.dtype}, weights {teacher.weights[:19]}…",
        "clips": ", ".join(f"{statuses.count(s)} {s}" for s in ("committed", "failed", "pending")),
        "signals": ", ".join(f"{s} ({cache.recipe.encodings[s]})" for s in cache.signals),
        "frames": f"{clips.frames}, {clips.sampling}, {clips.size} pixels by the recipe {clips.preprocessing}",
        "fingerprint": cache.recipe.fingerprint[:16],
    }


def opened_regions(cache: Cache, url: str | None, storage_options: StorageOptions | None) -> Cache | None:
    """The store of regions, if one is named. Raises `SignalMissing` if it has none, `JoinRefused` if its frames are others."""
    if url is None:
        return None
    regions = open_cache(url, storage_options=storage_options)
    require_regions(regions)
    join_caches({"store": cache, "regions": regions})
    return regions


def clip_panel(cache: Cache, row: dict[str, Any], decoder: Decoder, roots: Roots, regions: Cache | None = None) -> ClipPanel:
    """The data to show of a clip, given its row of `Cache.clips`; its frames if its video is under ``roots``, or as stored.

    ``regions`` is another store, whose label map and objects of the clip are shown if it has the clip.
    """
    values: dict[str, npt.NDArray[Any]] = {}
    if row["status"] == "committed":
        shown = [signal for signal in cache.signals if SIGNALS[signal].source == "teacher"]
        found = cache.read([*shown, "timestamps", "frame_index"], [row["clip_id"]])
        values = {name: array[0] for name, array in found.items()}
    holder = cache if "objects" in values else regions
    objects: tuple[RegionObject, ...] = ()
    if values and holder is not None:
        with suppress(UnknownClip, ClipFailed, ClipPending):
            values["regions"] = holder.read(["regions"], [row["clip_id"]])["regions"][0]
            (objects,) = holder.objects([row["clip_id"]])
    clock = {name: values.pop(name, np.empty(0)) for name in ("timestamps", "frame_index")}
    frames = _frames(decoder, roots, row, clock["frame_index"])
    return ClipPanel(
        clip_id=row["clip_id"],
        video=row["video"],
        status=row["status"],
        reason=row["reason"],
        detail=row["detail"],
        frames=_stored(cache, row) if frames is None else frames,
        timestamps_seconds=tuple(float(t) for t in clock["timestamps"]),
        frame_index=tuple(int(i) for i in clock["frame_index"]),
        signals=values,
        objects=objects,
        f4d_layers=tuple(cache.recipe.teacher.config.get("hooks", ())),
    )


def _stored(cache: Cache, row: dict[str, Any]) -> npt.NDArray[np.uint8] | None:
    """The student's frames of a committed clip, if the store has them."""
    if row["status"] != "committed" or "frames" not in cache.signals:
        return None
    frames: npt.NDArray[np.uint8] = cache.read(["frames"], [row["clip_id"]])["frames"][0]
    return frames


def _frames(decoder: Decoder, roots: Roots, row: dict[str, Any], frame_index: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """The clip's frames, at the page's size. None if the video may or can not be read; its targets are shown nevertheless."""
    if not len(frame_index):
        return None
    try:
        frames = decoder.frames(roots.find(row["video"]), frame_index.tolist(), _SHOWN).frames
        return frames[:, :, ::-1] if row["flipped"] else frames
    except (ImportError, OSError, CacheError):  # the decoder is an extra
        return None
