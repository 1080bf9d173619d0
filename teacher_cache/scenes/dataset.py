"""Seeds in; a folder of videos, marked first frames, training conversations and evaluation questions out."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import BadInput
from schemas.evaluation import OPTION_LETTERS, SCENE_TASKS, multiple_choice
from schemas.report import ScenesReport
from teacher_cache.io.output_folder import claim_folder, write_json
from teacher_cache.scenes.encode import encode_video
from teacher_cache.scenes.published import AskedScene, require_known, write_published
from teacher_cache.scenes.questions import SceneQuestion, draw_marks, mark_objects, scene_questions
from teacher_cache.scenes.render import frame_times, render_scene
from teacher_cache.scenes.scene import random_scene

_SECONDS = (1.0, 3.0)


@dataclass(frozen=True)
class VideoFormat:
    """Size and length of all videos of a data set."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    frames: int
    """Frames of each video. A video lasts `clip_seconds`, so frame rates differ."""


@dataclass(frozen=True)
class Asking:
    """Which questions are asked, and how many per conversation."""

    tasks: tuple[str, ...] = SCENE_TASKS
    """Kinds of questions."""
    turns: int = 5
    """Largest number of questions per conversation. Training processes the video once per conversation."""
    benchmarks: tuple[str, ...] = ()
    """Published benchmarks in whose layouts the questions are written, too."""


def clip_seconds(seed: int) -> float:
    """Duration of a scene's video, from first to last frame, in seconds: log-uniform between 1 and 3.

    It varies, so that answers that depend on time cannot be guessed from single frames.
    """
    shortest, longest = _SECONDS
    return float(shortest * (longest / shortest) ** np.random.default_rng([seed, 1]).random())


def write_scenes(
    folder: Path, seeds: Sequence[int], shape: VideoFormat, asking: Asking, *, workers: int, advance: Callable[[int], None]
) -> ScenesReport:
    """Write a data set, reusing what an interrupted call left in the folder.

    ``videos/`` and ``marks/`` hold each scene's video and Set-of-Mark first frame; ``conversations.json`` LLaVA conversations
    of several questions each; ``questions.json`` the same questions one by one, in R4D-Bench's format; ``benchmarks/NAME``
    those that fit a published benchmark, in its layout. Raises `BadInput` for an unknown kind of question or benchmark, for odd
    heights or widths, and if the folder cannot be written or holds videos of another format.
    """
    if unknown := [task for task in asking.tasks if task not in SCENE_TASKS]:
        raise BadInput(f"there are no questions of the kind {unknown[0]!r}; use {', '.join(SCENE_TASKS)}")
    require_known(asking.benchmarks)
    if shape.height % 2 or shape.width % 2:
        raise BadInput(f"videos of {shape.width}×{shape.height} pixels cannot be encoded; height and width must be even")
    claim_folder(folder, asdict(shape))
    for name in ("videos", "marks", "questions"):
        (folder / name).mkdir(exist_ok=True)
    conversations: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    scenes: list[AskedScene] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for seed, found in zip(seeds, pool.imap(partial(_write_scene, folder, shape=shape), seeds), strict=True):
            wanted = {number: question for number, question in enumerate(found) if question.task in asking.tasks}
            questions += (_question(seed, number, question) for number, question in wanted.items())
            conversations += _conversations(seed, [*wanted.values()], asking.turns)
            scenes.append(_asked(folder, seed, wanted))
            advance(1)
    write_json(folder / "conversations.json", conversations)
    write_json(folder / "questions.json", questions)
    published = write_published(folder / "benchmarks", scenes, asking.benchmarks)
    return ScenesReport(
        out=str(folder), videos=len(seeds), conversations=len(conversations), questions=len(questions), benchmarks=published
    )


def _asked(folder: Path, seed: int, questions: Mapping[int, SceneQuestion]) -> AskedScene:
    paths = folder / _video(seed), folder / _picture(seed)
    return AskedScene(_name(seed), *paths, clip_seconds(seed), tuple(questions.items()))


def _write_scene(folder: Path, seed: int, *, shape: VideoFormat) -> list[SceneQuestion]:
    """Write one scene's video and marked frame, unless they exist. Returns its questions."""
    name = _name(seed)
    asked = folder / "questions" / f"{name}.json"
    if asked.exists():
        return [SceneQuestion(**{**q, "options": tuple(q["options"])}) for q in json.loads(asked.read_text(encoding="utf-8"))]
    seconds = clip_seconds(seed)
    fps = (shape.frames - 1) / seconds
    scene = random_scene(seed)
    truth = render_scene(scene, frame_times(shape.frames, fps), height=shape.height, width=shape.width)
    marks = mark_objects(truth, seed)
    encode_video(folder / _video(seed), truth.rgb, fps=fps)
    Image.fromarray(draw_marks(truth.rgb[0], truth.instance[0], marks)).save(folder / _picture(seed))
    found = scene_questions(scene, truth, marks)
    write_json(asked, [vars(question) for question in found])  # written last, so that it marks the scene as complete
    return found


def _name(seed: int) -> str:
    return f"scene-{seed:07d}"


def _video(seed: int) -> str:
    return f"videos/{_name(seed)}.mp4"


def _picture(seed: int) -> str:
    return f"marks/{_name(seed)}.png"


def _question(seed: int, number: int, question: SceneQuestion) -> dict[str, Any]:
    """The question in R4D-Bench's fields, with the marked picture if it is about a mark."""
    marked = {"som_image": _picture(seed)} if question.names_mark else {}
    return {
        "id": f"{_name(seed)}-{number:02d}",
        "benchmark": "scenes",
        "task": question.task,
        "video": _video(seed),
        **marked,
        "question": question.text,
        "options": list(question.options),
        "answer": question.options[question.right],
    }


def _conversations(seed: int, questions: Sequence[SceneQuestion], turns: int) -> list[dict[str, Any]]:
    """The questions in random order, a few per conversation, so that the video is processed once for several.

    So each kind comes first in some conversations, as it does when a student is evaluated.
    """
    order = np.random.default_rng([seed, 3]).permutation(len(questions))
    parts = [[questions[i] for i in order[start : start + turns]] for start in range(0, len(order), turns)]
    return [_conversation(seed, number, part) for number, part in enumerate(parts)]


def _conversation(seed: int, number: int, questions: Sequence[SceneQuestion]) -> dict[str, Any]:
    marked = {"image": _picture(seed)} if any(question.names_mark for question in questions) else {}
    turns = [turn for question in questions for turn in _turns(question)]
    turns[0]["value"] = ("<image>\n<video>\n" if marked else "<video>\n") + turns[0]["value"]
    return {
        "id": f"{_name(seed)}-{number}",
        "video": _video(seed),
        **marked,
        "conversations": turns,
    }


def _turns(question: SceneQuestion) -> tuple[dict[str, str], dict[str, str]]:
    return (
        {"from": "human", "value": multiple_choice(question.text, question.options)},
        {"from": "gpt", "value": OPTION_LETTERS[question.right]},
    )
