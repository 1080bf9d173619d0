"""Measures the chain from questions that name objects to questions about marks, with a grounding stand-in of known faults.

    PYTHONPATH=.:tests python tests/benchmarks/regions.py            # some two minutes

Rendered scenes have exact label maps and exact answers, and their questions name objects ("the red ball"). The stand-in finds
the objects of a scene as a grounding model would: it misses some, moves boxes, or takes two for each other. ``found`` is the
share of objects that it gives, and ``iou`` the mean overlap of their regions with the truth, over all frames. Of the
questions about objects, ``kept`` is the share that `regionize` keeps; of the phrases of all those questions, ``linked`` is
the share with a mark, and ``wrong`` the share of marks that are another object's. ``score`` is R4D-Bench's score of an
answerer that knows the scene, looks at nothing but the region that a mark is on, and gives the exact answer for the object
there: below 1, marks were wrong. Names that stay in a question, it knows.

``swapped marks``: the numbers of two objects of a clip are exchanged, in the label map and the table, and the questions
rewritten again. The share of answers that then name the same object as before, by the other mark, must be 1. This is of the
text: what trained students do with swapped marks, `marks.py` measures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from named_objects import DEVELOPMENT, HELD_OUT, unmarked
from region_scenes import RegionScenes, SceneClip, named, write_region_scenes
from rich.console import Console
from rich.table import Table

from schemas.evaluation import OPTION_LETTERS
from student_train.evaluation.answers import scored
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.r4d import R4D
from student_train.regions.asked import asked_in
from student_train.regions.linking import ByRules
from student_train.regions.regionize import Wanted, kept_in, regionize
from teacher_cache.io.places import Roots
from teacher_cache.regions.phrases import MARK, PRECISION, phrases_in

RESULTS = Path(__file__).parent / "results"
SCENES = 80
_NAME = re.compile(r"\bthe (\w+ (?:ball|box))\b")
_COLOUR = re.compile(r"\bthe \w+ (ball|box)\b")

FAULTS: dict[str, Mapping[str, float]] = {
    "none": {},
    "10% missed": {"missed": 0.1},
    "30% missed": {"missed": 0.3},
    "boxes, moved by 5%": {"jitter": 0.05},
    "boxes, moved by 20%": {"jitter": 0.2},
    "two taken for each other in 10% of clips": {"swapped": 0.1},
    "two taken for each other in 30% of clips": {"swapped": 0.3},
    "10% missed, boxes moved by 5%, 10% taken for each other": {"missed": 0.1, "jitter": 0.05, "swapped": 0.1},
}


@dataclass(frozen=True)
class Scenes:
    """Scenes and their questions."""

    folder: Path
    truth: RegionScenes
    records: Mapping[str, Any]

    def clip_of(self, question: str) -> str:
        return question.rpartition("-")[0]

    @property
    def about_objects(self) -> list[str]:
        return [name for name, one in self.records.items() if any("<obj_" in text for text in one["marked"])]


def parser() -> list[dict[str, Any]]:
    rows = []
    for name, questions in (("development", DEVELOPMENT), ("held out", HELD_OUT)):
        right = said = there = 0
        for question in questions:
            text, spans = unmarked(question)
            got = {(phrase.start, phrase.end) for phrase in phrases_in(text)}
            right, said, there = right + len(got & set(spans)), said + len(got), there + len(spans)
        rows.append({"questions": name, "count": len(questions), "phrases": there, "right": right, "said": said})
        rows[-1] |= {"precision": right / said, "recall": right / there}
    return rows


def rewrite(scenes: Scenes, store: RegionScenes, out: Path, questions: Path) -> tuple[Any, float]:
    begin = time.perf_counter()
    roots = Roots((str(scenes.folder),), "--video-root")
    report = regionize(asked_in(questions, None), store, out, roots=roots, linker=ByRules(PRECISION), wanted=Wanted())
    return report, time.perf_counter() - begin


def marks_in(texts: Sequence[str]) -> list[int]:
    return [int(found) for text in texts for found in MARK.findall(text)]


def row(scenes: Scenes, case: str, store: RegionScenes, out: Path, questions: Path) -> dict[str, Any]:
    report, seconds = rewrite(scenes, store, out, questions)
    about = scenes.about_objects
    phrases = sum(len(marks_in(scenes.records[name]["marked"])) for name in about)
    linked = wrong = 0
    for one in kept_in(out):
        # The phrases of a text are in order, so marks meet their truths in order wherever all of a text are linked.
        for after, truth in zip(one.after, scenes.records[one.id]["marked"], strict=True):
            names = {part.number: part.phrase for part in scenes.truth.clip(one.clip_id).objects}
            meant = dict(_meant(after, truth, names))
            linked += len(meant)
            wrong += sum(number != true for number, true in meant.values())
    overlaps, found = overlap(scenes.truth, store)
    return {
        "faults": case,
        "objects": sum(len(clip.objects) for clip in scenes.truth.scenes),
        "found": found,
        "iou": overlaps,
        "questions": len(about),
        "kept": sum(1 for one in kept_in(out) if one.id in set(about)) / len(about),
        "dropped": {reason: count for reason, count in report.dropped.items() if reason != "names_none"},
        "phrases": phrases,
        "linked": linked / phrases,
        "wrong": wrong / linked if linked else 0.0,
        "score": score(scenes, store, out),
        "milliseconds_a_question": 1000 * seconds / report.read,
    }


def _meant(after: str, truth: str, names: Mapping[int, str]) -> list[tuple[int, tuple[int, int]]]:
    """(place, (mark, true number)) of each mark of a rewritten text, by its place in the true one."""
    pieces = [f"(?:<obj_(\\d+)>|the (?:\\w+ )?{names[int(n)].split()[-1]})" for n in MARK.findall(truth)]
    plain = [re.escape(piece) for piece in MARK.split(truth)[::2]]
    pattern = plain[0] + "".join(piece + rest for piece, rest in zip(pieces, plain[1:], strict=True))
    found = re.fullmatch(pattern, after)
    assert found is not None, (after, truth)
    said = zip(found.groups(), MARK.findall(truth), strict=True)
    return [(place, (int(mark), int(true))) for place, (mark, true) in enumerate(said) if mark]


def overlap(truth: RegionScenes, store: RegionScenes) -> tuple[float, float]:
    """(mean IoU of the regions that are found with the truth's, share of objects found)."""
    ious, all_of = [], 0
    for true, clip in zip(truth.scenes, store.scenes, strict=True):
        for one in true.objects:
            all_of += 1
            mine, theirs = clip.labels == one.number, true.labels == one.number
            if mine.any():
                ious.append(float((mine & theirs).sum() / (mine | theirs).sum()))
    return float(np.mean(ious)) if ious else 0.0, len(ious) / all_of


def score(scenes: Scenes, store: RegionScenes, out: Path) -> float:
    """Of an answerer that sees which object each mark is on, and knows all answers."""
    if not (out / "test.json").exists():
        return 0.0
    answers = {
        (scenes.clip_of(name), one["marked"][0]): one["marked"][1:][one["options"].index(one["answer"])]
        for name, one in scenes.records.items()
    }
    right = []
    for item in read(R4D, out).items:
        clip = scenes.clip_of(item.id)
        under = {one.number: _under(scenes.truth.clip(clip), store.clip(clip), one.number) for one in store.clip(clip).objects}
        names = {one.phrase: one.number for one in scenes.truth.clip(clip).objects}

        def true(text: str, under: Mapping[int, int] = under, names: Mapping[str, int] = names) -> str:
            text = MARK.sub(lambda found: f"<obj_{under.get(int(found[1]), 0)}>", text)
            return _NAME.sub(lambda found: f"<obj_{names[found[1]]}>" if found[1] in names else found[0], text)

        said = answers.get((clip, true(item.question)))
        options = [true(option) for option in item.options]
        letter = OPTION_LETTERS[options.index(said)] if said in options else ""
        right.append(scored(replace(R4D, draws=False), item, letter).official or 0.0)
    return float(np.mean(right))


def _under(truth: SceneClip, clip: SceneClip, number: int) -> int:
    """The true object that a mark of the first frame is on: the one with most pixels in its region."""
    inside = truth.labels[0][clip.labels[0] == number]
    counts = np.bincount(inside[inside > 0], minlength=1)
    return int(counts.argmax()) if counts.sum() else 0


def exchanged(clip: SceneClip) -> SceneClip:
    """The same clip, in which its first two objects have each other's number."""
    if len(clip.objects) < 2:
        return clip
    first, second = (one.number for one in clip.objects[:2])
    to = {first: second, second: first}
    table = np.arange(256, dtype=np.uint8)
    table[first], table[second] = second, first
    objects = [one.model_copy(update={"number": to.get(one.number, one.number)}) for one in clip.objects]
    return replace(clip, labels=table[clip.labels], objects=tuple(sorted(objects, key=lambda one: one.number)))


def swap_test(scenes: Scenes, folder: Path, questions: Path) -> dict[str, Any]:
    other = replace(scenes.truth, scenes=tuple(map(exchanged, scenes.truth.scenes)))
    written = []
    for name, store in (("as they are", scenes.truth), ("exchanged", other)):
        rewrite(scenes, store, folder / name, questions)
        written.append({item.id: item for item in read(R4D, folder / name).items})
    changed = followed = 0
    for name, before in written[0].items():
        after = written[1][name]
        assert before.right is not None
        if before.question == after.question:
            continue
        changed += 1
        clip = scenes.clip_of(name)
        names = [{one.number: one.phrase for one in store.clip(clip).objects} for store in (scenes.truth, other)]
        said = [named(item.options[item.right or 0], table) for item, table in zip((before, after), names, strict=True)]
        asked = [named(item.question, table) for item, table in zip((before, after), names, strict=True)]
        followed += said[0] == said[1] and asked[0] == asked[1]
    return {"questions": len(written[0]), "with_other_marks": changed, "answers_that_follow": followed / changed}


def nouns_alone(scenes: Scenes, path: Path) -> Path:
    """The questions with "the ball" for "the red ball": of several balls, none is meant by name."""

    def bare(text: str) -> str:
        return _COLOUR.sub(r"the \1", text)

    told = [
        one | {"question": bare(one["question"]), "options": [bare(o) for o in one["options"]], "answer": bare(one["answer"])}
        for one in scenes.records.values()
    ]
    path.write_text(json.dumps(told))
    return path


def scores_of_a_detector(store: RegionScenes, seed: int) -> RegionScenes:
    """Each object with a score of its own, as detectors give them."""
    rng = np.random.default_rng(seed)

    def with_score(clip: SceneClip) -> SceneClip:
        return replace(clip, objects=tuple(o.model_copy(update={"score": rng.uniform(0.3, 0.95)}) for o in clip.objects))

    return replace(store, scenes=tuple(map(with_score, store.scenes)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=RESULTS / "regions.json")
    arguments.add_argument("--scenes", type=int, default=SCENES)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = write_region_scenes(folder / "scenes", range(given.scenes))
        questions = folder / "scenes/questions.json"
        scenes = Scenes(folder / "scenes", truth, {one["id"]: one for one in json.loads(questions.read_text())})
        cases: list[tuple[str, RegionScenes, Path]] = [
            (case, truth.noisy(number, **faults), questions) for number, (case, faults) in enumerate(FAULTS.items())
        ]
        cases.append(
            ("none; nouns without their colours", scores_of_a_detector(truth, 0), nouns_alone(scenes, folder / "bare.json"))
        )
        rows = [row(scenes, case, store, folder / f"out-{n}", asked) for n, (case, store, asked) in enumerate(cases)]
        result = {
            "processor": processor(),
            "cores": os.cpu_count(),
            "scenes": given.scenes,
            "questions": len(scenes.records),
            "parser": parser(),
            "chain": rows,
            "swapped_marks": swap_test(scenes, folder / "swap", questions),
        }
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def show(result: Mapping[str, Any]) -> None:
    table = Table("faults", "found", "IoU", "kept", "linked", "wrong", "score", "ms a question")
    percent: Callable[[float], str] = "{:.1%}".format
    for one in result["chain"]:
        shares = (percent(one[name]) for name in ("found", "iou", "kept", "linked", "wrong", "score"))
        table.add_row(one["faults"], *shares, f"{one['milliseconds_a_question']:.0f}")
    Console().print(table)
    Console().print(result["parser"], result["swapped_marks"])


if __name__ == "__main__":
    main()
