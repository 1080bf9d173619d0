"""Scenes with their questions in; folders in the layouts of published benchmarks out, with their files' and fields' names.

Each holds the kinds of questions that fit it, so that every benchmark's reader can be run without a download. They are
questions about rendered scenes: a score on one says nothing about the benchmark of that name.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from schemas.errors import BadInput
from schemas.evaluation import DYNAMIC_TASKS, OPTION_LETTERS, STATIC_TASKS, SceneTask
from teacher_cache.io.output_folder import write_json, written_whole
from teacher_cache.scenes.encode import first_and_last
from teacher_cache.scenes.questions import SceneQuestion

Record = dict[str, Any]


@dataclass(frozen=True)
class AskedScene:
    """A scene's files and questions."""

    name: str
    video: Path
    marked: Path
    """The first frame with its marks."""
    seconds: float
    """Length of the video."""
    questions: tuple[tuple[int, SceneQuestion], ...]
    """Each with its number in the scene."""

    def of(self, *tasks: SceneTask) -> Iterable[tuple[int, SceneQuestion]]:
        """The questions of these kinds."""
        return ((number, one) for number, one in self.questions if one.task in tasks)


def write_published(folder: Path, scenes: Sequence[AskedScene], benchmarks: Sequence[str]) -> dict[str, int]:
    """Write ``folder/NAME`` for each benchmark. Returns the number of records of each.

    Raises `BadInput` for one that is not there, and for one that none of the questions fits.
    """
    require_known(benchmarks)
    counts = {}
    for name in benchmarks:
        tasks, write = PUBLISHED[name]
        root = folder / name
        root.mkdir(parents=True, exist_ok=True)
        counts[name] = write(root, scenes)
        if not counts[name]:
            raise BadInput(
                f"none of the {len(scenes)} scenes has a question for {name}, which has {', '.join(tasks)}; render more"
            )
    return counts


def require_known(benchmarks: Sequence[str]) -> None:
    """Raise `BadInput` for a benchmark whose layout is not known."""
    if unknown := [name for name in benchmarks if name not in PUBLISHED]:
        raise BadInput(f"scenes are not written as {unknown[0]!r}; there are {', '.join(PUBLISHED)}")


_R4D: tuple[Any, ...] = (*STATIC_TASKS, *DYNAMIC_TASKS)
_UNMARKED: tuple[SceneTask, ...] = ("Counting", "Ego Motion", "Scene Depth", "Duration")


def _r4d(root: Path, scenes: Sequence[AskedScene]) -> int:
    """``test.json``, ``videos/`` and ``images/``, each by the benchmark that a video is from."""
    records: list[Record] = []
    for scene in scenes:
        for number, one in scene.of(*_R4D):
            name = f"{scene.name}-{number:02d}"
            video = _put(scene.video, root, f"videos/scenes/{scene.video.name}")
            marked = {"som_image": _put(scene.marked, root, f"images/scenes/{name}.png")} if one.names_mark else {}
            records.append(
                {"id": name, "benchmark": "scenes", "task": one.task, "video": video, "source": video, "time_start": 0.0,
                 "time_end": round(scene.seconds, 3), **marked, "options": list(one.options),
                 "answer": one.options[one.right], "question": one.text, "question_raw": one.text}
            )  # fmt: skip
    write_json(root / "test.json", records)
    return len(records)


def _stibench(root: Path, scenes: Sequence[AskedScene]) -> int:
    """``qa.parquet`` and ``video/``."""
    records: list[Record] = []
    for scene in scenes:
        for _, one in scene.of(*_UNMARKED):
            _put(scene.video, root, f"video/{scene.video.name}")
            records.append(
                {"Video": scene.video.name, "ID": len(records), "time_start": 0.0, "time_end": round(scene.seconds, 3),
                 "Question": one.text, "Candidates": _lettered(one.options), "Answer": OPTION_LETTERS[one.right],
                 "Task": one.task, "Source": "scenes", "Scene": "rendered"}
            )  # fmt: skip
    return _parquet(root / "qa.parquet", records)


_HUB = "https://huggingface.co/datasets/shijiezhou/VLM4D/resolve/main/"


def _vlm4d(root: Path, scenes: Sequence[AskedScene]) -> int:
    """``data/real_mc.json``, whose videos are URLs on the hub, and ``videos_real/``."""
    records: list[Record] = []
    for scene in scenes:
        for _, one in scene.of(*_UNMARKED):
            video = _put(scene.video, root, f"videos_real/{scene.video.name}")
            records.append(
                {"id": f"validation_{len(records)}", "video": _HUB + video, "question_type": "multiple-choice",
                 "question": one.text, "choices": _lettered(one.options), "answer": one.options[one.right]}
            )  # fmt: skip
    (root / "data").mkdir(exist_ok=True)
    write_json(root / "data" / "real_mc.json", records)
    return len(records)


def _vstibench(root: Path, scenes: Sequence[AskedScene]) -> int:
    """``test.json`` and ``videos/``: the camera's direction by letter, and its displacement as a number."""
    records: list[Record] = []
    for scene in scenes:
        for _, one in scene.of("Ego Motion"):
            video = _put(scene.video, root, f"videos/{scene.video.name}")
            about = {"dataset": "scenes", "scene_name": scene.name, "video_path": video, "frame_indices": []}
            options = [f"{letter}. {option}" for letter, option in _lettered(one.options).items()]
            records.append(
                {"id": len(records), **about, "question_type": "camera_movement_direction", "question": one.text,
                 "options": options, "ground_truth": one.options[one.right], "mc_answer": OPTION_LETTERS[one.right]}
            )  # fmt: skip
            if one.value and (metres := round(one.value, 2)):  # of nothing, no relative error can be told
                records.append(
                    {"id": len(records), **about, "question_type": "camera_displacement",
                     "question": "How many metres is the camera at the end from where it started?", "options": None,
                     "ground_truth": metres, "mc_answer": None}
                )  # fmt: skip
    write_json(root / "test.json", records)
    return len(records)


def _sat(root: Path, scenes: Sequence[AskedScene]) -> int:
    """``SAT_test.parquet``, which holds its images."""
    records = [
        {"image_bytes": [scene.marked.read_bytes()], "question": one.text, "answers": list(one.options),
         "question_type": one.task, "correct_answer": one.options[one.right]}
        for scene in scenes
        for _, one in scene.of("Spatial Relation")
    ]  # fmt: skip
    return _parquet(root / "SAT_test.parquet", records)


def _mmsi(root: Path, scenes: Sequence[AskedScene]) -> int:
    """``MMSI_Bench.parquet``: several images, here a video's first frame and its last, and options within the question."""
    records: list[Record] = []
    for scene in scenes:
        for _, one in scene.of("Ego Motion"):
            options = ", ".join(f"{letter}: {option}" for letter, option in _lettered(one.options).items())
            records.append(
                {"id": len(records), "images": [_png(frame) for frame in first_and_last(scene.video)],
                 "question": f"The images are a video's first frame and its last. {one.text}\nOptions: {options}",
                 "question_type": "Motion (Cam.)", "answer": OPTION_LETTERS[one.right], "thought": ""}
            )  # fmt: skip
    return _parquet(root / "MMSI_Bench.parquet", records)


def _omnispatial(root: Path, scenes: Sequence[AskedScene]) -> int:
    """``data.json``, and an image for each question's number before the ``_``."""
    kind = "Spatial_Interaction"
    records: list[Record] = []
    for image, scene in enumerate(scenes):
        for number, (_, one) in enumerate(scene.of("Spatial Relation", "Dimensional Measurement")):
            _put(scene.marked, root, f"{kind}/{image}.png")
            records.append(
                {"id": f"{image}_{number}", "question": one.text, "options": list(one.options), "answer": one.right,
                 "task_type": kind, "sub_task_type": one.task}
            )  # fmt: skip
    write_json(root / "data.json", records)
    return len(records)


def _lettered(options: Sequence[str]) -> dict[str, str]:
    return dict(zip(OPTION_LETTERS, options, strict=False))


def _png(frame: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def _put(file: Path, root: Path, name: str) -> str:
    """Put the file below a benchmark's folder, and return its name. A hard link: readers follow no other out of it."""
    target = root / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:
            shutil.copy(file, target)
    return name


def _parquet(path: Path, records: Sequence[Record]) -> int:
    if records:
        with written_whole(path) as draft:
            pq.write_table(pa.Table.from_pylist(list(records)), draft)
    return len(records)


PUBLISHED: Mapping[str, tuple[tuple[SceneTask, ...], Callable[[Path, Sequence[AskedScene]], int]]] = {
    "r4d": (_R4D, _r4d),
    "stibench": (_UNMARKED, _stibench),
    "vlm4d": (_UNMARKED, _vlm4d),
    "vstibench": (("Ego Motion",), _vstibench),
    "sat": (("Spatial Relation",), _sat),
    "mmsi": (("Ego Motion",), _mmsi),
    "omnispatial": (("Spatial Relation", "Dimensional Measurement"), _omnispatial),
}
"""Benchmark → the kinds of questions that it gets, and what writes its folder."""
