"""A `TrainConfig` goes in, a trained student in its run folder comes out.

In order: open the store, build the model, load the data, train, write the files.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from schemas.errors import BadInput, CouldNotRun, Diverged, Stopped
from schemas.train import FitFailure, FitReport, Reporter, TrainConfig, TrainedOn, Validated, ValidationConfig
from student_train.data.frames import StudentFrames, reads_stored_frames
from student_train.data.lengths import Fitting, Length, fitting, length_of
from student_train.data.marks import Marks
from student_train.data.mixture import Epochs, image_roots, video_roots, weights_of, with_mixture
from student_train.data.samples import Collator, Joined, Sample, SampleDataset, load_samples, some_of, with_flipped
from student_train.data.workers import local_processes, workers_of
from student_train.distill.confidence import Confidence
from student_train.distill.p4d import P4D
from student_train.distill.pixel_weights import PixelWeights, Product
from student_train.distill.regions import RegionWeights
from student_train.distill.student import DistilledStudent
from student_train.distill.targets import TargetReader
from student_train.models.backbone import Backbone
from student_train.models.build import build_trained
from student_train.models.folder import without_weights
from student_train.models.lora import merge_adapters
from student_train.training.batches import StepBatches
from student_train.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    CheckpointState,
    digest_of,
    refuse_other_config,
    refuse_other_data,
    samples_per_step,
)
from student_train.training.metrics import MetricsLog, first_and_last
from student_train.training.optimizer import layer_matrices
from student_train.training.ranks import Ranks
from student_train.training.run_folder import RunFolder
from student_train.training.sharding import shard
from student_train.training.stores import Stores, opened
from student_train.training.trainer import P4DTrainer, trained
from student_train.training.validation import Validation, held_out
from teacher_cache import Cache
from teacher_cache.io.console import progress_bar, stderr
from teacher_cache.io.output_folder import written_whole
from teacher_cache.io.stop import stop_on_sigterm


def fit(config: TrainConfig, *, overwrite: bool = False, resume: bool = False) -> FitReport:
    """Train a student from a store of cached targets, and write its run folder, ``config.output``.

    The same config, seed and machine give the same losses. Under torchrun every rank calls this; together they train one
    student, and rank 0 writes.

    ``resume``: continue from the newest checkpoint in the folder, exactly as if the run had never stopped. Without a
    checkpoint the run starts from the beginning; if this very run is finished, its report is returned.
    ``overwrite``: replace a run that is in the folder.

    Raises, on every rank, `BadInput` if the config, the store, the conversations and the checkpoint or the finished run do not
    fit together, `Diverged` if the loss is not finite, `CouldNotRun` if a video is missing, and `Stopped` if SIGTERM ended the
    run after a last checkpoint.
    """
    ranks = Ranks.joined()
    folder = RunFolder(Path(config.output))
    with ranks.raise_on_any_rank():
        config = with_mixture(config)
        _refuse_shards_alone(config, ranks)
        _require_reporters(config.report_to)
        finished = _look(folder, config, ranks, overwrite=overwrite, resume=resume) if ranks.is_rank_zero else None
    if (done := ranks.broadcast(finished)) is not None:
        return done

    begun = None
    with ranks.raise_on_any_rank():
        if resume and ranks.is_rank_zero:
            begun = Checkpoints(folder.checkpoints, config.keep_checkpoints).newest()
    begun = ranks.broadcast(begun)
    stores = opened(config, None if begun is None else _at_version(begun.state.config, begun.state.store_version), ranks)
    config = stores.config
    with ranks.raise_on_any_rank():
        built = build(config, stores.cache, has_weights=config.fsdp is None or ranks.is_rank_zero)
    run, validation = prepared(stores, built, ranks)
    _begin(run, begun, folder)
    _say_what_is_left_out(run.fitting, config)
    run.go_on_from(begun)
    counts = _parameters(built)
    args = _arguments(config, run.steps, folder.path)
    if config.fsdp is not None:
        # Without this, a batch of text alone with frozen embeddings would have no gradient below the first layer, and the
        # ranks would reduce the gradients of their layers in different orders.
        built.model.student.model.enable_input_require_grads()
        within = local_processes() if config.fsdp == "hybrid_shard" else None
        bf16 = config.precision == "bf16"
        shard(built.model, layers(built.model.student), device=args.device, bf16=bf16, within=within)

    with stop_on_sigterm() as stop, progress_bar("training", run.steps, "steps") as advance:
        head = built.model.student.model.get_output_embeddings()
        trainer = P4DTrainer(
            model=built.model,
            args=args,
            train_dataset=SampleDataset(run.samples),
            data_collator=_collator(run, built),
            batches=run.batches,
            metrics=run.metrics,
            ranks=ranks,
            stop=stop,
            save=run.save,
            failed_save=run.checkpoints.failure,
            by_muon=layer_matrices(built.model, head) if config.optim.optimizer == "muon" else (),
            learning_rates=learning_rates(config, built),
            validation=validation,
            validate_every=1 if config.validation is None else config.validation.every,
            keeps_best=_keeps_best(config),
            max_bad_steps=config.max_bad_steps,
            begun=begun,
            advance=advance,
        )
        with run.writing():
            trainer.train()
    seconds = run.metrics.seconds
    if trainer.state.global_step < run.steps:
        raise Stopped(
            f"stopped on request after step {trainer.state.global_step}; the same command with --resume continues from there"
        )

    run.take_best(trainer)
    weights = trainer.weights() if config.fsdp is not None else None
    report = _report(run, built, counts, seconds)
    with ranks.raise_on_any_rank():
        if ranks.is_rank_zero:
            save_student(built if weights is None else with_weights(build(config, stores.cache), weights), folder)
            _write(folder.result_file, report.model_dump_json(indent=2))
    return report


class Run:
    """One run on one rank: its settings, its data and the position in them, its metrics and its checkpoints."""

    def __init__(
        self,
        stores: Stores,
        fitting: Fitting,
        ranks: Ranks,
        *,
        trained_on: TrainedOn,
        weights: PixelWeights | None = None,
        marks: Marks | None = None,
    ) -> None:
        config, folder = stores.config, RunFolder(Path(stores.config.output))
        self.config, self.cache, self.fitting, self.ranks = config, stores.cache, fitting, ranks
        self.beside, self.trained_on = stores.beside, trained_on
        self.samples, self.weights, self.marks = fitting.joined.samples, weights, marks
        self.epochs = Epochs([one.part for one in self.samples], weights_of(config.data), config.seed)
        self.steps = optimizer_steps(config, len(self.epochs), ranks.size)
        self.batches = StepBatches(
            [length.whole for length in fitting.lengths],
            config.batch,
            seed=config.seed,
            ranks=ranks,
            accumulate=config.accumulate,
            epochs=self.epochs,
        )
        self.checkpoints = Checkpoints(folder.checkpoints, config.keep_checkpoints)
        self.metrics = MetricsLog(folder.metrics_file if ranks.is_rank_zero else None)

    def beginning(self) -> CheckpointState:
        """A checkpoint's state with step 0 and without schedules, which `save` fills in."""
        return CheckpointState(
            step=0,
            config=self.config,
            processes=self.ranks.size,
            store_version=self.cache.version,
            fingerprint=self.cache.recipe.fingerprint,
            beside=self.beside,
            samples=digest_of(self.samples),
            data=self.batches.state_dict(),
            learning_rates=(),
            schedule={},
            metrics=self.metrics.state(),
        )

    def save(self, trainer: P4DTrainer) -> None:
        """Begin to write a checkpoint of the trainer's current step. Collective."""
        now = {
            "step": trainer.state.global_step,
            "learning_rates": trainer.learning_rates(),
            "schedule": trainer.lr_scheduler.state_dict(),
        }
        best = self.metrics.best if _keeps_best(self.config) else None
        self.checkpoints.write(
            self.beginning().model_copy(update=now),
            trainer.tensors(),
            self.metrics.text,
            ranks=self.ranks,
            best=None if best is None else best.step,
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Checkpoints are written in the block and, if its loss is not finite, how the run ended. Collective."""
        try:
            with self.checkpoints.writing(self.ranks):
                yield
        except Diverged as error:
            if self.ranks.is_rank_zero:
                _write(RunFolder(Path(self.config.output)).failure_file, _failure(self, str(error)).model_dump_json(indent=2))
            raise

    def take_best(self, trainer: P4DTrainer) -> None:
        """Set the weights to those of the best validation, if they are to be kept and are not the last. Collective."""
        best = self.metrics.best if _keeps_best(self.config) else None
        if best is None or best.step == self.steps:
            return
        kept = None
        with self.ranks.raise_on_any_rank():
            kept = self.checkpoints.at(best.step)
        trainer.restore_weights(kept)

    def go_on_from(self, begun: Checkpoint | None) -> None:
        """Restore metrics and data from a checkpoint; start afresh without one."""
        if begun is None:
            self.metrics.begin()
            return
        stderr.print(f"resuming after step {begun.state.step}")
        self.batches.load_state_dict(begun.state.data)
        self.metrics.go_on_from(begun.metrics, begun.state.metrics)


class Built(NamedTuple):
    """The model that a config and a store define: a student with P4D."""

    model: DistilledStudent
    adapters: Any
    """The `peft.LoraModel`, or None without ``lora``."""


def build(config: TrainConfig, cache: Cache, *, has_weights: bool = True) -> Built:
    """The model at the start of a run; it depends on the config and the store alone.

    ``has_weights``: False for a process that gets them from another; the student's parameters are then on the meta device.
    """
    torch.manual_seed(config.seed)
    with nullcontext() if has_weights else without_weights():
        student, adapters = build_trained(config.model, config.lora)
    p4d = P4D.for_store(cache, student.hidden_size, config.loss.resolved(), mode=config.mode, decoder=config.decoder)
    if config.gradient_checkpointing:
        student.language_model.activation_checkpointing_enable()
    return Built(DistilledStudent(student, p4d), adapters)


def with_weights(built: Built, weights: dict[str, torch.Tensor]) -> Built:
    """The model with its trained weights replaced by ``weights``, unsharded, by parameter name."""
    with torch.no_grad():
        for name, parameter in trained(built.model).items():
            parameter.copy_(weights[name])
    return built


def save_student(built: Built, folder: RunFolder) -> None:
    """Write the plain student, with adapters merged and without P4D, and beside it P4D's trained parts."""
    if built.adapters is not None:
        merge_adapters(built.adapters)
    built.model.student.save(folder.student)
    built.model.p4d.save(folder.p4d)


def failed_fit(config: TrainConfig, ranks: Ranks) -> FitFailure | None:
    """How the config's run ended, if its loss was not finite. Collective. Raises `BadInput` if the folder holds another run."""
    found = None
    with ranks.raise_on_any_rank():
        folder = RunFolder(Path(config.output))
        found = folder.failure() if ranks.is_rank_zero else None
        if found is not None:
            _refuse_another(folder, found, with_mixture(config), ranks)
    return ranks.broadcast(found)


def _look(folder: RunFolder, config: TrainConfig, ranks: Ranks, *, overwrite: bool, resume: bool) -> FitReport | None:
    """With ``resume``, the report of a run that is finished already; raises `BadInput` if the folder cannot take this run."""
    if resume and overwrite:
        raise BadInput("--resume continues the run in the folder, and --overwrite replaces it; give one of them")
    if resume and folder.result_file.exists():
        done = folder.result()
        _refuse_another(folder, done, config, ranks)
        return done
    if not (overwrite or resume) and any(path.exists() for path in (folder.metrics_file, folder.result_file)):
        raise BadInput(
            f"{folder.path} already holds a run; give another `output`, --resume to continue it, or --overwrite to replace it"
        )
    return None


def _begin(run: Run, begun: Checkpoint | None, folder: RunFolder) -> None:
    """Ready the folder: for a checkpoint's run to go on in it, or emptied for a new one. Collective."""
    with run.ranks.raise_on_any_rank():
        if begun is not None:
            now = run.beginning()
            refuse_other_config(begun.state.config, now.config, begun.folder)
            refuse_other_data(begun.state.trained_on, now.trained_on, begun.folder, "checkpoint")
        elif run.ranks.is_rank_zero:
            _make_empty(folder)
        if run.ranks.is_rank_zero:  # of a resumed run too: places may be others by now, and `eval` and `export` look there
            folder.failure_file.unlink(missing_ok=True)
            _write(folder.config_file, run.config.model_dump_json(indent=2))


def _refuse_another(folder: RunFolder, ended: FitReport | FitFailure, config: TrainConfig, ranks: Ranks) -> None:
    """Raise `BadInput` if the run that ended in the folder is not the config's: other settings, other data."""
    then = folder.config()
    refuse_other_config(then, config, folder.path)
    if ended.trained_on is None:
        return
    stores = opened(config, _at_version(then, ended.store_version), Ranks())  # on this rank alone
    loaded = load_samples(stores.cache, config.data, config.seed, opens_videos=False)
    now = stores.trained_on(digest_of(loaded.samples), samples_per_step(config, ranks.size))
    refuse_other_data(ended.trained_on, now, folder.path, "run")


def _at_version(config: TrainConfig, store_version: int) -> TrainConfig:
    return config.model_copy(update={"store_version": store_version})


def _collator(run: Run, built: Built) -> Collator:
    processor = built.model.student.processor
    data = run.config.data
    frames = StudentFrames(processor.image_size, data.frame_cache_mib * 2**20, data.decode_timeout_seconds)
    targets = TargetReader(run.cache, built.model.p4d.signals)
    stored = reads_stored_frames(run.cache, processor.image_size, data.frames)
    return Collator(
        targets, frames, processor, data.max_length, weights=run.weights, marks=run.marks, reads_stored_frames=stored
    )


def _weights(config: TrainConfig, cache: Cache, built: Built, samples: Sequence[Sample]) -> PixelWeights | None:
    """The product of what weighs pixels, if anything does."""
    signals, measures = built.model.p4d.signals, list[PixelWeights]()
    if config.loss.confidence is not None:
        measures.append(Confidence(cache, signals, config.loss.confidence))
    if config.loss.regions is not None and config.regions is not None:
        measures.append(RegionWeights(cache, signals, config.regions, config.loss.regions))
    if not measures:
        return None
    product = Product(measures)
    product.require(_clip_ids(samples))
    return product


def _marks(config: TrainConfig, cache: Cache, samples: Sequence[Sample]) -> Marks | None:
    if config.regions is None or config.regions.marks == "none":
        return None
    marks = Marks(cache, config.regions)
    marks.require(_clip_ids(samples))
    return marks


def _clip_ids(samples: Sequence[Sample]) -> list[str]:
    return [sample.clip_id for sample in samples if sample.clip_id is not None]


def layers(student: Backbone) -> list[nn.Module]:
    """The language model's layers: the modules that transformers lists as not to be split."""
    names = set(student.model._no_split_modules)  # noqa: SLF001  # there is no public name
    return [layer for layer in student.parts()["llm"].modules() if type(layer).__name__ in names]


def _fitting(joined: Joined, lengths: Sequence[Length], config: TrainConfig) -> Fitting:
    found = fitting(joined, lengths, config.data.max_length)
    if not found.joined.samples:
        raise BadInput(
            f"none of {len(lengths)} conversations fits `data.max_length: {config.data.max_length}`; the shortest needs "
            f"{min(length.least for length in lengths)} tokens"
        )
    return found


def prepared(stores: Stores, built: Built, ranks: Ranks) -> tuple[Run, Validation | None]:
    """The run and its validation, with the conversations that fit. Collective."""
    cache, config = stores.cache, stores.config
    with ranks.raise_on_any_rank():
        processor, frames = built.model.student.processor, cache.shape("timestamps")[0]
        has_frames = reads_stored_frames(cache, processor.image_size, config.data.frames)
        joined, held, digest = _loaded(cache, config, opens_videos=not has_frames)
        both = [*joined.samples, *held.samples]
        lengths = [length_of(sample, processor, frames) for sample in both[ranks.rank :: ranks.size]]
    lengths = ranks.interleaved(lengths)  # each rank counts its share, since that takes minutes for hundreds of thousands
    with ranks.raise_on_any_rank():
        weights, marks = _weights(config, cache, built, both), _marks(config, cache, both)
        trained_on = stores.trained_on(digest, samples_per_step(config, ranks.size))
        found = _fitting(joined, lengths[: len(joined.samples)], config)
        run = Run(stores, found, ranks, trained_on=trained_on, weights=weights, marks=marks)
        if config.validation is None:
            return run, None
        return run, _validation(run, _fitting(held, lengths[len(joined.samples) :], config), built, config.validation)
    raise AssertionError  # for mypy: the block ends or raises


def _loaded(cache: Cache, config: TrainConfig, *, opens_videos: bool) -> tuple[Joined, Joined, str]:
    """The conversations to train on, some of them flipped, those that are held out, and the digest of all that were loaded."""
    load = partial(load_samples, cache, opens_videos=opens_videos)
    joined, validation = load(config.data, config.seed), config.validation
    taken, held = joined.samples, Joined([], [])
    if validation is not None and validation.conversations:
        roots = {"video_root": video_roots(config.data), "image_root": image_roots(config.data)}
        held = load(config.data.model_copy(update={**roots, "conversations": validation.conversations, "mixture": None}))
    elif validation is not None:
        clips = cache.clips
        videos = dict(zip(clips["clip_id"].to_pylist(), clips["video"].to_pylist(), strict=True))
        taken, held_samples = held_out(joined.samples, videos, validation.share, config.seed)
        held = Joined(held_samples, [])
    flipped = with_flipped(taken, cache, config.data.flipped_share, config.seed)
    return Joined(flipped, joined.dropped), held, digest_of(joined.samples)


def _validation(run: Run, held: Fitting, built: Built, config: ValidationConfig) -> Validation:
    return Validation(
        held.joined.samples,
        [length.whole for length in held.lengths],
        _collator(run, built),
        batch=run.config.batch,
        ranks=run.ranks,
        workers=workers_of(run.config.data.workers),
        pictures=config.pictures if built.model.p4d.gives_maps else 0,
        folder=RunFolder(Path(run.config.output)).validation,
        frames_of=StudentFrames(run.cache.size, 0, run.config.data.decode_timeout_seconds),
    )


def _keeps_best(config: TrainConfig) -> bool:
    return config.validation is not None and config.validation.student == "best"


def _say_what_is_left_out(found: Fitting, config: TrainConfig) -> None:
    most = f"`data.max_length: {config.data.max_length}`"
    if found.cut:
        stderr.print(f"{found.cut} conversations lose the end of their text: they are longer than {most}", soft_wrap=True)
    for reason, left_out in (("have no targets", found.joined.dropped), (f"do not fit {most}", found.left_out)):
        if left_out:
            lines = some_of(left_out).split("\n")
            stderr.print(f"{len(left_out)} conversations {reason} and are left out:", *lines, sep="\n", soft_wrap=True)


class OneDevice(TrainingArguments):  # type: ignore[misc]  # transformers ships no types
    """Trainer's settings with one device per process: with several visible GPUs Trainer would fall back to DataParallel."""

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))


def _require_reporters(names: Sequence[Reporter]) -> None:
    available = get_available_reporting_integrations()
    if absent := [name for name in names if name not in available]:
        raise CouldNotRun(f"`report_to` names {', '.join(absent)}, which is not installed here: pip install {' '.join(absent)}")


def learning_rates(config: TrainConfig, built: Built) -> dict[nn.Parameter, float]:
    """Trained weights whose part has a learning rate of its own."""
    parts: dict[str, nn.Module] = {**built.model.student.parts(), "distillation": built.model.p4d}
    rates = config.optim.part_learning_rates
    if still := [name for name in rates if not any(p.requires_grad for p in parts[name].parameters())]:
        raise BadInput(
            f"`optim.part_learning_rates` names {', '.join(still)}, of which nothing trains in this run; leave it out"
        )
    return {weight: rate for name, rate in rates.items() for weight in parts[name].parameters() if weight.requires_grad}


def optimizer_steps(config: TrainConfig, samples: int, processes: int) -> int:
    """The run's optimizer steps: as the config gives them, or as many as ``epochs`` of so many samples have."""
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None
    return math.ceil(config.epochs * samples / (config.batch * config.accumulate * processes))


def _arguments(config: TrainConfig, steps: int, output: Path) -> TrainingArguments:
    workers = workers_of(config.data.workers)
    return OneDevice(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.optim.learning_rate,
        weight_decay=config.optim.weight_decay,
        lr_scheduler_type=config.optim.schedule,
        warmup_steps=round(config.optim.warmup * steps),
        max_grad_norm=config.optim.max_grad_norm,
        bf16=config.precision == "bf16",
        seed=config.seed,
        use_cpu=not torch.accelerator.is_available(),
        ddp_find_unused_parameters=False,  # `DistilledStudent` gives every weight a gradient
        logging_steps=config.log_every,
        save_strategy="steps" if config.checkpoint_every else "no",
        save_steps=config.checkpoint_every or 1,
        save_only_model=True,  # `P4DTrainer` saves by itself; else Trainer refuses a model that it did not shard
        report_to=list(config.report_to),
        disable_tqdm=True,
        remove_unused_columns=False,  # the collator makes the batch
        dataloader_num_workers=workers,
        dataloader_multiprocessing_context="spawn" if workers else None,  # zarr and CUDA do not survive a fork
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _report(run: Run, built: Built, counts: dict[str, int], seconds: float) -> FitReport:
    config, samples = run.config, run.samples
    first, last = first_and_last(run.metrics.lines)
    return FitReport(
        output=config.output,
        store=config.store,
        store_version=run.cache.version,
        fingerprint=run.cache.recipe.fingerprint,
        trained_on=run.trained_on,
        mode=config.mode,
        loss=built.model.p4d.recipe,
        steps=run.steps,
        samples=len(samples),
        epoch=len(run.epochs),
        sets=run.epochs.sets if config.data.mixture else {},
        clips=len({sample.clip_id for sample in samples} - {None}),
        dropped=len(run.fitting.joined.dropped) + len(run.fitting.left_out),
        cut=run.fitting.cut,
        validation=_of_student(run),
        bad_steps=run.metrics.bad_steps,
        processes=run.ranks.size,
        first=first,
        last=last,
        parameters=counts,
        trained_parameters=sum(parameter.numel() for parameter in trained(built.model).values()),
        seconds=seconds,
        data_wait_seconds=run.metrics.data_wait_seconds,
    )


def _failure(run: Run, reason: str) -> FitFailure:
    return FitFailure(
        reason=reason,
        store_version=run.cache.version,
        fingerprint=run.cache.recipe.fingerprint,
        trained_on=run.trained_on,
        bad_steps=run.metrics.bad_steps,
        seconds=run.metrics.seconds,
    )


def _of_student(run: Run) -> Validated | None:
    """The validation of the student that the run holds."""
    if _keeps_best(run.config):
        return run.metrics.best
    return run.metrics.validations[-1] if run.metrics.validations else None


def _parameters(built: Built) -> dict[str, int]:
    """Part → number of its parameters; adapters are counted apart from the language model."""
    parts = {**built.model.student.parts(), **built.model.p4d.parts}
    sizes = {name: _size(part) for name, part in parts.items()}
    if built.adapters is not None:
        adapters = sum(p.numel() for name, p in parts["llm"].named_parameters() if ".lora_" in name)
        sizes |= {"llm": sizes["llm"] - adapters, "adapters": adapters}
    return sizes


def _size(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def _refuse_shards_alone(config: TrainConfig, ranks: Ranks) -> None:
    if config.fsdp is not None and ranks.size == 1:
        raise BadInput(
            "`fsdp` shards the weights over several processes, and here is one; start it with torchrun, or leave `fsdp` out"
        )


def _make_empty(folder: RunFolder) -> None:
    """Clear the run folder of an earlier run; called only once everything that the new run needs has been checked."""
    for path in (folder.config_file, folder.metrics_file, folder.result_file, folder.failure_file):
        path.unlink(missing_ok=True)
    for path in (folder.student, folder.p4d, folder.validation, folder.checkpoints):
        shutil.rmtree(path, ignore_errors=True)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {folder.path}: {error.strerror}; give another `output`") from None


def _write(path: Path, text: str) -> None:
    """Write the file atomically: a reader never sees half of it."""
    with written_whole(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
