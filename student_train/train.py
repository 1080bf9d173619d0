"""TRAIN.yaml's value in, a trained student out: store, model, data, loop, files, in that order."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from schemas.errors import BadInput, CouldNotRun
from schemas.train import FitReport, TrainConfig
from student_train.conversations import IGNORED_LABEL
from student_train.data import Collator, Joined, SampleDataset, load_samples, some_of
from student_train.distillation import DistilledStudent
from student_train.frames import StudentFrames
from student_train.metrics import MetricsLog, first_and_last
from student_train.models.build import build_student
from student_train.p4d import P4D
from student_train.targets import TargetReader
from teacher_cache import Cache, open_cache
from teacher_cache.console import escape_lines, progress_bar, stderr

CONFIG, METRICS, RESULT, STUDENT, TRAINING_ONLY = "config.json", "metrics.jsonl", "result.json", "student", "p4d"
"""What a run's folder holds: the settings, the losses, the report, the plain student, the training-only parts."""


def fit(config: TrainConfig, *, overwrite: bool = False) -> FitReport:
    """Train a student from a store of cached targets, and write its run's folder.

    The same config, seed and machine give the same losses. Raises `BadInput` where the config, the store or the
    conversations do not fit together, and `CouldNotRun` where the loss is not a number or a video is gone.
    """
    _refuse_many_processes()
    output = Path(config.output)
    _refuse_a_second_run(output, overwrite=overwrite)
    cache = open_cache(config.store)

    torch.manual_seed(config.seed)
    student = build_student(config.model)
    p4d = P4D.for_store(cache, student.hidden_size, config.loss.resolved(), mode=config.mode, decoder=config.decoder)
    model = DistilledStudent(student, p4d)

    joined = load_samples(cache, config.data)
    if joined.dropped:
        stderr.print(
            f"{len(joined.dropped)} conversations are left out:\n{escape_lines(some_of(joined.dropped))}", soft_wrap=True
        )
    frames = StudentFrames(student.processor.image_size, config.data.frame_cache_mib * 2**20)
    collator = Collator(TargetReader(cache, p4d.signals), frames, student.processor)

    _make_empty(output)
    _write(output / CONFIG, config.model_dump_json(indent=2))
    metrics = MetricsLog(output / METRICS)
    with progress_bar("training", config.steps, "steps") as advance:
        trainer = P4DTrainer(
            model=model,
            args=_arguments(config, output),
            train_dataset=SampleDataset(joined.samples),
            data_collator=collator,
            callbacks=[Progress(advance, metrics)],
            metrics=metrics,
        )
        # Trainer prints its logs on standard output, which is for the command's own result.
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started

    student.save(output / STUDENT)
    p4d.save(output / TRAINING_ONLY)
    timing = Timing(seconds, trainer.data_wait_seconds)
    report = _report(config, cache, model, joined=joined, metrics=metrics, timing=timing)
    _write(output / RESULT, report.model_dump_json(indent=2))
    return report


class P4DTrainer(Trainer):  # type: ignore[misc]  # transformers ships no types
    """transformers' Trainer with P4D's loss: what it adds is how the parts are averaged, checked and logged."""

    loss_is_scaled_for_ga = True

    def __init__(self, *, metrics: MetricsLog, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metrics = metrics
        self.data_wait_seconds = 0.0

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one optimizer step, and what its means are over; the time to get them is time waited for data."""
        started = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.data_wait_seconds += time.perf_counter() - started
        return batches, step_counts(batches)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """SFT + alpha · LD + beta · ED of one batch. Raises `CouldNotRun` where it is not a finite number."""
        clip_ids = inputs.pop("clip_ids")
        losses = model(**inputs, counts=num_items_in_batch)
        named = {"loss": losses.total.detach(), **losses.parts}
        # One copy to the host for all of them: each would wait for the device by itself.
        values = dict(zip(named, torch.stack([value.float() for value in named.values()]).tolist(), strict=True))
        _refuse_nonfinite(values, self.state.global_step + 1, clip_ids)
        self.metrics.add(values, self.state.global_step + 1)
        return (losses.total, losses) if return_outputs else losses.total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one line of metrics at each of Trainer's logging steps."""
        if "loss" in logs:
            rates: dict[str, float] = {name: logs[name] for name in ("learning_rate", "grad_norm") if name in logs}
            _refuse_nonfinite_gradient(rates.get("grad_norm", 0.0), self.state.global_step)
            self.metrics.write(self.state.global_step, {**rates, "data_wait_seconds": self.data_wait_seconds})
        super().log(logs, start_time)


def step_counts(batches: list[dict[str, Any]]) -> dict[str, float]:
    """What the means of one optimizer step are over: ``labels``, the tokens to predict, and each signal's clips with a target.

    With them, several batches give the losses and gradients of one batch as large as all of them.
    """
    counts = {"labels": float(sum(int((batch["labels"][:, 1:] != IGNORED_LABEL).sum()) for batch in batches))}
    for batch in batches:
        for signal, valid in batch.get("valid", {}).items():
            counts[signal] = counts.get(signal, 0.0) + float(valid.sum())
    return counts


def _refuse_nonfinite(values: dict[str, float], step: int, clip_ids: list[str]) -> None:
    if not math.isfinite(values["loss"]):
        parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise CouldNotRun(
            f"the loss of step {step} is {values['loss']}: {parts}; the batch's clips are {', '.join(clip_ids) or 'none'}. "
            "Lower `optim.learning_rate`, or look at these clips' targets with `teacher-cache view`."
        )


def _refuse_nonfinite_gradient(norm: float, step: int) -> None:
    if not math.isfinite(norm):
        raise CouldNotRun(
            f"the gradient of step {step} has the norm {norm}, though its loss is finite; lower `optim.learning_rate`"
        )


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Moves the bar each step, and says the losses each tenth of the way."""

    def __init__(self, advance: Any, metrics: MetricsLog) -> None:
        self.advance, self.metrics = advance, metrics
        self.said = 0

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002  # Trainer's names
        self.advance(1)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002  # Trainer's names
        step, steps = state.global_step, state.max_steps
        if step == self.said or not self.metrics.lines:  # Trainer logs once more at the end
            return
        if self.said == 0 or step * 10 // steps > self.said * 10 // steps:
            self.said = step
            losses = self.metrics.lines[-1].losses
            stderr.print(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items()), soft_wrap=True)


class OneDevice(TrainingArguments):  # type: ignore[misc]  # transformers ships no types
    """Trainer's settings, on one device: with several GPUs in sight Trainer would fall back to torch's DataParallel."""

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))


def _arguments(config: TrainConfig, output: Path) -> TrainingArguments:
    return OneDevice(
        output_dir=str(output),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.optim.learning_rate,
        weight_decay=config.optim.weight_decay,
        lr_scheduler_type=config.optim.schedule,
        warmup_steps=round(config.optim.warmup * config.steps),
        max_grad_norm=config.optim.max_grad_norm,
        seed=config.seed,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,  # `compute_loss` stops at such a loss instead of hiding it
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,  # the collator makes the batch
        dataloader_num_workers=config.data.workers,
        dataloader_multiprocessing_context="spawn" if config.data.workers else None,  # zarr and CUDA do not survive a fork
        dataloader_persistent_workers=config.data.workers > 0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class Timing(NamedTuple):
    """Wall time of a training loop."""

    seconds: float
    data_wait_seconds: float


def _report(
    config: TrainConfig, cache: Cache, model: DistilledStudent, *, joined: Joined, metrics: MetricsLog, timing: Timing
) -> FitReport:
    student, p4d = model.student, model.p4d
    parts = {**student.parts(), **p4d.parts}
    first, last = first_and_last(metrics.lines)
    return FitReport(
        output=config.output,
        store=config.store,
        fingerprint=cache.recipe.fingerprint,
        mode=config.mode,
        loss=p4d.recipe,
        steps=config.steps,
        samples=len(joined.samples),
        clips=len({sample.clip_id for sample in joined.samples} - {None}),
        dropped=len(joined.dropped),
        first=first,
        last=last,
        parameters={name: _size(part) for name, part in parts.items()},
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=timing.seconds,
        data_wait_seconds=timing.data_wait_seconds,
    )


def _size(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def _refuse_a_second_run(output: Path, *, overwrite: bool) -> None:
    if not overwrite and any((output / name).exists() for name in (METRICS, RESULT)):
        raise BadInput(f"{output} holds a run already; give another `output`, or --overwrite to put this run in its place")


def _make_empty(output: Path) -> None:
    """The run's folder, without what an earlier run left; called once everything that the run needs was found good."""
    for name in (CONFIG, METRICS, RESULT):
        (output / name).unlink(missing_ok=True)
    for name in (STUDENT, TRAINING_ONLY):
        shutil.rmtree(output / name, ignore_errors=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {output}: {error.strerror}; give another `output`") from None


def _refuse_many_processes() -> None:
    # Each process would take its own means and write the same files.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CouldNotRun("student-train fit trains in one process; start it by itself, not with torchrun or accelerate launch")


def _write(path: Path, text: str) -> None:
    """Whole or not at all, so that whoever sees the file can read it."""
    draft = path.with_suffix(".part")
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(path)
