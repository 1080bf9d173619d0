"""A trained student and clips of a store go in; each clip's scores and maps come out, or the reason it has none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from schemas.errors import CacheError, Unreachable
from schemas.evaluation import ClipScores, MapSummary, Unevaluated
from schemas.signal import P4D_SIGNALS, SignalName
from student_train.data.samples import Collator, Sample, SampleDataset
from student_train.data.workers import begin_worker
from student_train.distill.p4d import P4D
from student_train.evaluation.map_metrics import METRICS, SCORED, Scores

if TYPE_CHECKING:
    from student_train.models.backbone import Backbone
    from teacher_cache import Targets


class ScoredClip(NamedTuple):
    """A clip's scores, and the maps that were compared."""

    scores: ClipScores
    sample: Sample
    student: dict[str, np.ndarray[Any, Any]]
    """Signal → the student's map; axes and units as in `schemas.signal.SIGNALS`. Without F4D."""
    teacher: dict[str, np.ndarray[Any, Any]]
    """Signal → the teacher's map, likewise."""


@torch.inference_mode()
def scored_clips(
    student: Backbone,
    p4d: P4D,
    samples: Sequence[Sample],
    collator: Collator,
    *,
    batch: int,
    workers: int,
    device: torch.device,
) -> Iterator[ScoredClip | Unevaluated]:
    """Yields each clip's scores, or the reason it has none. Raises `Unreachable` if the store or the videos do not answer."""
    by_id = {str(sample.clip_id): sample for sample in samples}
    loader = DataLoader(
        SampleDataset(samples),
        batch_size=batch,
        collate_fn=Readable(collator),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=begin_worker,
    )
    for made_ready in loader:
        for one in made_ready:
            if isinstance(one, Unevaluated):
                yield one
            else:
                yield from _scored_batch(student, p4d, one, by_id, device)


class Readable:
    """Wraps a collator: samples whose video or targets cannot be read become `Unevaluated`. Picklable."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[Sample]) -> list[dict[str, Any] | Unevaluated]:
        """One batch of all samples; if one cannot be read, a batch for each sample that can. Raises `Unreachable`."""
        try:
            return [self.collator(samples)]
        except Unreachable:
            raise
        except CacheError as error:
            if len(samples) > 1:
                return [one for sample in samples for one in self([sample])]
            (sample,) = samples
            return [Unevaluated.because(error, id=str(sample.clip_id), video=str(sample.video))]


def _scored_batch(
    student: Backbone, p4d: P4D, batch: dict[str, Any], by_id: dict[str, Sample], device: torch.device
) -> Iterator[ScoredClip | Unevaluated]:
    visual = {name: value.to(device) for name, value in batch["visual"].items()}
    output = student(batch["input_ids"].to(device), batch["attention_mask"].to(device), visual=visual)
    teacher = {signal: target.to(device) for signal, target in batch["targets"].items()}
    predicted = p4d.maps(output.hidden, tuple(teacher))
    scores: dict[str, Scores] = {}
    for signal, target in teacher.items():
        scores |= SCORED[signal](predicted[signal], target)
    finite = {signal: values.flatten(1).isfinite().all(1).tolist() for signal, values in predicted.items()}
    values = {name: (found.student.tolist(), found.baseline.tolist()) for name, found in scores.items()}
    for row, clip_id in enumerate(batch["clip_ids"]):
        sample = by_id[clip_id]
        if nonfinite := [signal for signal, good in finite.items() if not good[row]]:
            detail = f"the student's {', '.join(nonfinite)} is not finite"
            yield Unevaluated(id=clip_id, video=str(sample.video), reason="student_nonfinite", detail=detail)
            continue
        clip = ClipScores(
            clip_id=clip_id,
            video=str(sample.video),
            scores={name: _known(student[row]) for name, (student, _) in values.items()},
            baselines={name: _known(baseline[row]) for name, (_, baseline) in values.items()},
        )
        yield ScoredClip(clip, sample, _maps_of(predicted, row), _maps_of(teacher, row))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _maps_of(signals: dict[SignalName, torch.Tensor], row: int) -> dict[str, np.ndarray[Any, Any]]:
    return {signal: values[row].cpu().numpy() for signal, values in signals.items() if signal != "f4d"}


def comparable(p4d: P4D, cache: Targets) -> tuple[SignalName, ...]:
    """The signals that the student predicts and the store holds."""
    return tuple(signal for signal in P4D_SIGNALS if signal in cache.signals and signal in p4d.perception.gives)


def summaries(clips: Sequence[ClipScores]) -> dict[str, MapSummary]:
    """Metric → its summary over all clips; only metrics that some clip was measured by."""
    measured = [name for name in METRICS if any(name in clip.scores for clip in clips)]
    return {name: _summary(name, clips) for name in measured}


def _summary(name: str, clips: Sequence[ClipScores]) -> MapSummary:
    pairs = [(score, clip.baselines[name]) for clip in clips if (score := clip.scores[name]) is not None]
    baselines = [baseline for _, baseline in pairs if baseline is not None]
    values = [score for score, _ in pairs]
    return MapSummary(
        mean=fmean(values) if values else None,
        median=median(values) if values else None,
        baseline=fmean(baselines) if baselines else None,
        clips=len(values),
    )
