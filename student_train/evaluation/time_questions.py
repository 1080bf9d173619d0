"""Videos in; a question about each one's length out, as TimeBench asks them (4D-RGPT, arXiv 2512.17012)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.data import TimeQuestionsReport
from schemas.errors import BadInput, VideoError
from schemas.job import VideoSource
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.sources import list_videos
from teacher_cache.io.console import progress_bar
from teacher_cache.io.output_folder import require_writable, write_json
from teacher_cache.io.places import local_path

QUESTION = "How much time passes from the video's first frame to its last?"
TASK = "Elapsed Time"
_BELOW, _ABOVE = (0.25, 0.35, 0.5, 0.71), (1.41, 2.0, 2.83, 4.0)
"""Factors of the wrong options."""


def write_time_questions(patterns: Sequence[str], out: Path, *, seed: int = 0) -> TimeQuestionsReport:
    """Write one question for each video that the patterns match, in R4D-Bench's fields. Videos are opened, not decoded.

    A path in the file is relative to the file's folder, if the video lies below it. Raises `BadInput`, `Unreachable`.
    """
    require_writable(out)
    videos = list_videos(VideoSource(glob=tuple(patterns)))
    questions: list[dict[str, Any]] = []
    left_out: list[str] = []
    with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder, progress_bar("opening", videos.num_rows, "videos") as advance:
        for name, uri in zip(videos["id"].to_pylist(), videos["uri"].to_pylist(), strict=True):
            advance(1)
            try:
                footage = decoder.probe(uri)
            except VideoError as error:
                left_out.append(f"{uri}: {error}")
                continue
            if footage.frames < 2 or footage.fps <= 0:
                left_out.append(f"{uri}: it has {footage.frames} frames at {footage.fps:g} a second; needed two, and a rate")
                continue
            seconds = (footage.frames - 1) / footage.fps
            options, right = time_options(seconds, np.random.default_rng([seed, *name.encode()]))
            questions.append(
                {"id": name, "benchmark": "time", "task": TASK, "video": _below(uri, out.parent), "question": QUESTION,
                 "options": options, "answer": options[right]}
            )  # fmt: skip
    if not questions:
        raise BadInput("\n".join(["no video has a question:", *left_out]))
    write_json(out, questions)
    return TimeQuestionsReport(out=str(out), questions=len(questions), left_out=tuple(left_out))


def time_options(seconds: float, rng: np.random.Generator) -> tuple[list[str], int]:
    """(five options in random order, the right one's index): the truth, and four others between its quarter and its fourfold.

    How many of them are below it is random, too: were the truth always the middle one, it could be told without the video.
    """
    below = int(rng.integers(5))
    factors = [*rng.permutation(_BELOW)[:below], 1.0, *rng.permutation(_ABOVE)[: 4 - below]]
    order = rng.permutation(5)
    return [_seconds(seconds * factors[index]) for index in order], int(np.flatnonzero(order == below)[0])


def _seconds(value: float) -> str:
    return f"{float(f'{value:.3g}'):g} s"


def _below(uri: str, folder: Path) -> str:
    path = local_path(uri)
    if path is None:
        return uri
    real, base = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return str(real.relative_to(base)) if real.is_relative_to(base) else str(real)
