"""A run's folder and a store go in; scores of the student's maps and answers, a report and plots come out.

The perception decoder turns the student's hidden states into F4D, and the store's frozen heads turn F4D into maps. The
teacher's maps come from the store: no teacher runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from schemas.errors import BadInput, Unreachable
from schemas.evaluation import Answer, AnswersReport, ClipScores, EvalReport, MapsReport, Unevaluated
from schemas.train import FitReport, Modality, TrainConfig
from student_train.data.conversations import Conversation
from student_train.data.frames import StudentFrames
from student_train.data.pictures import plot_clip, shown
from student_train.data.samples import QUESTION, Collator, Sample, load_samples
from student_train.data.workers import workers_of
from student_train.distill.p4d import P4D
from student_train.distill.targets import TargetReader
from student_train.evaluation.answers import Question, read_questions, summary
from student_train.evaluation.asking import Questions, ask
from student_train.evaluation.comparing import comparable, scored_clips, summaries
from student_train.evaluation.plots import plot_scores, plot_training
from student_train.models.build import load_student
from student_train.training.run_folder import RunFolder
from teacher_cache import Cache, open_cache
from teacher_cache.io.console import progress_bar
from teacher_cache.io.places import Roots

if TYPE_CHECKING:
    from student_train.models.backbone import Backbone

REPORT, CLIPS, ANSWERS, PLOTS = "report.json", "clips.jsonl", "answers.jsonl", "plots"
"""What an evaluation's folder holds."""


@dataclass(frozen=True)
class Wanted:
    """What to evaluate, and where to write it."""

    store: str | None = None
    """The store whose clips are evaluated; the run's own when None."""
    clip_ids: tuple[str, ...] = ()
    """The clips to evaluate; all of the store's when empty."""
    limit: int | None = None
    """At most this many clips, the first ones; all when None."""
    maps: bool = True
    """Whether to evaluate maps."""
    questions: Path | None = None
    """A file of questions to ask; none when None."""
    video_root: str | None = None
    """Folder or URL that videos and images may be read from, besides the run's; the questions' paths start from it."""
    tell_length: bool = True
    """Whether each prompt states the video's length, as the paper's does."""
    batch: int | None = None
    """Clips or questions in one forward pass; as in training when None."""
    pictures: int = 4
    """How many clips get a picture of their maps."""
    out: Path | None = None
    """Folder to write to; ``eval`` in the run's folder when None."""


def evaluate(folder: Path, wanted: Wanted) -> EvalReport:
    """Evaluate a finished run, and write the report, scores, answers and plots to the evaluation's folder.

    Raises `BadInput` if the run's folder, the store or the questions cannot be used. A clip or question that cannot be
    evaluated does not stop the others: it is in the report with its reason.
    """
    started = time.perf_counter()
    run = open_run(folder)
    if run.config.mode == "sft":
        wanted = _answers_alone(wanted, folder)
    cache = open_cache(wanted.store or run.config.store)
    require_same_teacher(run, cache)
    rows = chosen_rows(cache, wanted) if wanted.maps else []
    questions = [] if wanted.questions is None else read_questions(wanted.questions)
    if not rows and not questions:
        raise BadInput("there is nothing to evaluate: give --questions, or a store that has clips")

    student = load_student(run.folder.student, run.config.model.dtype).to(device()).eval()
    out = _made_empty(wanted.out or folder / "eval")
    job = _Job(run, student, cache, wanted, out)
    maps = _evaluate_maps(job, rows) if wanted.maps else None
    answers = None if wanted.questions is None else _evaluate_answers(job, questions)
    plot_training(out / PLOTS / "training.png", run.folder.metrics_file)
    report = EvalReport(
        run=str(folder),
        mode=run.config.mode,
        steps=run.result.steps,
        maps=maps,
        answers=answers,
        files=tuple(sorted(str(path) for path in [*out.rglob("*.png"), *out.glob("*.jsonl"), out / REPORT])),
        seconds=time.perf_counter() - started,
    )
    (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _answers_alone(wanted: Wanted, folder: Path) -> Wanted:
    """The same without maps, for a run of mode `sft`, which has none."""
    if wanted.questions is None:
        raise BadInput(f"the run {folder} is of mode `sft`, which learns no maps to compare; give --questions")
    return replace(wanted, maps=False)


def device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Run(NamedTuple):
    """A finished run."""

    folder: RunFolder
    config: TrainConfig
    result: FitReport


def open_run(path: Path) -> Run:
    """The finished run in a folder. Raises `BadInput` if there is none, or it is not finished."""
    folder = RunFolder(path)
    return Run(folder, folder.config(), folder.result())


def require_same_teacher(run: Run, cache: Cache) -> None:
    """Raise `BadInput` unless the store has the teacher and the kind of clips that the run learnt from.

    The message names the fields of the recipe that differ. The encoding of the targets may differ.
    """
    if cache.recipe.fingerprint == run.result.fingerprint:
        return
    advice = "Give a store with the same teacher and clip settings, such as one of held-out videos made with the same job file."
    try:
        own = open_cache(run.config.store).recipe
    except (BadInput, Unreachable) as error:
        raise BadInput(
            f"the store {cache.url} has the fingerprint {cache.recipe.fingerprint[:16]}…, and the run learnt from "
            f"{run.result.fingerprint[:16]}…; its own store, needed to say what differs, cannot be opened ({error}). {advice}"
        ) from None
    if own.fingerprint != run.result.fingerprint:
        raise BadInput(
            f"the run's store {run.config.store} has the fingerprint {own.fingerprint[:16]}…, and the run learnt from "
            f"{run.result.fingerprint[:16]}…: it is not the same store any more. {advice}"
        )
    differing = {
        path: values for path, values in own.differences(cache.recipe).items() if path.startswith(("teacher.", "clips."))
    }
    if differing:
        fields = "\n".join(
            f"  {path}: the run learnt from {old!r}, this store has {new!r}" for path, (old, new) in differing.items()
        )
        raise BadInput(f"the store {cache.url} has another recipe than the run's own; these fields differ:\n{fields}\n{advice}")


def chosen_rows(cache: Cache, wanted: Wanted) -> list[dict[str, Any]]:
    """The catalog's rows of the clips to evaluate, in order. Raises `UnknownClip` for an id that is not in the store."""
    rows = {row["clip_id"]: row for row in cache.clips.to_pylist()}
    for clip_id in wanted.clip_ids:
        cache.clip(clip_id)
    chosen = [rows[clip_id] for clip_id in dict.fromkeys(wanted.clip_ids)] if wanted.clip_ids else list(rows.values())
    return chosen[: wanted.limit]


class _Job(NamedTuple):
    """What the evaluations of maps and of answers share."""

    run: Run
    student: Backbone
    cache: Cache
    wanted: Wanted
    out: Path

    @property
    def batch(self) -> int:
        return self.wanted.batch or self.run.config.batch

    @property
    def workers(self) -> int:
        return workers_of(self.run.config.data.workers)


def _evaluate_maps(job: _Job, rows: Sequence[dict[str, Any]]) -> MapsReport:
    run, student, cache, wanted, out = job
    p4d = load_p4d(run, cache, student.hidden_size).to(device()).eval()
    samples = _samples(job, [row for row in rows if row["status"] == "committed"])
    signals = comparable(p4d, cache)
    frames = StudentFrames(student.processor.image_size, 0, run.config.data.decode_timeout_seconds)
    pictures = StudentFrames(cache.size, 0, run.config.data.decode_timeout_seconds)
    collator = Collator(TargetReader(cache, signals), frames, student.processor)
    clips = scored_clips(student, p4d, samples, collator, batch=job.batch, workers=job.workers, device=device())
    scores: list[ClipScores] = []
    unevaluated = [_without_targets(row) for row in rows if row["status"] != "committed"]
    with progress_bar("maps", len(samples), "clips") as advance, (out / CLIPS).open("w", encoding="utf-8") as lines:
        for clip in clips:
            advance(1)
            if isinstance(clip, Unevaluated):
                unevaluated.append(clip)
                continue
            if len(scores) < wanted.pictures:
                plot_clip(
                    out / PLOTS / f"clip-{len(scores):03d}.png", shown(cache, clip.sample, clip.student, clip.teacher, pictures)
                )
            scores.append(clip.scores)
            lines.write(clip.scores.model_dump_json() + "\n")
    if scores:
        plot_scores(out / PLOTS / "scores.png", scores)
    without = [signal for signal in cache.signals if signal not in signals]
    return MapsReport(
        store=cache.url,
        fingerprint=cache.recipe.fingerprint,
        clips=len(scores),
        metrics=summaries(scores),
        unevaluated=tuple(unevaluated),
        note=f"{', '.join(without)} not compared: nothing in the run or the store decodes them" if without else None,
    )


def load_p4d(run: Run, cache: Cache, hidden_size: int) -> P4D:
    """The run's P4D with its trained parts loaded.

    If the run learnt F4D, the store's frozen heads decode it to maps, even if the run trained without them.
    """
    recipe, mode = run.result.loss, run.config.mode
    if mode != "direct":
        mode = "latent" if cache.heads() is None else "heads"
        # No loss is computed here; a weight only selects a signal of the store.
        held: dict[Modality, float] = {signal: 1.0 for signal in recipe.weights if signal in cache.signals}
        recipe = recipe.model_copy(update={"alpha": 1.0, "beta": 1.0, "weights": held})
    p4d = P4D.for_store(cache, hidden_size, recipe, mode=mode, decoder=run.config.decoder)
    p4d.load(run.folder.p4d)
    return p4d


def _without_targets(row: dict[str, Any]) -> Unevaluated:
    if row["status"] == "failed":
        return Unevaluated(id=row["clip_id"], video=row["video"], reason=row["reason"], detail=row["detail"] or "")
    return Unevaluated(id=row["clip_id"], video=row["video"], reason="pending", detail="planned, but not taught yet")


def _samples(job: _Job, rows: Sequence[dict[str, Any]]) -> list[Sample]:
    """One sample per clip. Text after the video cannot change the states at its tokens, so any question will do.

    Videos are read from where training read them; those of another store from its catalog's uris. Raises `BadInput` for one
    that may not be read there.
    """
    data = job.run.config.data
    videos: dict[str | None, str | None] = {}
    is_own = job.wanted.store in {None, job.run.config.store}
    if is_own and data.conversations:
        joined = load_samples(job.cache, data.model_copy(update={"without_targets": "drop"}))
        videos = {sample.clip_id: sample.video for sample in joined.samples}
    own_root = () if job.wanted.video_root is None else (job.wanted.video_root,)
    roots = Roots((*own_root, *data.video_root), "--video-root")
    samples = []
    for row in rows:
        clip_id = str(row["clip_id"])
        conversation = Conversation(f"clip {clip_id}", (QUESTION,), clip_id=clip_id)
        samples.append(Sample(conversation, clip_id, videos.get(clip_id) or roots.find(str(row["video"]))))
    return samples


def _evaluate_answers(job: _Job, questions: Sequence[Question]) -> AnswersReport:
    frames, processor = job.cache.recipe.clips.frames, job.student.processor
    made_ready = Questions(questions, job.wanted.video_root or ".", frames, processor, tell_length=job.wanted.tell_length)
    answers: list[Answer] = []
    with (
        progress_bar("answers", len(questions), "questions") as advance,
        (job.out / ANSWERS).open("w", encoding="utf-8") as lines,
    ):
        for answer in ask(job.student, made_ready, batch=job.batch, workers=job.workers, device=device()):
            advance(1)
            answers.append(answer)
            lines.write(answer.model_dump_json() + "\n")
    return summary(str(job.wanted.questions), answers)


def _made_empty(out: Path) -> Path:
    """The evaluation's folder, with the files of an earlier evaluation removed."""
    try:
        (out / PLOTS).mkdir(parents=True, exist_ok=True)
        for path in [*(out / PLOTS).glob("*.png"), *(out / name for name in (REPORT, CLIPS, ANSWERS))]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}; give another --out") from None
    return out
