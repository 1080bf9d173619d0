"""transformers' Trainer with P4D's losses: a model, batches and a checkpoint go in; trained weights and metrics come out.

Trainer provides the loop, gradient accumulation, clipping, the schedule, mixed precision and DDP. This adds: each part of the
loss is a mean over all batches of an optimizer step on all ranks, an error on one rank stops all of them, the position in the
data is exact, and checkpoints hold no pickle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from schemas.errors import CacheError, Diverged
from student_train.training.batches import Loader, StepBatches
from student_train.training.checkpoints import WEIGHT, Checkpoint
from student_train.training.counts import Seen, seen_in, step_counts, summed, values_of
from student_train.training.metrics import MetricsLog
from student_train.training.optimizer import with_learning_rates, with_muon
from student_train.training.ranks import Ranks
from student_train.training.sharding import unsharded
from teacher_cache.io.console import stderr
from teacher_cache.io.stop import Stop

if TYPE_CHECKING:
    from student_train.distill.student import StepLosses
    from student_train.training.validation import Validation


class StepStart(NamedTuple):
    """What each rank tells the others before an optimizer step."""

    counts: dict[str, float]
    """`step_counts` of its own batches."""
    seen: Seen
    """What they hold."""
    error: CacheError | None
    """What stopped it from reading its batches, if anything."""
    told_to_stop: bool
    """Whether it was asked to stop (SIGTERM)."""


class StepEnd(NamedTuple):
    """What each rank tells the others after its backward passes, before the optimizer step."""

    losses: dict[str, float]
    """Name of a loss → this rank's share of the mean over all ranks."""
    clip_ids: list[str]
    """Clips of its batches, for error messages."""
    data_wait_seconds: float
    """Seconds that it has waited for batches so far."""


class P4DTrainer(Trainer):  # type: ignore[misc]  # transformers ships no types
    """The training loop of one run.

    ``batches``: which samples each forward pass of this rank takes.
    ``stop``: a request to stop; the run then ends after the current step with a checkpoint.
    ``save``: begins to write a checkpoint; called on every rank, after each step that gets one.
    ``failed_save``: why one that was begun could not be written, if that is known by now.
    ``by_muon``: the weights that Muon updates; AdamW updates the others.
    ``learning_rates``: those of weights that have another than the run's.
    ``validation``: the held-out conversations; ``validate_every``: after how many steps they are looked at, and at the last;
    ``keeps_best``: whether each step that is the best so far gets a checkpoint.
    ``max_bad_steps``: how many steps may be skipped for a loss or a gradient that is not finite.
    ``begun``: the checkpoint to resume from.
    ``advance``: told how many steps are done, for the progress bar.
    """

    optimizer: Any
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        batches: StepBatches,
        metrics: MetricsLog,
        ranks: Ranks,
        stop: Stop,
        save: Callable[[P4DTrainer], None],
        failed_save: Callable[[], CacheError | None],
        by_muon: Sequence[nn.Parameter] = (),
        learning_rates: Mapping[nn.Parameter, float],
        validation: Validation | None = None,
        validate_every: int = 1,
        keeps_best: bool = False,
        max_bad_steps: int = 0,
        begun: Checkpoint | None = None,
        advance: Callable[[int], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batches, self.metrics, self.ranks, self.stop = batches, metrics, ranks, stop
        self.save, self.failed_save = save, failed_save
        self.by_muon, self._own_rates, self.begun = by_muon, learning_rates, begun
        self.validation, self.validate_every, self.keeps_best = validation, validate_every, keeps_best
        self.max_bad_steps = max_bad_steps
        self.control: TrainerControl
        self.told_to_stop = False
        self._loader: Loader[Any] | None = None
        self._counts: dict[str, float] = {}
        self._pending: list[tuple[dict[str, torch.Tensor], list[str]]] = []
        # Trainer prints its logs on standard output, which is reserved for the command's result.
        self.remove_callback(PrinterCallback)
        self.add_callback(Steps(self, advance))
        self.add_callback(LossPrinter(metrics))

    # Data

    def get_train_dataloader(self) -> Loader[Any]:
        """This rank's batches. Not prepared by accelerate, which would split them over the ranks a second time."""
        args = self.args
        self._loader = Loader[Any](
            self.train_dataset,
            self.batches,
            self.data_collator.inputs,
            lambda samples: self.data_collator.targets_ahead(samples, args.device),
            num_workers=args.dataloader_num_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            pin_memory=args.dataloader_pin_memory,
        )
        return self._loader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own `train`; afterwards, however it ends, the DataLoader workers are stopped. Collective.

        Raises on every rank if the last line of metrics could not be written; of an earlier one, the next step says it.
        """
        try:
            done = super().train(*args, **kwargs)
        finally:
            if self._loader is not None:
                self._loader.close()
        self.ranks.raise_first(self.metrics.failure)
        return done

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """This rank's batches of one optimizer step, and `step_counts` summed over all ranks. Collective."""
        started = time.perf_counter()
        batches: list[dict[str, Any]] = []
        error = self.failed_save() or self.metrics.failure
        try:
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        except CacheError as met:
            error = met
        self.metrics.data_wait_seconds += time.perf_counter() - started
        told = self.ranks.gather(StepStart(step_counts(batches), seen_in(batches), error, self.stop.is_set))
        self._raise_first(told)
        self.told_to_stop = any(each.told_to_stop for each in told)
        self._counts = summed(each.counts for each in told)
        for each in told:
            self.metrics.saw(each.seen)
        return batches, self._counts

    @staticmethod
    def _raise_first(told: list[StepStart]) -> None:
        if errors := [each.error for each in told if each.error is not None]:
            raise errors[0]

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Trainer's AdamW, joined with Muon for the weights in ``by_muon``, with a group for each learning rate."""
        if self.optimizer is None:
            optimizer, args = super().create_optimizer(model), self.args
            if self.by_muon:
                optimizer = with_muon(optimizer, self.by_muon, learning_rate=args.learning_rate, weight_decay=args.weight_decay)
            self.optimizer = with_learning_rates(optimizer, self._own_rates)
        return self.optimizer

    # Losses

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """SFT + alpha · LD + beta · ED of one batch, as its share of the optimizer step's mean."""
        clip_ids = inputs.pop("clip_ids")
        losses = model(**inputs, counts=num_items_in_batch)
        self._pending.append(({"loss": losses.total.detach(), **losses.parts}, clip_ids))
        # DDP and FSDP average gradients over the ranks, but the shares of a mean must be summed.
        scaled = losses.total * self.ranks.size
        return (scaled, losses) if return_outputs else scaled

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Trainer's own; in the run's first one, its floating-point operations are counted."""
        tokens, is_counted = inputs["input_ids"].numel(), self.metrics.flops_per_token is None
        with CountedFlops() if is_counted else nullcontext() as counted:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if counted is not None:
            self.metrics.flops_per_token = counted.flops / tokens
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """The gradient norm. Trainer asks for it before the optimizer step, so NaN and infinity never reach the weights."""
        bad = self._settle_losses()
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        length = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if bad is None and not math.isfinite(length):
            bad = (
                f"the gradient norm of step {self.state.global_step + 1} is {length}, though its loss is finite; "
                "lower `optim.learning_rate`"
            )
        if bad is not None:
            self._skip(bad)
        return length

    def _skip(self, reason: str) -> None:
        """Leave the weights as they are in this step: a weight without a gradient does not move, nor its moments."""
        self.metrics.bad_steps += 1
        if self.metrics.bad_steps > self.max_bad_steps:
            before = f" {self.max_bad_steps} steps before it were skipped (`max_bad_steps`)." if self.max_bad_steps else ""
            raise Diverged(reason + before)
        stderr.print(f"skipped ({self.metrics.bad_steps} of at most {self.max_bad_steps}): {reason}", soft_wrap=True)
        self.model.zero_grad(set_to_none=True)

    def _settle_losses(self) -> str | None:
        """Add the step's losses to the metrics, or say why they are not finite. The same on every rank. Collective."""
        mine = StepEnd(
            summed(map(values_of, (losses for losses, _ in self._pending))),
            [clip_id for _, clip_ids in self._pending for clip_id in clip_ids],
            self.metrics.data_wait_seconds,
        )
        self._pending.clear()
        told = self.ranks.gather(mine)
        self.metrics.data_wait_seconds = max(each.data_wait_seconds for each in told)
        for each in told:
            if not math.isfinite(each.losses["loss"]):
                return _nonfinite(each.losses, self.state.global_step + 1, each.clip_ids)
        self.metrics.add(summed(each.losses for each in told))
        return None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one line of metrics at each of Trainer's logging steps."""
        if "loss" in logs:
            logs |= self.metrics.rates()
            extras = {name: logs[name] for name in ("learning_rate", "grad_norm") if math.isfinite(logs.get(name, math.nan))}
            self.metrics.write(self.state.global_step, extras)
            logs |= self.metrics.lines[-1].losses | {"bad_steps": float(self.metrics.bad_steps)}
        super().log({name: value for name, value in logs.items() if math.isfinite(value)}, start_time)

    # Validation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002  # Trainer's own
        """The losses over the held-out conversations, logged, with a checkpoint if none was lower before. Collective."""
        assert self.validation is not None
        step, started = self.state.global_step, time.perf_counter()
        self.model.eval()
        losses = self.validation.losses(self.model.p4d, self._validation_pass, step)
        if isinstance(self.model, FSDPModule):
            # A backward pass shards the outermost weights again, and there was none: without this, they are no shards to save.
            self.model.reshard()
        self.model.train()
        self.metrics.validated(step, losses, time.perf_counter() - started)
        stderr.print(f"validation at step {step}: {_listed(losses)}", soft_wrap=True)
        told = {f"eval_{name}": value for name, value in losses.items()}
        self.log(told)
        self._show(self.validation.pictures_of(step))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, told)
        best = self.metrics.best
        if self.keeps_best and best is not None and best.step == step < self.state.max_steps:
            self.control.should_save = True
        return told

    def _validation_pass(self, batch: dict[str, Any]) -> StepLosses:
        with self.compute_loss_context_manager():
            losses: StepLosses = self.model(**self._prepare_inputs(batch))
        return losses

    def _show(self, pictures: Sequence[Path]) -> None:
        """Log pictures to TensorBoard, if `report_to` names it."""
        for board in self.callback_handler.callbacks:
            if isinstance(board, TensorBoardCallback) and board.tb_writer is not None:
                for path in pictures:
                    pixels = np.asarray(Image.open(path).convert("RGB"))
                    board.tb_writer.add_image(f"eval/{path.stem}", pixels, self.state.global_step, dataformats="HWC")

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ARG002  # Trainer's own writes pickles, file by file
        self.save(self)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The model's and the optimizer's tensors for a checkpoint, sharded as they are."""
        states: dict[int, dict[str, torch.Tensor]] = self.optimizer.state_dict()["state"]
        moments = {f"{kind}:{name}": value for name, i in self._indices().items() for kind, value in states.get(i, {}).items()}
        return {**self._weights(), **moments}

    def _weights(self) -> dict[str, torch.Tensor]:
        return {f"{WEIGHT}:{name}": weight.detach() for name, weight in trained(self.model).items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """Each trained weight, unsharded and on the CPU; empty except on rank 0. Collective."""
        whole = {}
        for name, weight in trained(self.model).items():
            value = unsharded(weight)  # on every rank, since it is collective; one tensor at a time
            if self.ranks.is_rank_zero:
                whole[name] = value.cpu()
        return whole

    def _indices(self) -> dict[str, int]:
        """Name of each trained weight → its index in the optimizer's state."""
        names = {id(parameter): name for name, parameter in trained(self.model).items()}
        ordered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return {names[id(parameter)]: i for i, parameter in enumerate(ordered)}

    def learning_rates(self) -> tuple[float, ...]:
        """The learning rate of each parameter group."""
        return tuple(float(group["lr"]) for group in self.optimizer.param_groups)

    def restore(self) -> None:
        """Restore weights, optimizer, schedule and step from the checkpoint, if there is one. Collective."""
        if self.begun is None:
            return
        weights, indices = trained(self.model), self._indices()
        states: dict[int, dict[str, torch.Tensor]] = {}
        tensors = self._weights()
        for key, shape in self.begun.shapes().items():
            kind, _, name = key.partition(":")
            if kind != WEIGHT:  # scalars are whole on every rank, and tensors of the weight's shape are sharded as it is
                tensors[key] = torch.zeros_like(weights[name]) if shape else torch.zeros(())
                states.setdefault(indices[name], {})[kind] = tensors[key]
        self.begun.read_into(tensors, is_alone=self.ranks.size == 1)
        groups = self.optimizer.state_dict()["param_groups"]
        for group, rate in zip(groups, self.begun.state.learning_rates, strict=True):
            group["lr"] = rate
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.lr_scheduler.load_state_dict(self.begun.state.schedule)
        self.state.global_step = self.begun.state.step

    def restore_weights(self, checkpoint: Checkpoint) -> None:
        """Set every trained weight to the checkpoint's. Collective."""
        checkpoint.read_into(self._weights(), is_alone=self.ranks.size == 1)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """``no_sync`` for a sharded model: only HSDP's all-reduce waits for the step's last batch.

        Each pass scatters its gradients, which FSDP adds up: kept back, they would be whole on every device. Trainer's own asks
        for settings that only transformers' own sharding has.
        """
        self.model.set_requires_all_reduce(False)
        try:
            yield
        finally:
            self.model.set_requires_all_reduce(True)


class Steps(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Restores the run at its start, seeds each step, and decides when to save and stop."""

    def __init__(self, trainer: P4DTrainer, advance: Callable[[int], None]) -> None:
        self.trainer, self.advance = trainer, advance

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002  # Trainer's names
        self.trainer.restore()
        self.advance(state.global_step)
        if self.trainer.validation is not None and state.global_step == 0:
            self.trainer.evaluate()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002  # Trainer's names
        # A step's random numbers depend on these three alone, so an exact resume needs no random state in the checkpoint.
        seeds = np.random.SeedSequence((args.seed, state.global_step, self.trainer.ranks.rank))
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002  # Trainer's names
        self.advance(1)
        is_last = state.global_step == state.max_steps
        if self.trainer.validation is not None and (is_last or state.global_step % self.trainer.validate_every == 0):
            control.should_evaluate = True
        if is_last:  # the finished student is saved instead of a checkpoint
            control.should_log, control.should_save = True, False
        elif self.trainer.told_to_stop:
            control.should_training_stop = control.should_save = True


class LossPrinter(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Prints the losses at each tenth of the run."""

    def __init__(self, metrics: MetricsLog) -> None:
        self.metrics = metrics
        self.said = 0

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002  # Trainer's names
        step, steps = state.global_step, state.max_steps
        if step == self.said or "loss" not in kwargs["logs"]:  # Trainer logs once more at the end
            return
        if self.said == 0 or step * 10 // steps > self.said * 10 // steps:
            self.said = step
            stderr.print(f"step {step}: {_listed(self.metrics.lines[-1].losses)}", soft_wrap=True)


class CountedFlops(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts the floating-point operations of matrix products, convolutions and, on GPUs, attention, forward and backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's name
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)  # noqa: SLF001  # as torch's own counter
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


def _listed(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter, for each parameter that requires a gradient."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _nonfinite(losses: dict[str, float], step: int, clip_ids: list[str]) -> str:
    parts = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    return (
        f"the loss of step {step} is {losses['loss']}: {parts}; the batch's clips are {', '.join(clip_ids) or 'none'}. "
        "Lower `optim.learning_rate`, or look at these clips' targets with `teacher-cache view`."
    )
