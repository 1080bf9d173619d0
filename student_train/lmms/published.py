"""A benchmark's folder goes in; documents of lmms-eval, what is shown and asked for each, and scores of responses come out.

One set of functions for all tasks: a document says which benchmark it is of. Reading, prompts and scores are those of
`student_train.evaluation.benchmarks`.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import TypeAdapter

from schemas.clip import Segment
from schemas.errors import BadInput, CacheError, CouldNotRun
from student_train.evaluation.answers import DRAWN, scored
from student_train.evaluation.benchmarks.item import Item
from student_train.evaluation.benchmarks.protocol import Read, needed, read
from student_train.evaluation.benchmarks.r4d import R4D
from student_train.evaluation.benchmarks.registry import benchmark_of
from student_train.evaluation.benchmarks.vlm4d import VLM4D
from student_train.evaluation.benchmarks.vstibench import VSTIBENCH
from teacher_cache.clips.preprocess import BAD_PICTURE
from teacher_cache.io.places import Roots

if TYPE_CHECKING:
    from datasets import Dataset

NOT_ASKED = "<not asked>"
"""The response to a question whose video or image could not be read. No score counts it."""

Document = Mapping[str, Any]
_ITEM = TypeAdapter(Item)
_CODES = {
    "3D Video Grounding": "VG",
    "Dimensional Measurement": "DM",
    "Spatial Relation": "SR",
    "Rotational": "R",
    "Counting": "C",
    "Translational": "T",
    "False Positives": "FP",
    "Speed & Acceleration": "SA",
    "Displacement & Path Length": "DP",
}
"""R4D-Bench's tasks, as its metrics are called."""
_log = logging.getLogger(__name__)


@contextmanager
def told() -> Iterator[None]:
    """Ends lmms-eval with an error's message alone. It would try again what raises, and show a traceback."""
    try:
        yield
    except CacheError as error:
        raise SystemExit(f"p4d: {error}") from None


def documents(which: Dataset) -> Dataset:
    """The documents of a benchmark. ``which``: one row, of the benchmark's name, the environment variable that names its
    folder, and the folder without it.

    A record that cannot be asked, or whose video or image is not there, is left out with a warning.
    """
    import datasets  # noqa: PLC0415  # only lmms-eval has it

    row = which[0]
    root = Path(os.environ.get(row["variable"]) or row["folder"]).absolute()
    with told():
        benchmark = benchmark_of(row["benchmark"])
        try:
            found = read(benchmark, root)
        except BadInput as error:
            raise BadInput(f"{error}. Set {row['variable']} to the benchmark's folder") from None
        made = list(_documents(found, root, benchmark.name))
        if not made:
            raise BadInput(f"no question of {found.source} has its video and images under {root}; {needed(benchmark)}")
    if left := len(found.items) + len(found.unread) - len(made):
        _log.warning("%s: %d records are left out; `student-train eval --benchmark %s` lists them", root, left, benchmark.name)
    return datasets.Dataset.from_list(made)


def _documents(found: Read, root: Path, benchmark: str) -> Iterator[dict[str, Any]]:
    roots = Roots((str(root),), "the benchmark's folder")
    for item in found.items:
        images = [_file(image, roots) for image in item.images if isinstance(image, str)]
        video, footage = next(((path, one) for one in item.videos if (path := _file(one.path, roots))), (None, None))
        if None not in images and (footage is not None or not item.videos):
            yield _document(item, benchmark, images, video, None if footage is None else footage.segment)


def _document(
    item: Item, benchmark: str, images: Sequence[str | None], video: str | None, segment: Segment | None
) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "prompt": benchmark_of(benchmark).prompt(item, None),
        "images": list(images),
        "video": video,
        "start_seconds": None if segment is None else segment.start_seconds,
        "end_seconds": None if segment is None else segment.end_seconds,
        "item": _ITEM.dump_json(item).decode(),
    }


def _file(path: str, roots: Roots) -> str | None:
    """The file that a record names; None if it is not there, or not under the benchmark's folder."""
    try:
        found = roots.find(path)
    except BadInput:
        return None
    return found if Path(found).is_file() else None


def text(document: Document) -> str:
    """The prompt, without places for images and videos."""
    return str(document["prompt"])


def target(document: Document) -> str:
    """The right letter or number, for the log; empty where the published answer is none."""
    return _ITEM.validate_json(document["item"]).expected or ""


def visual(document: Document) -> list[Any]:
    """Images and the video's path, for models of the interface that lmms-eval calls simple.

    Images are opened: some of those models leave paths out without a word. Raises `BadInput` if a part of a video is to be
    shown, which they cannot.
    """
    if document["start_seconds"] is not None:
        raise BadInput(
            f"{document['video']} is to be shown from {document['start_seconds']:g} to {document['end_seconds']:g} s, and a "
            "model of lmms-eval's simple interface shows whole videos: cut the clips with the benchmark's own script, or take "
            "a model of its chat interface"
        )
    return [*_opened(document), *([document["video"]] if document["video"] else [])]


def messages(document: Document) -> list[dict[str, Any]]:
    """One turn of images, the video and the prompt, for models of the chat interface."""
    content = [{"type": "image", "url": image} for image in _opened(document)]
    if document["video"]:
        content.append(
            {
                "type": "video",
                "url": document["video"],
                "start_time": document["start_seconds"],
                "end_time": document["end_seconds"],
                "each_once": benchmark_of(document["benchmark"]).clamps,  # for this project's model; others leave it out
            }
        )
    return [{"role": "user", "content": [*content, {"type": "text", "text": text(document)}]}]


def _opened(document: Document) -> list[Image.Image]:
    """Raises `CouldNotRun` if one cannot be read."""
    found: list[Image.Image] = []
    for path in document["images"]:
        try:
            with Image.open(path) as image:
                image.load()
                found.append(image)
        except BAD_PICTURE as error:
            raise CouldNotRun(f"cannot read the image {path}: {error}") from None
    return found


def results(document: Document, responses: Sequence[str]) -> dict[str, Any]:
    """The scores of a response by their metrics' names, and for the log how it was read; nothing if it was not asked."""
    (response,) = responses
    if response == NOT_ASKED:
        return {}
    item = _ITEM.validate_json(document["item"])
    benchmark = benchmark_of(document["benchmark"])
    answer = scored(benchmark, item, response)
    assert answer.official is not None
    found: dict[str, Any] = dict.fromkeys(_parts(item, benchmark.name), answer.official)
    found["accuracy"] = [item.task, answer.official] if benchmark.is_macro else answer.official
    found["lenient"] = answer.lenient
    if benchmark.draws:
        found["random"] = float(answer.rule == DRAWN)
    found["answer"] = answer.model_dump(include={"id", "task", "groups", "expected", "parsed", "rule", "lenient_rule", "fault"})
    return {f"{benchmark.name}_{name}": value for name, value in found.items()}


def _parts(item: Item, benchmark: str) -> tuple[str, ...]:
    """What a score of its own is kept for, where a benchmark's parts are known by name."""
    codes = (_CODES[item.task],) if item.task in _CODES else ()
    return {R4D.name: (*item.groups, *codes), VLM4D.name: item.groups, VSTIBENCH.name: (item.task,)}.get(benchmark, ())


def macro(scores: Iterable[tuple[str, float]]) -> float:
    """The mean over tasks of their means, of (task, score)."""
    of_tasks: defaultdict[str, list[float]] = defaultdict(list)
    for task, score in scores:
        of_tasks[task].append(score)
    return statistics.fmean(map(statistics.fmean, of_tasks.values()))
