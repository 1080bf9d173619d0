"""A store in, drift per clip out: runs the teacher again over committed clips and compares its targets with the stored ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from schemas.clip import Clip
from schemas.errors import BadInput, VideoError
from schemas.report import Finding, Retaught
from schemas.signal import SIGNALS, SignalName
from schemas.storage import StorageOptions
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.identity import is_unchanged
from teacher_cache.clips.video import DecodedClip
from teacher_cache.encodings.drift import DRIFT_ALLOWED, drift_of
from teacher_cache.encodings.registry import encoding
from teacher_cache.io.places import Roots
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.reader.cache import Cache, open_cache
from teacher_cache.teachers.batch import told_of
from teacher_cache.teachers.protocol import Teacher
from teacher_cache.teachers.registry import job_for, loaded


def reteach(
    url: str,
    count: int,
    *,
    weights: str | None = None,
    videos: Sequence[str] = (),
    progress: Progress = no_progress,
    storage_options: StorageOptions | None = None,
) -> tuple[tuple[Retaught, ...], tuple[Finding, ...]]:
    """Teach ``count`` committed clips again, spread evenly over the store's rows, and compare. Writes nothing.

    Drift is the relative RMS difference between the stored and the new values, and of labels the share of an object's pixels
    that differ. Both pass through the store's encoding, so
    drift is 0 if the teacher's output is bit for bit the same. ``weights`` is the URL of the teacher's weights, if it needs
    any; ``videos`` are the folders and URLs that videos may be read from. Returns the drift of each clip, and a finding for
    each clip that drifts by more than 2% in any signal or whose video is missing, changed or does not decode. Raises
    `BadInput` if the weights are not those of the store, or a video is not under ``videos``.
    """
    if count < 1:
        raise BadInput(f"--reteach is {count}; it must be at least 1 clip")
    cache = open_cache(url, storage_options=storage_options)
    identity = cache.recipe.teacher
    teacher = loaded(job_for(identity, weights), "cuda" if torch.cuda.is_available() else "cpu")
    student_size = cache.shape("frames")[1] if "frames" in cache.signals else None
    roots = Roots(tuple(videos), "--videos")
    clips = [clip.model_copy(update={"video": roots.find(clip.video)}) for clip in _spread(cache, count)]
    found: list[Retaught] = []
    findings: list[Finding] = []
    with (
        progress("teaching again", len(clips), "clips") as advance,
        Decoder(cache.recipe.clips, DECODE_TIMEOUT_SECONDS, student_size=student_size) as decoder,
    ):
        for clip, result in zip(clips, _decoded(decoder, clips), strict=True):
            told = _told(teacher, clip, result)
            if isinstance(result, VideoError):
                findings.append(_finding(clip, f"its video does not decode now: {result}"))
            elif not is_unchanged(clip.video, clip.content_digest):
                findings.append(_finding(clip, "its video's content changed since it was taught; `run` teaches it again"))
            elif isinstance(told, VideoError):
                findings.append(_finding(clip, f"what its row gives the teacher beside frames cannot be used now: {told}"))
            else:
                drift = _drift(cache, teacher, clip, result.seen(flipped=clip.flipped), told)
                found.append(Retaught(clip_id=clip.clip_id, drift=drift))
                if beyond := [f"{signal} by {value:.2%}" for signal, value in drift.items() if value > DRIFT_ALLOWED]:
                    findings.append(_finding(clip, f"the teacher now differs from the store in {', '.join(beyond)}"))
            advance(1)
    return tuple(found), tuple(findings)


def _decoded(decoder: Decoder, clips: Sequence[Clip]) -> Iterator[DecodedClip | VideoError]:
    """Each clip's frames, in order. Consecutive clips of one video open it once."""
    for video, of_video in itertools.groupby(clips, lambda clip: clip.video):
        yield from decoder.clips(video, [clip.part for clip in of_video])


def _spread(cache: Cache, count: int) -> Sequence[Clip]:
    ids = cache.committed_ids()
    if not ids:
        return []
    indices = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    return [cache.clip(ids[index]) for index in indices]


def _finding(clip: Clip, detail: str) -> Finding:
    return Finding(kind="drift", key=clip.video, detail=detail, clip_ids=(clip.clip_id,))


def _told(teacher: Teacher, clip: Clip, result: DecodedClip | VideoError) -> list[Any] | VideoError:
    """What the teacher is to be told of the clip beside its frames, or why it cannot be."""
    try:
        return [] if isinstance(result, VideoError) else told_of(teacher, clip, result.clock)
    except VideoError as error:
        return error


def _drift(cache: Cache, teacher: Teacher, clip: Clip, decoded: DecodedClip, told: Sequence[Any]) -> dict[SignalName, float]:
    frames = torch.from_numpy(decoded.frames.copy())[None]
    taught = [signal for signal in cache.signals if SIGNALS[signal].source == "teacher"]
    raw = (teacher.raw(frames, taught, told) if told else teacher.raw(frames, taught)) if taught else {}
    if decoded.student is not None:
        raw["frames"] = torch.from_numpy(decoded.student.copy())[None]
    stored = cache.read(cache.signals, [clip.clip_id])
    drift: dict[SignalName, float] = {}
    for signal in cache.signals:
        encoder = encoding(signal, cache.recipe.encodings[signal])
        arrays, _ = encoder.encode(SIGNALS[signal], raw[signal][0])
        drift[signal] = drift_of(signal, encoder.decode(SIGNALS[signal], arrays), stored[signal][0])
    return drift
