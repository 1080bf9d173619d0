"""Measures how often questions from a teacher's maps have the right answer, with and without the margin that is asked of them.

    PYTHONPATH=.:tests python tests/benchmarks/region_questions.py            # some two minutes

Rendered scenes have exact maps and masks. The tiny L4P that comes with the package teaches them; its maps pass through the
profile ``fine``, and `student_train.data.region_questions` says what can be asked of them. The answer from the exact maps is
the truth. ``asked`` are the questions whose answer is clear of the margin; ``below`` those that are not asked.

Seeds are from 50000 on, which the tiny L4P was not trained with.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor
from rich.console import Console

from schemas.job import TeacherJob
from schemas.regions import RegionObject
from schemas.signal import SIGNALS, SignalName
from student_train.data.region_questions import questions_of
from teacher_cache.encodings.registry import encoding
from teacher_cache.reader.region_stats import region_stats
from teacher_cache.scenes import frame_times, random_scene, render_scene
from teacher_cache.teachers.registry import loaded

FINE: Mapping[SignalName, str] = {"depth": "log-step-1/512", "flow": "step-1/16", "motion": "step-1/8"}
FIRST_SEED = 50_000
SIZE = 112


class InMemory:
    """A clip's maps, as `teacher_cache.reader.region_stats.Regions`."""

    def __init__(
        self, maps: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str], bounds: Mapping[str, float]
    ) -> None:
        self.signals = ("regions", "objects", *maps)
        self._held = {**maps, "regions": labels, "objects": np.zeros((len(names), 1))}
        self._names, self._bounds = names, bounds

    def read(self, signals: Sequence[str], _: Sequence[str], /) -> dict[str, Any]:
        return {name: self._held[name][None] for name in signals}

    def objects(self, _: Sequence[str], /) -> list[tuple[RegionObject, ...]]:
        return [
            tuple(RegionObject(number=k, phrase=name, box=None, score=1, frames=(0,)) for k, name in enumerate(self._names, 1))
        ]

    def error_bound(self, name: str, /) -> float:
        return self._bounds[name]


def answers(seed: int, teacher: Any) -> list[tuple[str, bool, bool]]:
    """(kind, whether it is asked, whether its answer is right) of every question of a scene."""
    scene = random_scene(seed)
    truth = render_scene(scene, frame_times(16, 8), height=SIZE, width=SIZE)
    labels, names = (truth.instance + 1).astype(np.uint8), [thing.name for thing in scene.objects]
    raw = teacher.raw(torch.from_numpy(truth.rgb)[None], list(FINE))
    taught = {}
    for name, kept in FINE.items():
        how = encoding(name, kept)
        taught[name] = how.decode(SIGNALS[name], how.encode(SIGNALS[name], raw[name][0])[0])
    exact = {"depth": truth.depth, "flow": np.nan_to_num(truth.flow)}
    bounds = {name: encoding(name, kept).bound for name, kept in FINE.items()}
    said, right = (
        {(one.kind, one.objects): one for one in questions_of(region_stats(store, ["a"]), 0)}
        for store in (InMemory(taught, labels, names, bounds), InMemory(exact, labels, names, dict.fromkeys(FINE, 0.0)))
    )
    return [(kind, one.is_clear, one.right == right[kind, numbers].right) for (kind, numbers), one in said.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "region_questions.json")
    options = parser.parse_args()
    teacher = loaded(TeacherJob(family="l4p", preset="tiny"), "cpu")
    found: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for seed in range(FIRST_SEED, FIRST_SEED + options.scenes):
        for kind, is_clear, is_right in answers(seed, teacher):
            found[kind].append((is_clear, is_right))
    kinds = {}
    for kind, pairs in sorted(found.items()):
        clear, right = np.array(pairs).T
        kinds[kind] = {
            "asked": int(clear.sum()),
            "right": int(right[clear].sum()),
            "below": int((~clear).sum()),
            "right_below": int(right[~clear].sum()),
        }
        Console().print(kind, kinds[kind])
    options.out.write_text(json.dumps({"processor": processor(), "scenes": options.scenes, "kinds": kinds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
