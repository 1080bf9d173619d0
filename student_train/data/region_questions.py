"""A store with label maps and maps in; questions about its objects out, answered from the teacher's own maps by templates.

The answers are pseudo-labels: a teacher's opinion, marked as such in every record. A question is asked only where its answer is
clear of what is known of the maps' errors: the bound of their encoding, and twice the standard error of a region's mean. What
the teacher itself gets wrong is in neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from schemas.data import RegionQuestionKind, RegionQuestionsReport
from schemas.errors import BadInput
from schemas.evaluation import OPTION_LETTERS, multiple_choice
from teacher_cache import open_cache
from teacher_cache.io.console import progress_bar
from teacher_cache.io.output_folder import require_writable, write_json
from teacher_cache.reader.joined import join_caches
from teacher_cache.reader.region_stats import RegionStats

_AT_ONCE = 256
"""Clips whose statistics are in memory at once."""
_INDEPENDENT = 14.0**2
"""Pixels of a map that say as much as one would alone: a ViT's patch. A region's mean over n pixels has the standard error of
n / 196 values, and at least of one."""
_SIGMAS = 2.0
_DOMINANT = 1.4
"""How many times larger a movement must be in one direction than in the other, to be the answer."""
_LEAST_PIXELS = 32
"""Pixels of an object in a frame that says something of it."""


@dataclass(frozen=True)
class Asked:
    """A question whose answer the maps give, or one that lies below the margin."""

    kind: RegionQuestionKind
    objects: tuple[int, ...]
    """Numbers of those that it names."""
    text: str
    options: tuple[str, ...]
    right: int
    """Index of the right option."""
    difference: float
    """How far the answer is from the other, in the measure of its kind: of depth and area logarithms, of speed pixels."""
    margin: float
    """What the errors of both sides add up to."""

    @property
    def is_clear(self) -> bool:
        """Whether it is asked."""
        return self.difference > self.margin


def questions_of(stats: RegionStats, clip: int) -> list[Asked]:
    """All that can be asked of a clip's objects that are seen in the first frame, clear or not."""
    seen = [one.number for one in stats.objects[clip] if stats.pixels[clip, one.number - 1, 0] >= _LEAST_PIXELS]
    return [asked for ask in _TEMPLATES for asked in ask(stats, clip, seen)]


def _nearer(stats: RegionStats, clip: int, seen: Sequence[int]) -> Iterator[Asked]:
    """Of two objects, by the mean depths of their pixels in the first frame."""
    if stats.depth is None:
        return
    for a, b in combinations(seen, 2):
        difference = float(np.log(stats.depth[clip, b - 1, 0] / stats.depth[clip, a - 1, 0]))
        margin = sum(_depth_error(stats, clip, number, 0) for number in (a, b))
        yield _of_two("nearer", (a, b), "is nearer to the camera in the first frame", difference, margin)


def _approaches(stats: RegionStats, clip: int, seen: Sequence[int]) -> Iterator[Asked]:
    """Of one object, by its mean depths in the first and the last frame: their scale is the clip's."""
    if stats.depth is None:
        return
    last = stats.pixels.shape[2] - 1
    for number in seen:
        if stats.pixels[clip, number - 1, last] < _LEAST_PIXELS:
            continue
        depth = stats.depth[clip, number - 1]
        change = float(np.log(depth[last] / depth[0]))
        margin = sum(_depth_error(stats, clip, number, frame) for frame in (0, last))
        text = f"From the first frame to the last, does <obj_{number}> come nearer to the camera or move away from it?"
        options = ("it comes nearer", "it moves away")
        yield Asked("approach", (number,), text, options, int(change > 0), abs(change), margin)


def _faster(stats: RegionStats, clip: int, seen: Sequence[int]) -> Iterator[Asked]:
    """Of two objects, by the mean length of their flow over the frames that show both."""
    if stats.speed is None:
        return
    for a, b in combinations(seen, 2):
        frames = _shared(stats, clip, a, b)
        if len(frames):
            speeds, errors = ([of(number) for number in (a, b)] for of in _speeds(stats, clip, frames))
            text = "moves faster across the picture over the whole video"
            yield _of_two("faster", (a, b), text, speeds[0] - speeds[1], sum(errors))


def _larger(stats: RegionStats, clip: int, seen: Sequence[int]) -> Iterator[Asked]:
    """Of two objects, by their areas in the first frame; the error of one is a rim of a pixel around a square of its area."""
    for a, b in combinations(seen, 2):
        pixels = [float(stats.pixels[clip, number - 1, 0]) for number in (a, b)]
        margin = sum(4 / np.sqrt(count) for count in pixels)
        yield _of_two("larger", (a, b), "is larger in the picture in the first frame", np.log(pixels[0] / pixels[1]), margin)


def _direction(stats: RegionStats, clip: int, seen: Sequence[int]) -> Iterator[Asked]:
    """Of one object, by its flow added up: backward flow points to where it was."""
    if stats.flow is None:
        return
    options = ("to the left", "to the right", "up", "down")
    for number in seen:
        frames = _shared(stats, clip, number, number)
        if not len(frames):
            continue
        moved = -np.nansum(stats.flow[clip, number - 1, frames].astype(np.float64), 0)
        along, across = int(np.argmax(np.abs(moved))), int(np.argmin(np.abs(moved)))
        error = sum(_flow_error(stats, clip, number, int(frame)) for frame in frames)
        text = f"Which way does <obj_{number}> move in the picture, from the first frame to the last?"
        right = 2 * along + int(moved[along] > 0)
        difference = float(abs(moved[along]) - _DOMINANT * abs(moved[across]))
        yield Asked("direction", (number,), text, options, right, difference, (1 + _DOMINANT) * error)


_TEMPLATES: tuple[Callable[[RegionStats, int, Sequence[int]], Iterator[Asked]], ...] = (
    _nearer, _approaches, _faster, _larger, _direction,
)  # fmt: skip


def _of_two(kind: RegionQuestionKind, numbers: tuple[int, int], what: str, difference: float, margin: float) -> Asked:
    """``difference`` above 0 is for the first."""
    options = tuple(f"<obj_{number}>" for number in numbers)
    text = f"Which {what}: {options[0]} or {options[1]}?"
    return Asked(kind, numbers, text, options, int(difference < 0), abs(float(difference)), float(margin))


def _standard_error(stats: RegionStats, clip: int, number: int, frame: int, spread: float) -> float:
    return spread / float(np.sqrt(max(1.0, stats.pixels[clip, number - 1, frame] / _INDEPENDENT)))


def _depth_error(stats: RegionStats, clip: int, number: int, frame: int) -> float:
    """Of the logarithm of a mean depth: the encoding's bound, and the sampling error."""
    assert stats.depth_spread is not None
    spread = float(stats.depth_spread[clip, number - 1, frame])
    return float(np.log1p(stats.bounds["depth"])) + _SIGMAS * _standard_error(stats, clip, number, frame, spread)


def _flow_error(stats: RegionStats, clip: int, number: int, frame: int) -> float:
    """Of a mean flow, in pixels; both of its components may be off by the bound."""
    assert stats.flow_spread is not None
    spread = float(stats.flow_spread[clip, number - 1, frame])
    return float(np.sqrt(2)) * stats.bounds["flow"] + _SIGMAS * _standard_error(stats, clip, number, frame, spread)


def _shared(stats: RegionStats, clip: int, a: int, b: int) -> np.ndarray[Any, Any]:
    """The frames, but the first, whose flow says something of both."""
    enough = np.minimum(stats.pixels[clip, a - 1], stats.pixels[clip, b - 1]) >= _LEAST_PIXELS
    return np.flatnonzero(enough[1:]) + 1


def _speeds(
    stats: RegionStats, clip: int, frames: np.ndarray[Any, Any]
) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """An object's mean speed over the frames, and its error: that of one frame, since errors of frames are alike."""
    assert stats.speed is not None
    speed = stats.speed

    def mean(number: int) -> float:
        return float(speed[clip, number - 1, frames].mean())

    def error(number: int) -> float:
        return float(np.mean([_flow_error(stats, clip, number, int(frame)) for frame in frames]))

    return mean, error


def write_region_questions(
    stores: Sequence[str], out: Path, *, per_clip: int = 6, seed: int = 0, where: Sequence[str] | None = None
) -> RegionQuestionsReport:
    """Write conversations, a question each, about the committed clips of a store, or of several that are joined.

    A signal that several stores have is the first one's.
    Of a clip's clear questions, ``per_clip`` at random, as many of each kind as can be. ``where`` names clips; all when absent.
    Raises `BadInput` if there is none to ask, and what opening and reading stores raises.
    """
    require_writable(out)
    opened = {f"store{number}": open_cache(url) for number, url in enumerate(stores, start=1)}
    first: dict[str, str] = {signal: name for name, cache in reversed(opened.items()) for signal in cache.signals}
    cache = join_caches(opened, choose=first) if len(opened) > 1 else opened["store1"]
    clip_ids = list(where) if where is not None else cache.committed_ids()
    records: list[dict[str, Any]] = []
    written, unclear = Counter[RegionQuestionKind](), Counter[RegionQuestionKind]()
    with progress_bar("asking", len(clip_ids), "clips") as advance:
        for start in range(0, len(clip_ids), _AT_ONCE):
            some = clip_ids[start : start + _AT_ONCE]
            stats = cache.region_stats(some)
            for clip, clip_id in enumerate(some):
                asked = questions_of(stats, clip)
                chosen = _chosen(
                    [one for one in asked if one.is_clear], per_clip, np.random.default_rng([seed, *clip_id.encode()])
                )
                written.update(one.kind for one in chosen)
                unclear.update(one.kind for one in asked if not one.is_clear)
                records += [_record(stats, clip, number, one) for number, one in enumerate(chosen)]
            advance(len(some))
    if not records:
        raise BadInput(
            f"{', '.join(stores)}: none of {len(clip_ids)} clips has a question that is clear of its maps' errors; needed "
            "objects that are seen in the first frame, and maps of depth or flow"
        )
    write_json(out, records)
    return RegionQuestionsReport(
        out=str(out), clips=len(clip_ids), questions=len(records), kinds=dict(written), below_margin=dict(unclear)
    )


def _chosen(clear: Sequence[Asked], count: int, rng: np.random.Generator) -> list[Asked]:
    """Kind after kind in turn, each kind's in random order, so that pairs do not crowd out the rest."""
    shuffled = [clear[index] for index in rng.permutation(len(clear))]
    turns = Counter[RegionQuestionKind]()
    ordered = []
    for one in shuffled:
        ordered.append((turns[one.kind], one))
        turns[one.kind] += 1
    return [one for _, one in sorted(ordered, key=lambda pair: pair[0])][:count]


def _record(stats: RegionStats, clip: int, number: int, asked: Asked) -> dict[str, Any]:
    clip_id = stats.clip_ids[clip]
    named = [one for one in stats.objects[clip] if one.number in asked.objects]
    return {
        "id": f"{clip_id}-region-{number}",
        "clip_id": clip_id,
        "conversations": [
            {"from": "human", "value": f"<video>\n{multiple_choice(asked.text, asked.options)}"},
            {"from": "gpt", "value": OPTION_LETTERS[asked.right]},
        ],
        "task": asked.kind,
        "label": "pseudo: by a template from the teacher's maps",
        "difference": float(f"{asked.difference:.4g}"),
        "margin": float(f"{asked.margin:.4g}"),
        "objects": [one.model_dump(mode="json", include={"number", "phrase", "box"}) for one in named],
    }
