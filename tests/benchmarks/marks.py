"""Measures what marks, and ED weighed by regions, are worth to a tiny student, and whether its answers follow swapped marks.

    PYTHONPATH=.:tests python tests/benchmarks/marks.py --work DIR       # an hour on a core

Rendered scenes with exact masks; two objects of each have marks, 1 and 2 by chance. The question is always the same: *At the
beginning, which is nearer to the camera: <obj_1> or <obj_2>?* So the text tells nothing, and neither does the video without
marks: 50%. Students are the project's tiny one, trained by `fit` from random weights; arms of a part differ in nothing but
what they are called.

``marks``: clips of two frames, SFT, with no marks, marks in the first frame, marks in all. ``maps``: the students of the last
arm go on with clips of 16 frames, whose maps the tiny L4P teaches, and marks in all frames: SFT, LD and ED, and these with
`loss.regions`, or with a larger beta as its control. Besides answers, their maps are compared with the teacher's inside of the
marked objects, at their edges, and elsewhere.

Answers with the marks in place, swapped, on the background and nowhere are those of `student-train swap-marks`. ``--dev``
trains one student of ``marks`` and asks about the development scenes, and keeps the settings and figures in the result file,
under ``tried``: the final settings were chosen by these. Finished parts in DIR are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import processor
from PIL import Image
from rich.console import Console

from schemas.evaluation import OPTION_LETTERS, multiple_choice
from schemas.job import Job
from schemas.mark_swaps import MarksAt, MarksShown, MarkSwapReport
from schemas.train import (
    DataConfig,
    DecoderConfig,
    LossConfig,
    Mode,
    ModelConfig,
    OptimConfig,
    RegionLossConfig,
    RegionsConfig,
    TrainConfig,
)
from student_train.data.frames import StudentFrames
from student_train.data.marks import Marks
from student_train.data.samples import Collator, load_samples
from student_train.distill.regions import region_weights
from student_train.distill.targets import TargetReader
from student_train.evaluation.comparing import ScoredClip, comparable, scored_clips
from student_train.evaluation.evaluate import load_p4d
from student_train.evaluation.mark_swaps import Marked, on_background, swap_marks, swapped
from student_train.evaluation.models import open_model, open_run
from student_train.training.fit import fit
from student_train.training.run_folder import RunFolder
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene
from teacher_cache.scenes.questions import label_map, mark_objects

RESULT = Path(__file__).parent / "results" / "marks.json"
TRAIN, DEV, HELD_OUT = 71_100, 80_000, 90_000
"""Seeds of the first scene of each set. The tiny L4P was trained on none of them."""
SIZE, STUDENT_SIZE = 112, 96
QUESTION, OPTIONS = "At the beginning, which is nearer to the camera: <obj_1> or <obj_2>?", ("<obj_1>", "<obj_2>")
_CLEAR = 1.12
"""How many times farther away the other object is at least, where it is asked."""
_EDGE = RegionLossConfig(inside=2, edge=4)
"""The guide's example."""
_MODEL = ModelConfig(freeze=(), timestamps="none")


class Kind(NamedTuple):
    """The clips of one part of the measurement."""

    frames: int
    fps: float
    signals: tuple[str, ...]
    """What the tiny L4P teaches, if anything."""


KINDS = {
    "marks": Kind(2, 4, ()),
    "maps": Kind(16, 8, ("f4d", "depth", "flow", "motion", "camray")),
}


class Arm(NamedTuple):
    """One way of training."""

    name: str
    marks: str
    mode: Mode = "sft"
    regions: RegionLossConfig | None = None
    beta: float | None = None
    """The weight of ED; the paper's when None."""


_MARKED = "marks in all frames"
ARMS = {
    "marks": (Arm("no marks", "none"), Arm("marks in the first frame", "first"), Arm(_MARKED, "all")),
    "maps": (
        Arm("SFT", "all"),
        Arm("LD+ED", "all", "heads"),
        Arm("LD+ED, regions", "all", "heads", _EDGE),
        # The control: ED counts as much altogether as with the weights, whose mean is 1.232 here.
        Arm("LD+ED, larger beta", "all", "heads", beta=0.1232),
    ),
}


class Size(NamedTuple):
    """How much is trained on and asked, and how fast."""

    scenes: int
    held_out: int
    steps: int
    batch: int
    seeds: int
    rate: float
    """Learning rate."""


# --- scenes -------------------------------------------------------------------------------------------------------------------


def write_scene(folder: Path, seed: int, kind: Kind) -> dict[str, Any]:
    """A scene's video and its masks, of two objects, unless they are there. Returns its row, with what is right."""
    done = folder / "rows" / f"{seed}.json"
    if done.exists():
        return dict(json.loads(done.read_text()))
    scene = random_scene(seed)
    truth = render_scene(scene, frame_times(kind.frames, kind.fps), height=SIZE, width=SIZE, ray_grid=(2, 2))
    marks = mark_objects(truth, seed)[:2]
    video, masks = folder / "videos" / f"{seed}.mp4", folder / "masks" / f"{seed}"
    encode_video(video, truth.rgb, fps=kind.fps)
    masks.mkdir(exist_ok=True)
    for number, instance in enumerate(truth.instance):
        Image.fromarray(label_map(instance, marks)).convert("P").save(masks / f"{number:05d}.png")
    to_camera = np.linalg.inv(scene.camera.pose(0.0).matrix())
    centres = [scene.objects[mark.instance].trajectory.pose(0.0).translation for mark in marks]
    row = {
        "uri": str(video),
        "id": str(seed),
        "masks": str(masks),
        "phrases": [scene.objects[mark.instance].name for mark in marks],
        "distances": [float((to_camera[:3, :3] @ centre + to_camera[:3, 3])[2]) for centre in centres],
    }
    done.write_text(json.dumps(row))
    return row


def write_set(folder: Path, first: int, count: int, kind: Kind) -> None:
    """Scenes, their stores, conversations to train on, and the same questions to ask."""
    if (folder / "questions.json").exists():
        return
    for name in ("rows", "videos", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(2) as pool:
        rows = pool.map(partial(write_scene, folder, kind=kind), range(first, first + count), chunksize=8)
    rows = [row for row in rows if is_clear(row)]
    (folder / "list.jsonl").write_text("\n".join(json.dumps({k: v for k, v in r.items() if k != "distances"}) for r in rows))
    given = {"family": "given", "preset": "px112", "options": {"objects": 2, "frames": kind.frames}}
    teach(folder, "regions", kind.frames, ("regions", "objects", "frames"), given)
    if kind.signals:
        teach(folder, "maps", kind.frames, (*kind.signals, "frames"), {"family": "l4p", "preset": "tiny"})
    conversations, questions = [], []
    for row in rows:
        right = int(row["distances"][1] < row["distances"][0])
        about = {"id": row["id"], "video": row["uri"]}
        turns = [("human", f"<video>\n{multiple_choice(QUESTION, OPTIONS)}"), ("gpt", OPTION_LETTERS[right])]
        told = [{"from": who, "value": text} for who, text in turns]
        conversations.append(about | {"clip_id": row["id"], "conversations": told})
        questions.append(about | {"task": "nearer", "question": QUESTION, "options": OPTIONS, "answer": OPTIONS[right]})
    (folder / "conversations.json").write_text(json.dumps(conversations))
    (folder / "questions.json").write_text(json.dumps(questions))


def is_clear(row: Mapping[str, Any]) -> bool:
    """Whether it has two marks, and one object is clearly nearer."""
    found = row["distances"]
    return len(found) == 2 and max(found) >= _CLEAR * min(found)


def teach(folder: Path, name: str, frames: int, signals: Sequence[str], teacher: Mapping[str, Any]) -> None:
    """A store of the set, with the student's frames, so that no fit decodes them again."""
    job = {
        "videos": {"manifest": str(folder / "list.jsonl")},
        "store": str(folder / name),
        "signals": list(signals),
        "teacher": dict(teacher),
        "clips": {"frames": frames, "sampling": "uniform", "student_size": STUDENT_SIZE},
        "layout": {"clips_per_shard": 16},
        "engine": {"kind": "local", "batch": 4, "decoders": 1, "threads_per_teacher": 1},
    }
    run_job(Job.model_validate(job))


# --- training -----------------------------------------------------------------------------------------------------------------


def train_config(arm: Arm, data: Path, out: Path, size: Size, seed: int) -> TrainConfig:
    return TrainConfig(
        store=str(data / ("maps" if (data / "maps").exists() else "regions")),
        regions=RegionsConfig(store=str(data / "regions"), marks=arm.marks),
        output=str(out),
        mode=arm.mode,
        data=DataConfig(conversations=(str(data / "conversations.json"),), video_root=(str(data),), workers=0),
        model=_MODEL,
        decoder=DecoderConfig(hidden=256),
        loss=LossConfig(regions=arm.regions, beta=arm.beta),
        optim=OptimConfig(optimizer="muon", learning_rate=size.rate, warmup=0.1),
        precision="bf16",
        steps=size.steps,
        batch=size.batch,
        seed=seed,
        log_every=max(1, size.steps // 20),
    )


def run_of(work: Path, part: str, arm: str, seed: int) -> Path:
    return work / "runs" / f"{part}-{arm.replace(' ', '-')}-{seed}"


def trained(part: str, arm: Arm, seed: int, work: Path, size: Size) -> dict[str, Any]:
    """Train one student and ask it about the held-out scenes; what is done is kept."""
    torch.set_num_threads(1)
    out = run_of(work, part, arm.name, seed)
    data, held_out = work / part / "train", work / part / "held-out"
    config = train_config(arm, data, out, size, seed)
    if part == "maps":
        start = RunFolder(run_of(work, "marks", _MARKED, seed)).student
        config = config.model_copy(update={"model": _MODEL.model_copy(update={"weights": str(start)})})
    fitted = fit(config, resume=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {
        "arm": arm.name,
        "seed": seed,
        "seconds": fitted.seconds,
        "curve": [[line["step"], round(line["sft"], 4)] for line in lines],
    }
    asked = ask(out, held_out, arm)
    found |= {"swaps": asked.model_dump(mode="json", exclude={"model", "questions", "regions", "answers"})}
    found["answers"] = {
        one.id: {at: said == one.right for at, said in one.said.items()} | {"follow": one.said["swapped"] == one.right_swapped}
        for one in asked.answers
    }
    if arm.mode == "heads":
        found["maps"] = map_errors(out, held_out)
    return found


def ask(run: Path, data: Path, arm: Arm) -> MarkSwapReport:
    """The answers about a set. A student that has seen no marks is asked with marks in all frames as well: see ``nowhere``."""
    shown: MarksShown = "first" if arm.marks == "first" else "all"
    return swap_marks(
        run,
        data / "questions.json",
        str(data / "regions"),
        run / f"asked-{data.name}.json",
        shown=shown,
        video_root=str(data),
        batch=16,
        overwrite=True,
    )


def asked_of(work: Path, part: str, arm: Arm, seed: int) -> MarkSwapReport:
    """What `ask` wrote of the held-out scenes."""
    return MarkSwapReport.model_validate_json((run_of(work, part, arm.name, seed) / "asked-held-out.json").read_text())


def map_errors(folder: Path, data: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Signal → where → clip → mean absolute error against the teacher's map: inside of objects, at their edges, elsewhere.

    Depth: of logarithms, after one scale for the clip; flow: end-point error in pixels; motion: of logits.
    """
    run = open_run(folder)
    student = open_model(folder, None).student.eval()
    maps, regions = open_cache(str(data / "maps")), open_cache(str(data / "regions"))
    p4d = load_p4d(run, maps, student.hidden_size).eval()
    config = run.config.data.model_copy(
        update={"conversations": (str(data / "conversations.json"),), "video_root": (str(data),)}
    )
    samples = load_samples(maps, config).samples
    frames = StudentFrames(student.processor.image_size, 0)
    assert run.config.regions is not None
    marks = Marks(maps, run.config.regions.model_copy(update={"store": regions.url, "version": None}))
    collator = Collator(
        TargetReader(maps, comparable(p4d, maps)), frames, student.processor, marks=marks, reads_stored_frames=True
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for clip in scored_clips(student, p4d, samples, collator, batch=8, workers=0, device=torch.device("cpu")):
        assert isinstance(clip, ScoredClip)
        labels = torch.from_numpy(regions.read(["regions"], [str(clip.sample.clip_id)])["regions"])
        where = region_weights(labels, RegionLossConfig(inside=2, edge=3))[0].numpy()
        for name, error in _errors(clip):
            for place, value in (("elsewhere", 1), ("inside", 2), ("edge", 3)):
                of_clips = found.setdefault(name, {}).setdefault(place, {})
                of_clips[str(clip.sample.clip_id)] = float(np.nanmean(error[where == value]))
    return found


def _errors(clip: ScoredClip) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """(signal, error (frame, y, x)) of a clip."""
    mine, teacher = clip.student, clip.teacher
    logs = np.log(mine["depth"]) - np.log(teacher["depth"])
    yield "depth", np.abs(logs - np.median(logs)).reshape(logs.shape[:3])
    flow = np.linalg.norm(mine["flow"] - teacher["flow"], axis=-1)
    flow[0] = np.nan  # it has no frame before it
    yield "flow", flow
    yield "motion", np.abs(mine["motion"] - teacher["motion"]).reshape(logs.shape[:3])


# --- figures ------------------------------------------------------------------------------------------------------------------


def arms_of(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each arm: shares over its seeds, with standard errors over questions, and the seeds' own."""
    rows = []
    for name in dict.fromkeys(run["arm"] for run in runs):
        mine = [run for run in runs if run["arm"] == name]
        row: dict[str, Any] = {"arm": name, "seeds": len(mine)}
        for at in ("place", "background", "nowhere", "swapped"):
            row[f"right_{at}"] = share(per_question(mine, at)) | {"of_seeds": [mean_of(run, at) for run in mine]}
        for figure in ("follow", "stay", "neither", "right_follow", "right_stay", "unchanged", "unreadable"):
            shares = [found for run in mine if (found := run["swaps"][figure]["share"]) is not None]
            row[figure] = statistics.fmean(shares) if shares else None
        row["seconds"] = statistics.fmean(run["seconds"] for run in mine)
        rows.append(row)
    return rows


def mean_of(run: Mapping[str, Any], at: str) -> float:
    return statistics.fmean(answer[at] for answer in run["answers"].values())


def per_question(runs: Sequence[Mapping[str, Any]], at: str) -> dict[str, float]:
    """Question → mean over the seeds of whether it is answered right of the object that the store's mark is on."""
    return {name: statistics.fmean(run["answers"][name][at] for run in runs) for name in runs[0]["answers"]}


def share(values: Mapping[str, float]) -> dict[str, Any]:
    """Mean and standard error; the error is null of a single value."""
    found = list(values.values())
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return {"share": statistics.fmean(found), "standard_error": error}


def differences(runs: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
    """Paired by question: (arm, marks' place) less (arm, marks' place)."""
    rows = []
    for arm, at, other, other_at in pairs:
        mine, theirs = (per_question([run for run in runs if run["arm"] == n], p) for n, p in ((arm, at), (other, other_at)))
        rows.append({"of": [arm, at], "less": [other, other_at], **share({name: mine[name] - theirs[name] for name in mine})})
    return rows


def map_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each map and place: the arms' mean errors, and of the others less LD+ED, paired by clip, over the seeds."""
    plain, *others = (arm.name for arm in ARMS["maps"][1:])
    rows = []
    for signal, places in next(run["maps"] for run in runs if "maps" in run).items():
        for place, clips in places.items():
            mean = {
                arm: {
                    clip: statistics.fmean(run["maps"][signal][place][clip] for run in runs if run["arm"] == arm)
                    for clip in clips
                }
                for arm in (plain, *others)
            }
            less = {arm: share({clip: mean[arm][clip] - mean[plain][clip] for clip in clips}) for arm in others}
            of_seeds = {
                arm: [statistics.fmean(run["maps"][signal][place].values()) for run in runs if run["arm"] == arm]
                for arm in mean
            }
            rows.append(
                {
                    "map": signal,
                    "where": place,
                    **{arm: statistics.fmean(values.values()) for arm, values in mean.items()},
                    "less": {arm: found["share"] for arm, found in less.items()},
                    "standard_error": {arm: found["standard_error"] for arm, found in less.items()},
                    "of_seeds": of_seeds,
                }
            )
    return rows


def failures(runs: Sequence[Mapping[str, Any]], data: Path) -> list[dict[str, Any]]:
    """Of the questions of each kind: how many, how often they are answered right, and right of the swapped marks.

    The lower box is a short cut: on a floor it is mostly that of the nearer object, and not of one in the air.
    """
    kinds = kinds_of(data)
    rows = []
    for name in dict.fromkeys(name for of in kinds.values() for name in of):
        mine = [question for question, of in kinds.items() if name in of]
        right, follow = (
            share({question: value for question, value in per_question(runs, at).items() if question in mine})
            for at in ("place", "follow")
        )
        rows.append({"kind": name, "questions": len(mine), "right": right, "follow": follow})
    return rows


def kinds_of(data: Path) -> dict[str, list[str]]:
    """Question → the kinds that it is of."""
    cache, found = open_cache(str(data / "regions")), {}
    for question in json.loads((data / "questions.json").read_text()):
        name = question["id"]
        distances = json.loads((data / "rows" / f"{name}.json").read_text())["distances"]
        first = cache.read(["regions"], [name])["regions"][0, 0]
        boxes = [one.box for one in cache.objects([name])[0]]
        lowest = [box.bottom for box in boxes if box is not None]
        ratio = max(distances) / min(distances)
        nearer = int(distances[1] < distances[0])
        is_lower = len(lowest) == 2 and lowest[nearer] >= lowest[1 - nearer]
        smallest = min(int((first == number).sum()) for number in (1, 2)) / first.size
        found[name] = [
            "all",
            "the nearer object has the lower box" if is_lower else "the farther object has the lower box",
            f"the other is {'less than 1.3' if ratio < 1.3 else '1.3 to 1.6' if ratio < 1.6 else '1.6 or more'} times as far",
            f"the smaller is {'less than 1%' if smallest < 0.01 else '1% or more'} of the frame",
            "the boxes overlap" if len(lowest) == 2 and overlap(*boxes) else "the boxes lie apart",
        ]
    return found


def mean_weight(data: Path) -> float:
    """Of a pixel in `loss.regions`, over the clips that are trained on."""
    cache = open_cache(str(data / "regions"))
    labels = torch.from_numpy(cache.read(["regions"], cache.committed_ids())["regions"])
    return float(region_weights(labels, _EDGE).mean())


def lower_box(asked: Sequence[MarkSwapReport], data: Path) -> dict[str, dict[str, Any]]:
    """Where the marks are → the share of answers that name the mark whose box is lower there, of how many clips.

    A student that judges by where the boxes are, and not by what is in them, names it each time.
    """
    cache, named = open_cache(str(data / "regions")), dict[MarksAt, dict[str, float]]()
    for name in (one.clip_id for one in asked[0].answers):
        marked = cache.read(["regions"], [name])["regions"][0], cache.objects([name])[0]
        marks: dict[MarksAt, Marked] = {
            "place": marked,
            "swapped": swapped(marked, 1, 2),
            "background": on_background(marked, (1, 2)),
        }
        found: dict[MarksAt, str] = {}
        for at, (_, held) in marks.items():
            bottom = {one.number: one.box.bottom for one in held if one.box is not None}
            if len(bottom) == 2 and bottom[1] != bottom[2]:
                found[at] = "AB"[int(bottom[2] > bottom[1])]
        said = [next(one.said for one in run.answers if one.clip_id == name) for run in asked]
        for at, lower in found.items():
            named.setdefault(at, {})[name] = statistics.fmean(one[at] == lower for one in said)
    return {at: share(of) | {"clips": len(of)} for at, of in named.items()}


def overlap(one: Any, other: Any) -> bool:
    return bool(one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom)


PAIRS = {
    "marks": [
        ("marks in the first frame", "place", "no marks", "nowhere"),
        (_MARKED, "place", "no marks", "nowhere"),
        (_MARKED, "place", "marks in the first frame", "place"),
        ("marks in the first frame", "place", "marks in the first frame", "swapped"),
        (_MARKED, "place", _MARKED, "swapped"),
    ],
    "maps": [
        ("LD+ED", "place", "SFT", "place"),
        ("LD+ED, regions", "place", "LD+ED", "place"),
        ("LD+ED, larger beta", "place", "LD+ED", "place"),
    ],
}


def measured(part: str, work: Path, size: Size, processes: int) -> dict[str, Any]:
    begin = time.perf_counter()
    write_set(work / part / "train", TRAIN, size.scenes, KINDS[part])
    write_set(work / part / "held-out", HELD_OUT, size.held_out, KINDS[part])
    wanted = [(part, arm, seed, work, size) for seed in range(size.seeds) for arm in ARMS[part]]
    with get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        runs = pool.starmap(trained, wanted, chunksize=1)
    trained_on = len(json.loads((work / part / "train" / "questions.json").read_text()))
    asked = len(json.loads((work / part / "held-out" / "questions.json").read_text()))
    return {
        "settings": size._asdict() | {"trained_on": trained_on, "asked": asked},
        "arms": arms_of(runs),
        "differences": differences(runs, PAIRS[part]),
        "failures": {
            arm.name: failures([run for run in runs if run["arm"] == arm.name], work / part / "held-out")
            for arm in ARMS[part]
            if arm.marks != "none"
        },
        "lower_box": {
            arm.name: lower_box([asked_of(work, part, arm, seed) for seed in range(size.seeds)], work / part / "held-out")
            for arm in ARMS[part]
            if arm.marks != "none"
        },
        **({"maps": map_rows(runs), "mean_weight": mean_weight(work / part / "train")} if part == "maps" else {}),
        "runs": [{name: value for name, value in run.items() if name not in {"answers", "maps"}} for run in runs],
        "seconds": time.perf_counter() - begin,
    }


def tried(work: Path, size: Size, arm: Arm) -> dict[str, Any]:
    """One student of ``marks``, asked about the development scenes."""
    write_set(work / "marks" / "train", TRAIN, size.scenes, KINDS["marks"])
    write_set(work / "marks" / "dev", DEV, size.held_out, KINDS["marks"])
    torch.set_num_threads(1)
    out = work / "runs" / f"dev-{arm.marks}-{size.scenes}-{size.steps}-{size.batch}-{size.rate:g}"
    fitted = fit(train_config(arm, work / "marks" / "train", out, size, 0), resume=True)
    asked = ask(out, work / "marks" / "dev", arm)
    figures = {name: getattr(asked, name).share for name in ("right", "right_nowhere", "follow", "stay")}
    settings = {"question": "nearer", "marks": arm.marks, **size._asdict()}
    return {**settings, "asked": asked.asked, **figures, "sft_loss": fitted.last.losses["sft"], "seconds": fitted.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of scenes, stores and runs")
    parser.add_argument("--part", choices=sorted(KINDS), action="append", help="only this part")
    parser.add_argument("--dev", action="store_true", help="train one student and ask about the development scenes")
    parser.add_argument("--marks", default="all", choices=("first", "all"), help="of --dev")
    parser.add_argument("--scenes", type=int)
    parser.add_argument("--held-out", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    result: dict[str, Any] = {"processor": processor(), "tried": []}
    if given.out.exists():
        result = json.loads(given.out.read_text())
    for part in given.part or KINDS:
        size = SIZES[part]._replace(**{f: v for f in Size._fields if (v := getattr(given, f)) is not None})
        if given.dev:
            arm = next(one for one in ARMS["marks"] if one.marks == given.marks)
            result["tried"].append(tried(given.work.resolve(), size, arm))
            Console().print(result["tried"][-1])
        else:
            result[part] = measured(part, given.work.resolve(), size, given.processes)
            Console().print(result[part]["arms"], result[part]["differences"])
        given.out.write_text(json.dumps(result, indent=1) + "\n")


SIZES = {"marks": Size(3072, 512, 400, 16, 2, 2e-3), "maps": Size(320, 96, 100, 4, 2, 2e-3)}

if __name__ == "__main__":
    main()
