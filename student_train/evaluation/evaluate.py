"""A model, a store and a benchmark go in; scores of the model's maps and answers, a report and plots come out.

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
from schemas.evaluation import ClipScores, EvalReport, MapsReport, Unevaluated
from schemas.train import Dtype, Modality
from student_train.data.conversations import Conversation
from student_train.data.frames import StudentFrames, reads_stored_frames
from student_train.data.mixture import video_roots
from student_train.data.pictures import plot_clip, shown
from student_train.data.samples import QUESTION, Collator, Sample, load_samples
from student_train.data.workers import workers_of
from student_train.distill.p4d import P4D
from student_train.distill.targets import TargetReader
from student_train.evaluation.answering import Answering, Asking, answered
from student_train.evaluation.benchmarks.protocol import needed, read
from student_train.evaluation.benchmarks.r4d import QUESTIONS
from student_train.evaluation.benchmarks.registry import benchmark_of
from student_train.evaluation.comparing import comparable, scored_clips, summaries
from student_train.evaluation.models import Run, device, is_model, open_model, open_run
from student_train.evaluation.plots import plot_scores, plot_training
from student_train.training.ranks import Ranks
from student_train.training.run_folder import RunFolder
from teacher_cache import Cache, open_cache
from teacher_cache.io.console import progress_bar
from teacher_cache.io.places import Roots

if TYPE_CHECKING:
    from student_train.models.backbone import Backbone

REPORT, CLIPS, PLOTS = "report.json", "clips.jsonl", "plots"
"""What an evaluation's folder holds, beside the answers' files."""
ALONE = Ranks()
_BATCH = 8
"""Questions in a batch for a model that is no run's."""


@dataclass(frozen=True)
class Wanted:
    """What to evaluate, and where to write it."""

    store: str | None = None
    """The store whose clips are evaluated; the run's own when None."""
    clip_ids: tuple[str, ...] = ()
    """The clips to evaluate; all of the store's when empty."""
    limit: int | None = None
    """At most this many clips, the first ones; all when None."""
    maps: bool | None = None
    """Whether to evaluate maps; when None, those of a run, unless a benchmark is named."""
    benchmark: str | None = None
    """Name of the benchmark to ask; ``questions`` when None and there are questions."""
    root: Path | None = None
    """The benchmark's folder, as it was downloaded."""
    questions: Path | None = None
    """A file of questions, in place of the benchmark's own."""
    video_root: str | None = None
    """Folder or URL that videos and images may be read from, besides the run's; the questions' paths start from it, or from
    ``root`` when None."""
    tell_length: bool = True
    """Whether each prompt of ``questions`` states the video's length, as the paper's does."""
    frames: int | None = None
    """Frames of each video that a question shows; the benchmark's own number when None."""
    seed: int = 0
    """Seed of the letters that a benchmark draws where it finds none."""
    dtype: Dtype | None = None
    """Of the weights; the run's when None, and bfloat16 for a model that is no run's."""
    batch: int | None = None
    """Clips or questions in one forward pass; as in training when None."""
    pictures: int = 4
    """How many clips get a picture of their maps, and how many wrong answers one of what was shown."""
    new_tokens: int | None = None
    """Longest response, in tokens; the benchmark's own number when None."""
    resume: bool = False
    """Whether to keep the answers that are in the folder, and give only the others."""
    overwrite: bool = False
    """Whether to replace the answers that are in the folder."""
    out: Path | None = None
    """Folder to write to; ``eval`` in the run's folder when None, ``eval-BENCHMARK`` for a benchmark; in the current folder,
    with the model's name before it, for a model that is no run's."""


def evaluate(folder: Path, wanted: Wanted, ranks: Ranks = ALONE) -> EvalReport:
    """Evaluate a model, and write the report, scores, answers and plots to the evaluation's folder. Collective.

    Maps need a finished run and a store; answers need neither. Raises `BadInput` if the folder, the store or the questions
    cannot be used. A clip or question that cannot be evaluated does not stop the others: it is in the report with its reason.
    """
    started = time.perf_counter()
    if device().type == "cuda":
        torch.cuda.set_device(device())
    with ranks.raise_on_any_rank():
        asking = _asking(wanted)
        run = _run_with_maps(folder, wanted, has_questions=asking is not None)
        _require_used(wanted, with_maps=run is not None, with_answers=asking is not None)
        cache = None if run is None else open_cache(wanted.store or run.config.store)
        rows = []
        if run is not None and cache is not None:
            require_same_teacher(run, cache)
            rows = chosen_rows(cache, wanted)
        if not rows and asking is None:
            raise BadInput("there is nothing to evaluate: give --benchmark or --questions, or a store that has clips")
        if rows and ranks.size > 1:
            raise BadInput("maps are compared by one process; start `eval` without torchrun, or give --no-maps")
        out = _out(folder, wanted)
        _require_replaceable(out, wanted)
        opened = open_model(folder, wanted.dtype)
        opened.student.to(device()).eval()
    with ranks.raise_on_any_rank():  # all have looked before one writes
        if ranks.is_rank_zero:
            _made_empty(out, wanted)
    maps = None
    if run is not None and cache is not None:
        maps = _evaluate_maps(_Job(run, opened.student, cache, wanted, out), rows)
    answers = None
    if asking is not None:
        batch = wanted.batch or (opened.config.batch if opened.config else _BATCH)
        workers = workers_of(opened.config.data.workers if opened.config else None)
        answers = answered(
            asking,
            opened,
            Answering(out, batch, workers, device(), str(folder)),
            ranks,
            frames=wanted.frames,
            seed=wanted.seed,
            limit=wanted.limit,
            tell_length=wanted.tell_length,
            resume=wanted.resume,
            pictures=wanted.pictures,
        )
    report = EvalReport(
        run=str(folder),
        mode=opened.config.mode if opened.config else None,
        steps=opened.steps,
        maps=maps,
        answers=answers,
        files=(),
        seconds=time.perf_counter() - started,
    )
    return _written(report, folder, out) if ranks.is_rank_zero else report


def _written(report: EvalReport, folder: Path, out: Path) -> EvalReport:
    metrics = RunFolder(folder).metrics_file
    if metrics.is_file() and report.mode is not None:
        plot_training(out / PLOTS / "training.png", metrics)
    files = [*out.rglob("*.png"), *out.glob("*.jsonl"), *out.glob("answers.*"), out / REPORT]
    report = report.model_copy(update={"files": tuple(sorted({str(path) for path in files}))})
    (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _asking(wanted: Wanted) -> Asking | None:
    """The benchmark to ask and its items; None if nothing is to be asked."""
    if wanted.benchmark is None and wanted.questions is None:
        return None
    benchmark = benchmark_of(wanted.benchmark or QUESTIONS.name)
    if wanted.root is None and wanted.questions is None:
        raise BadInput(f"--benchmark {benchmark.name} needs --root, its folder; {needed(benchmark)}")
    found = read(benchmark, wanted.root or Path(), wanted.questions)
    if wanted.new_tokens is not None:
        benchmark = replace(benchmark, new_tokens=wanted.new_tokens)
    return Asking(benchmark, found, wanted.video_root or str(wanted.root or "."))


def _require_used(wanted: Wanted, *, with_maps: bool, with_answers: bool) -> None:
    """Raise `BadInput` for what would be ignored: whoever gives it expects another evaluation."""
    if wanted.clip_ids and not with_maps:
        raise BadInput("--clip chooses clips whose maps are compared, and here none are; leave it out, or give --maps")
    for option, is_given in (
        ("--root", wanted.root is not None),
        ("--frames", wanted.frames is not None),
        ("--new-tokens", wanted.new_tokens is not None),
    ):
        if is_given and not with_answers:
            raise BadInput(f"{option} is for questions, and none are asked; give --benchmark or --questions, or leave it out")


def _run_with_maps(folder: Path, wanted: Wanted, *, has_questions: bool) -> Run | None:
    """The run whose maps are to be compared; None if no maps are."""
    if wanted.maps is False or (wanted.maps is None and (wanted.benchmark is not None or is_model(folder))):
        return None
    run = open_run(folder)
    if run.config.mode != "sft":
        return run
    if not has_questions:
        raise BadInput(f"the run {folder} is of mode `sft`, which learns no maps to compare; give --questions or --benchmark")
    return None


def _out(folder: Path, wanted: Wanted) -> Path:
    name = "eval" if wanted.benchmark is None else f"eval-{wanted.benchmark}"
    return wanted.out or (Path(f"{folder.resolve().name}-{name}") if is_model(folder) else folder / name)


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
    """What the evaluation of maps needs."""

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
    signals = comparable(p4d, cache)
    has_frames = reads_stored_frames(cache, student.processor.image_size, run.config.data.frames)
    samples = _samples(job, [row for row in rows if row["status"] == "committed"], opens_videos=not has_frames)
    frames = StudentFrames(student.processor.image_size, 0, run.config.data.decode_timeout_seconds)
    pictures = StudentFrames(cache.size, 0, run.config.data.decode_timeout_seconds)
    collator = Collator(TargetReader(cache, signals), frames, student.processor, reads_stored_frames=has_frames)
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


def _samples(job: _Job, rows: Sequence[dict[str, Any]], *, opens_videos: bool) -> list[Sample]:
    """One sample per clip. Text after the video cannot change the states at its tokens, so any question will do.

    Videos are read from where training read them; those of another store from its catalog's uris. Raises `BadInput` for one
    that may not be read there.
    """
    data = job.run.config.data
    videos: dict[str | None, str | None] = {}
    is_own = job.wanted.store in {None, job.run.config.store}
    if opens_videos and is_own and (data.conversations or data.mixture):
        joined = load_samples(job.cache, data.model_copy(update={"without_targets": "drop"}), job.run.config.seed)
        videos = {sample.clip_id: sample.video for sample in joined.samples}
    own_root = () if job.wanted.video_root is None else (job.wanted.video_root,)
    roots = Roots((*own_root, *video_roots(data)), "--video-root")
    samples = []
    for row in rows:
        clip_id = str(row["clip_id"])
        conversation = Conversation(f"clip {clip_id}", (QUESTION,), clip_id=clip_id)
        video = (videos.get(clip_id) or roots.find(str(row["video"]))) if opens_videos else str(row["video"])
        samples.append(Sample(conversation, clip_id, video, flipped=row["flipped"]))
    return samples


def _require_replaceable(out: Path, wanted: Wanted) -> None:
    """Raise `BadInput` rather than lose the answers of an earlier evaluation."""
    if wanted.resume and wanted.overwrite:
        raise BadInput("--resume keeps the answers in the folder, and --overwrite replaces them; give one of them")
    if not (wanted.resume or wanted.overwrite) and any(path.stat().st_size for path in out.glob("answers*.jsonl")):
        raise BadInput(
            f"{out} already holds answers; give another --out, --resume to keep them, or --overwrite to replace them"
        )


def _made_empty(out: Path, wanted: Wanted) -> None:
    """Make the evaluation's folder, and remove an earlier evaluation's files. Raises `BadInput` if it cannot be written."""
    earlier = [*(out / PLOTS).glob("*.png"), *(out / name for name in (REPORT, CLIPS))]
    if not wanted.resume:
        earlier += out.glob("answers*")
    try:
        (out / PLOTS).mkdir(parents=True, exist_ok=True)
        for path in earlier:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}; give another --out") from None
