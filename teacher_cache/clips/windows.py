"""From videos with digests to the clips a job is about. Videos with windows are probed, side by side; known ones are not."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.clip import Clip, Footage, Video, Window
from schemas.errors import BadInput, VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decoder import DecoderPool
from teacher_cache.clips.sampling import windows

_PROBES = 8


@dataclass(frozen=True)
class Candidate:
    """A clip that the job is about, before it has a row."""

    clip_id: str
    video: Video
    content_digest: str | None
    window: Window | None = None


def candidates(
    recipe: ClipRecipe,
    digests: Mapping[Video, str | None],
    current: Mapping[str, Clip],
    retry: Collection[str] = (),
    *,
    timeout_seconds: float = 120,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Candidate, ...]:
    """Every clip of the videos, in order. ``digests`` gives each video's content, ``current`` the store's clips.

    Under ``uniform`` that is one clip a video. Otherwise a video whose content the store already has is not opened: its
    windows are in the catalog, unless a clip in ``retry`` is the failed row of a video that could not be probed. A video that
    cannot be opened now gives one candidate without a window; the worker meets the same reason and records it.
    """
    if recipe.sampling == "uniform":
        return tuple(Candidate(video.id, video, digest) for video, digest in digests.items())
    rows: dict[str, list[Clip]] = defaultdict(list)
    for clip in current.values():
        rows[clip.video_id].append(clip)
    known = {video for video, digest in digests.items() if _is_known(rows[video.id], digest, retry)}
    advance(len(known))
    unknown = [video for video, digest in digests.items() if video not in known and digest is not None]
    footage = dict(zip(unknown, _probed(recipe, unknown, timeout_seconds, advance), strict=True))
    found: list[Candidate] = []
    for video, digest in digests.items():
        if video in known:
            found += [Candidate(clip.clip_id, video, digest, clip.window) for clip in rows[video.id]]
        else:
            found += _cut(recipe, video, digest, footage.get(video))
    return _distinct(found)


def _distinct(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """A video called ``a#0000`` may be taken for the first window of ``a``."""
    by_id: dict[str, Candidate] = {}
    for candidate in found:
        first = by_id.setdefault(candidate.clip_id, candidate)
        if first is not candidate:
            uris = f"{first.video.uri} and {candidate.video.uri}"
            raise BadInput(f"clips of {uris} are both called {candidate.clip_id!r}; give one of the videos another id")
    return tuple(found)


def _is_known(rows: Sequence[Clip], digest: str | None, retry: Collection[str]) -> bool:
    """Whether the rows are the clips of this content. A video that cannot be read now says nothing; its rows stay good."""
    if not rows or digest not in (None, rows[0].content_digest):
        return False
    return digest is None or all(clip.window is not None or clip.clip_id not in retry for clip in rows)


def _probed(
    recipe: ClipRecipe, videos: Sequence[Video], timeout_seconds: float, advance: Callable[[int], None]
) -> Iterator[Footage | VideoError]:
    if not videos:
        return
    with DecoderPool(recipe, min(len(videos), os.cpu_count() or 1, _PROBES), timeout_seconds) as pool:
        for footage in pool.probe(video.uri for video in videos):
            yield footage
            advance(1)


def _cut(recipe: ClipRecipe, video: Video, digest: str | None, footage: Footage | VideoError | None) -> list[Candidate]:
    if not isinstance(footage, Footage):
        return [Candidate(video.id, video, digest)]
    cut = windows(recipe, footage)
    return [Candidate(f"{video.id}#{number:04d}", video, digest, window) for number, window in enumerate(cut)]
