"""A run at one of its steps in, a folder that it can go on from out; and the newest of those folders back in.

Tensors are safetensors, all else is JSON; nothing in a checkpoint can run code. Weights that do not train are not in it:
they come again from where the run had them from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from schemas.base import Frozen, canonical_json, differences, sha256_digest
from schemas.errors import BadInput, CouldNotRun
from schemas.train import TrainConfig
from student_train.data.samples import Sample
from student_train.training.metrics import MetricsState

STATE, WEIGHTS, OPTIMIZER, METRICS = "state.json", "weights.safetensors", "optimizer.safetensors", "metrics.jsonl"

FREE = (
    "output", "store", "fingerprint",
    "data.workers", "data.frame_cache_mib", "data.video_root", "data.image_root", "data.conversations",
    "batch", "accumulate", "log_every", "gradient_checkpointing", "fsdp", "checkpoint_every", "keep_checkpoints",
)  # fmt: skip
"""Settings that a resumed run may change: where things are and how they are computed, never what is learnt. The store's
fingerprint, the digest of the conversations and the samples of a step are compared in the place of their names."""


class CheckpointState(Frozen):
    """All of a training run that is no tensor: ``state.json``."""

    step: int
    """Optimizer steps done."""
    config: TrainConfig
    processes: int
    fingerprint: str
    """Of the store that the run learns from."""
    samples: str
    """Digest of the conversations, in their order."""
    data: dict[str, Any]
    """Where the run stands in them: `SamplerState`."""
    learning_rates: tuple[float, ...]
    """One for each of the optimizer's groups."""
    schedule: dict[str, Any]
    """State of the learning rate's schedule."""
    metrics: MetricsState


class Tensors(NamedTuple):
    """The tensors of a checkpoint, whole and on the host."""

    weights: dict[str, torch.Tensor]
    """Of each parameter that trains, by its name in the model."""
    optimizer: dict[str, torch.Tensor]
    """``KIND:NAME``: the optimizer's state of each parameter, such as ``exp_avg:p4d.decoder.mlp.0.weight``."""


class Checkpoint(NamedTuple):
    """A checkpoint that was found; its tensors are read when they are wanted."""

    folder: Path
    state: CheckpointState
    metrics: str
    """What ``metrics.jsonl`` held at that step."""

    def tensors(self) -> Tensors:
        """Read them. Raises `CouldNotRun` where a file is gone or damaged."""
        with _read(self.folder):
            return Tensors(load_file(self.folder / WEIGHTS), load_file(self.folder / OPTIMIZER))


class Checkpoints:
    """The checkpoints of one run: ``step-NNNNNNNN``, each whole or not there under that name. One process writes."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def newest(self) -> Checkpoint | None:
        """The latest step's, if there is any. Raises `CouldNotRun` where it is damaged."""
        found = self._found()
        return _checkpoint(found[-1]) if found else None

    def at(self, step: int) -> Checkpoint:
        """That step's. Raises `BadInput` where there is none, and `CouldNotRun` where it is damaged."""
        found = {_step_of(folder): folder for folder in self._found()}
        if step not in found:
            there = f"there are those of the steps {', '.join(map(str, found))}" if found else "there is none at all"
            raise BadInput(f"{self.folder} has no checkpoint of step {step}; {there}")
        return _checkpoint(found[step])

    def write(self, state: CheckpointState, tensors: Tensors, metrics: str) -> None:
        """Write one, and drop those that are too many. Raises `CouldNotRun` where the disk does not take it."""
        final = self.folder / f"step-{state.step:08d}"
        draft = _draft(final)
        try:
            self._drop_drafts()
            draft.mkdir(parents=True)
            save_file(tensors.weights, draft / WEIGHTS)
            save_file(tensors.optimizer, draft / OPTIMIZER)
            (draft / METRICS).write_text(metrics, encoding="utf-8")
            (draft / STATE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")
            # On the disk before it has its name: a machine that dies must not leave a checkpoint of empty files.
            for path in (*draft.iterdir(), draft):
                _sync(path)
            draft.rename(final)
            _sync(self.folder)
            self._drop_old()
        except (OSError, SafetensorError) as error:  # safetensors gives the disk's own error as text
            raise CouldNotRun(
                f"cannot write the checkpoint {final}: {getattr(error, 'strerror', None) or error}; make room, or give "
                "another `output`. The checkpoints before it are as they were, and --resume goes on from the newest."
            ) from None

    def clear(self) -> None:
        """Drop them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=_step_of)

    def _drop_old(self) -> None:
        for path in self._found()[: -self.keep]:
            path.rename(_draft(path))  # killed in the middle of its removal, it must not look like a checkpoint
        self._drop_drafts()

    def _drop_drafts(self) -> None:
        for path in self.folder.glob(".step-*.part"):
            shutil.rmtree(path)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _checkpoint(folder: Path) -> Checkpoint:
    with _read(folder):
        state = CheckpointState.model_validate_json((folder / STATE).read_text(encoding="utf-8"))
        return Checkpoint(folder, state, (folder / METRICS).read_text(encoding="utf-8"))


def _draft(final: Path) -> Path:
    return final.with_name(f".{final.name}.part")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _read(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        what = str(error).splitlines()[0]
        raise CouldNotRun(
            f"the checkpoint {folder} cannot be read: {what}. Remove it, and --resume goes on from the one before it."
        ) from None


def digest_of(samples: Sequence[Sample]) -> str:
    """Digest of what is said and shown in the samples, in their order; where their files lie is no part of it."""
    digest = hashlib.sha256()
    for sample in samples:
        turns = [[turn.role, turn.text] for turn in sample.conversation.turns]
        digest.update(canonical_json([sample.clip_id, turns, sample.conversation.images]))
    return sha256_digest(digest.digest())


def refuse_other_config(then: TrainConfig, now: TrainConfig, where: Path) -> None:
    """Raise `BadInput` that names each setting of the two that differs and decides what is learnt."""
    differing = {path: values for path, values in differences(then, now).items() if path not in FREE}
    if differing:
        lines = "\n".join(f"  {path}: the run began with {old!r}, now it is {new!r}" for path, (old, new) in differing.items())
        raise BadInput(
            f"the run in {where} began with other settings; these differ:\n{lines}\n"
            "Give them the run's own values, which its config.json has, or begin another run in another `output`."
        )


def refuse_another_run(then: CheckpointState, now: CheckpointState, where: Path) -> None:
    """Raise `BadInput` where going on from a checkpoint would not be the same run: ``now`` is how a run would begin here."""
    refuse_other_config(then.config, now.config, where)
    compared: Mapping[str, tuple[object, object]] = {
        "the store's fingerprint": (then.fingerprint, now.fingerprint),
        "the digest of the conversations": (then.samples, now.samples),
        "samples in one optimizer step (processes · batch · accumulate)": (_step(then), _step(now)),
    }
    if differing := {name: values for name, values in compared.items() if values[0] != values[1]}:
        lines = "\n".join(f"  {name}: the checkpoint has {old}, here it is {new}" for name, (old, new) in differing.items())
        raise BadInput(
            f"the checkpoint in {where} is of another run; these differ:\n{lines}\n"
            "Go on with what it began with, or begin another run in another `output`."
        )


def _step(state: CheckpointState) -> int:
    return state.processes * state.config.batch * state.config.accumulate
