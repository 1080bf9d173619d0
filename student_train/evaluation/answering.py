"""A benchmark's items and a model go in; its answers come out, kept one by one, so that a stopped evaluation can go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from schemas.base import canonical_json, sha256_digest
from schemas.errors import BadInput
from schemas.evaluation import Answer, AnswersReport
from student_train.evaluation.answers import summary
from student_train.evaluation.answers_page import write_pages, wrong_answers
from student_train.evaluation.asking import Questions, ask
from student_train.evaluation.benchmarks.item import Item
from student_train.evaluation.benchmarks.protocol import Benchmark, Read
from student_train.evaluation.models import Opened
from student_train.training.ranks import Ranks
from teacher_cache.io.console import progress_bar

ANSWERS, SETTINGS = "answers.jsonl", "answers.settings.json"
"""One line an answer, and what all of them were made with."""


class Asking(NamedTuple):
    """What to ask, and where its videos and images are."""

    benchmark: Benchmark
    found: Read
    root: str


class Answering(NamedTuple):
    """How to ask, and where to keep the answers."""

    out: Path
    batch: int
    workers: int
    device: torch.device
    model: str


def answered(
    asking: Asking,
    opened: Opened,
    how: Answering,
    ranks: Ranks,
    *,
    frames: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    tell_length: bool = True,
    resume: bool = False,
    pictures: int = 0,
) -> AnswersReport:
    """Ask every item that has no answer yet, and sum up all of them. Each process asks its share. Collective.

    ``limit``: only the first so many items; another evaluation may go on from their answers. Each answer is a line of a file as
    soon as its batch is done; ``resume`` keeps those of the same settings. The pages show ``pictures`` wrong answers. Raises
    `BadInput` if answers to keep are of other settings.
    """
    benchmark, found, root = asking
    frames = frames or benchmark.frames
    settings = {
        "model": how.model,
        "weights": _stamps(opened.weights),
        "steps": opened.steps,
        "dtype": opened.dtype,
        "benchmark": benchmark.name,
        "items": _digest(found.items),
        "frames": frames,
        "new_tokens": benchmark.new_tokens,
        "tell_length": tell_length,
        "seed": seed,
    }
    whole, found = found, replace(found, items=found.items[:limit])
    with ranks.raise_on_any_rank():
        done = _kept(how.out, settings) if resume else {}
    with ranks.raise_on_any_rank():  # all have read before one writes
        if ranks.is_rank_zero:
            _put_together(how.out, list(done.values()))  # without what was cut off
            (how.out / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    left = [item for item in found.items if item.id not in done]
    questions = Questions(
        benchmark,
        left[ranks.rank :: ranks.size],
        root,
        opened.student.processor,
        frames=frames,
        tell_length=tell_length,
    )
    mine: list[Answer] = []
    part = how.out / (ANSWERS if ranks.size == 1 else f"answers.rank-{ranks.rank}.jsonl")
    with progress_bar("answers", len(questions), "questions") as advance, part.open("a", encoding="utf-8") as lines:
        for answer in ask(opened.student, questions, batch=how.batch, workers=how.workers, device=how.device, seed=seed):
            advance(1)
            mine.append(answer)
            lines.write(answer.model_dump_json() + "\n")
            lines.flush()
    done |= {answer.id: answer for part in ranks.gather(mine) for answer in part}
    answers = [done[item.id] for item in found.items]
    with ranks.raise_on_any_rank():
        if ranks.is_rank_zero:
            _put_together(how.out, [done[item.id] for item in whole.items if item.id in done])
    report = summary(benchmark, found, answers, frames=frames, seed=seed, limit=limit)
    if ranks.is_rank_zero:
        questions = Questions(benchmark, found.items, root, opened.student.processor, frames=frames, tell_length=tell_length)
        write_pages(how.out, Path(how.model).name, report, wrong_answers(questions, answers, pictures))
    return report


def _digest(items: Sequence[Item]) -> str:
    """Of what is asked and what is right: files may have moved."""
    return sha256_digest(canonical_json([[item.id, item.question, item.options, item.expected] for item in items]))


def _stamps(folders: Sequence[Path]) -> str:
    """Digest of the names, sizes and times of the files of weights: another fit into the same folder is another model."""
    files = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    return sha256_digest(canonical_json([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]))


def _kept(out: Path, settings: dict[str, Any]) -> dict[str, Answer]:
    """The answers in a folder by their id, without those that could not be asked. A line that was cut off is no answer."""
    try:
        then = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {out / SETTINGS}: {error}; leave out --resume to begin anew") from None
    if differing := [name for name in settings if then.get(name) != settings[name]]:
        lines = "\n".join(f"  {name}: they have {then.get(name)!r}, now it is {settings[name]!r}" for name in differing)
        raise BadInput(f"the answers in {out} were given with other settings:\n{lines}\nLeave out --resume to begin anew.")
    kept = {}
    for path in sorted(out.glob("answers*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                answer = Answer.model_validate_json(line)
            except ValidationError:
                continue
            if answer.reason is None:
                kept[answer.id] = answer
    return kept


def _put_together(out: Path, answers: Sequence[Answer]) -> None:
    """One file of all answers in the items' order, in place of the processes' own."""
    draft = out / f"{ANSWERS}.part"
    draft.write_text("".join(answer.model_dump_json() + "\n" for answer in answers), encoding="utf-8")
    draft.replace(out / ANSWERS)
    for path in out.glob("answers.rank-*.jsonl"):
        path.unlink()
