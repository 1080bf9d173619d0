"""Checkpoints: the state of a run at one step goes in, a folder to resume from comes out; the newest folder is read back.

Every process writes its own part of the tensors, by torch.distributed.checkpoint, while training goes on, and any number of
processes reads them.
Tensors are safetensors and all else is JSON, so nothing in a checkpoint can run code. Frozen weights are not in it; a resumed
run loads them again from the original source.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from pydantic import Field
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from schemas.base import Frozen, canonical_json, differences, sha256_digest
from schemas.errors import BadInput, CouldNotRun, first_line
from schemas.train import TrainConfig, TrainedOn
from student_train.data.samples import Sample
from student_train.training.metrics import MetricsState
from student_train.training.ranks import Ranks

STATE, TENSORS, METRICS = "state.json", "tensors", "metrics.jsonl"
WEIGHT = "weight"
"""The kind of tensor that is a weight itself, not an optimizer's state of one."""

FREE = (
    "output", "store", "store_version", "fingerprint",
    "loss.confidence.store", "loss.confidence.version", "regions.store", "regions.version",
    "data.workers", "data.frame_cache_mib", "data.decode_timeout_seconds",
    "data.video_root", "data.image_root", "data.conversations",
    "model.attention", "report_to", "batch", "accumulate", "log_every", "gradient_checkpointing",
    "fsdp", "checkpoint_every", "keep_checkpoints",
)  # fmt: skip
"""Settings that a resumed run may change: where things are and how they are computed, never what is learnt. Instead of the
stores' and the files' names, `refuse_other_data` compares the stores' fingerprints, the digest of the conversations and the
number of samples in a step."""
_FREE_OF_SETS = re.compile(r"data\.mixture\.sets\.[\w-]+\.(?:conversations|leave_out|video_root|image_root)$")


class CheckpointState(Frozen):
    """``state.json``: everything a checkpoint holds except tensors and the metrics file."""

    step: int
    """Optimizer steps done."""
    config: TrainConfig
    """With the versions of the stores that are read beside."""
    processes: int
    """World size."""
    store_version: int
    """Version of the store that the run began with."""
    fingerprint: str
    """Fingerprint of the store's recipe."""
    beside: dict[str, str] = Field({})
    """Setting that names another store, which is read beside → the fingerprint of its recipe."""
    samples: str
    """Digest of the conversations, in their order."""
    data: dict[str, Any]
    """Position in the data: `StepBatches.state_dict()`."""
    learning_rates: tuple[float, ...]
    """One for each parameter group of the optimizer."""
    schedule: dict[str, Any]
    """State of the learning-rate scheduler."""
    metrics: MetricsState

    @property
    def trained_on(self) -> TrainedOn:
        """What the run learns from: of its conversations, those that it trains on."""
        return TrainedOn(
            fingerprints={"store": self.fingerprint, **self.beside},
            conversations=self.samples,
            samples_per_step=samples_per_step(self.config, self.processes),
        )


Tensors = Mapping[str, torch.Tensor]
"""``KIND:NAME`` → a weight (`WEIGHT`) or the optimizer's state of one, such as ``exp_avg:p4d.decoder.mlp.0.weight``. It may be
sharded."""


class Checkpoint(NamedTuple):
    """A checkpoint on disk."""

    folder: Path
    state: CheckpointState
    metrics: str
    """Text of ``metrics.jsonl`` at that step."""

    def shapes(self) -> dict[str, torch.Size]:
        """``KIND:NAME`` → the shape of the whole tensor. Raises `CouldNotRun` if a file is damaged."""
        with _read(self.folder):
            found = self._reader().read_metadata().state_dict_metadata
        return {key: tensor.size for key, tensor in found.items() if isinstance(tensor, TensorStorageMetadata)}

    def read_into(self, tensors: Tensors, *, is_alone: bool) -> None:
        """Set tensors, sharded or whole, to the checkpoint's, each process reading what it needs.

        ``is_alone``: no other process calls this; else it is collective. Raises `CouldNotRun` if a file is missing or damaged.
        """
        with _read(self.folder), _unremarked():
            load(dict(tensors), storage_reader=self._reader(), no_dist=is_alone)

    def weights(self) -> dict[str, torch.Tensor]:
        """Name → each trained weight, whole, for one process alone. Raises `CouldNotRun` if a file is missing or damaged."""
        weights = {key: torch.empty(shape) for key, shape in self.shapes().items() if key.startswith(f"{WEIGHT}:")}
        self.read_into(weights, is_alone=True)
        return {key.partition(":")[2]: weight for key, weight in weights.items()}

    def _reader(self) -> HuggingFaceStorageReader:
        return HuggingFaceStorageReader(str(self.folder / TENSORS))


class Checkpoints:
    """The checkpoints of one run, in folders ``step-NNNNNNNN``: a folder with that name is always complete.

    ``keep``: how many checkpoints stay; the oldest is removed first.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._begun: Future[None] | None = None
        self._group: Any = None

    def newest(self) -> Checkpoint | None:
        """The latest checkpoint, or None. Raises `CouldNotRun` if it is damaged."""
        found = self._found()
        return _checkpoint(found[-1]) if found else None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of that step. Raises `BadInput` if there is none, `CouldNotRun` if it is damaged."""
        found = {_step_of(folder): folder for folder in self._found()}
        if step not in found:
            there = f"it has steps {', '.join(map(str, found))}" if found else "it has none"
            raise BadInput(f"{self.folder} has no checkpoint of step {step}; {there}")
        return _checkpoint(found[step])

    def write(self, state: CheckpointState, tensors: Tensors, metrics: str, *, ranks: Ranks, best: int | None = None) -> None:
        """Begin to write one; once written, the newest `keep` and that of step ``best`` stay alone. Collective.

        The tensors are copied to the host, and may change once this returns; threads write the copies. Every rank needs the
        same folder. What was begun before is finished first. Raises `CouldNotRun` on each rank if that could not be written.
        """
        self.finish(ranks)
        final = self.folder / f"step-{state.step:08d}"
        draft = _draft(final)
        with ranks.raise_on_any_rank(), _written(final):
            if ranks.is_rank_zero:
                self._drop_drafts()
                (draft / TENSORS).mkdir(parents=True)
        # For good, since a thread will be told it: that one process saves alone.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        is_alone = ranks.size == 1
        writer = HuggingFaceStorageWriter(str(draft / TENSORS), save_distributed=True)
        with _written(final):
            copied = async_save(
                dict(tensors), storage_writer=writer, process_group=None if is_alone else self._own_group(), no_dist=is_alone
            )
        assert isinstance(copied, Future)
        complete = partial(self._complete, final, state, metrics, best) if ranks.is_rank_zero else None
        self._begun = self._thread.submit(_when_written, copied, final, complete)

    def finish(self, ranks: Ranks) -> None:
        """Wait until the disk has what was begun. Collective. Raises `CouldNotRun` on each rank if it could not be written."""
        with ranks.raise_on_any_rank():
            begun, self._begun = self._begun, None
            if begun is not None:
                begun.result()

    def failure(self) -> CouldNotRun | None:
        """Why what was begun could not be written, as soon as that is known; it waits for nothing."""
        error = self._begun.exception() if self._begun is not None and self._begun.done() else None
        return error if isinstance(error, CouldNotRun) else None

    @contextmanager
    def writing(self, ranks: Ranks) -> Iterator[None]:
        """Checkpoints are written in the block; at its end, the disk has what was begun. Collective. Raises as `finish`."""
        try:
            yield
            self.finish(ranks)
        except (OSError, CouldNotRun) as error:
            self._thread.shutdown()
            # A disk that a checkpoint fills has no room for a line of metrics either: tell the cause.
            raise (self.failure() or error) from None
        finally:
            self._thread.shutdown()  # waits, whatever becomes of it

    def _own_group(self) -> Any:
        """The processes once more: threads that write tell each other what they did, while the training tells other things."""
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        return self._group

    def _complete(self, final: Path, state: CheckpointState, metrics: str, best: int | None) -> None:
        """Make a checkpoint of a draft whose tensors every rank has written."""
        draft = _draft(final)
        (draft / METRICS).write_text(metrics, encoding="utf-8")
        (draft / STATE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # Sync before the rename: a machine that dies must not leave a checkpoint of empty files.
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        draft.rename(final)
        _sync(self.folder)
        self._drop_old(best)

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=_step_of)

    def _drop_old(self, best: int | None) -> None:
        for path in [path for path in self._found()[: -self.keep] if _step_of(path) != best]:
            path.rename(_draft(path))  # a half-removed folder must not look like a checkpoint
        self._drop_drafts()

    def _drop_drafts(self) -> None:
        for path in self.folder.glob(".step-*.part"):
            shutil.rmtree(path)


def _when_written(copied: Future[Any], final: Path, complete: Callable[[], None] | None) -> None:
    """Wait for the tensors, then complete the checkpoint. Raises `CouldNotRun` if either could not be written.

    ``complete``: None on all ranks but the first.
    """
    try:
        with _written(final):
            copied.result()
            if complete is not None:
                complete()
    except CouldNotRun:
        if complete is not None:
            shutil.rmtree(_draft(final), ignore_errors=True)  # it fills the disk
        raise


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
def _written(final: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, CheckpointException) as error:
        cause = _cause(error)
        raise CouldNotRun(
            f"cannot write the checkpoint {final}: {getattr(cause, 'strerror', None) or cause}; free disk space, "
            "or give another `output`. Earlier checkpoints are intact, and --resume continues from the newest."
        ) from None


@contextmanager
def _read(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SafetensorError, CheckpointException) as error:
        raise CouldNotRun(
            f"the checkpoint {folder} cannot be read: {first_line(_cause(error))}. Remove it, and --resume continues from the "
            "one before it."
        ) from None


@contextmanager
def _unremarked() -> Iterator[None]:
    """Without torch's remark that one process saves alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _cause(error: BaseException) -> BaseException:
    """What happened on the first rank on which something did."""
    return min(error.failures.items())[1][0] if isinstance(error, CheckpointException) else error


def samples_per_step(config: TrainConfig, processes: int) -> int:
    """Conversations of an optimizer step."""
    return config.batch * config.accumulate * processes


def digest_of(samples: Sequence[Sample]) -> str:
    """Digest of the samples in order: clip ids, turns and image names. Folders and the names of the JSON files are left out."""
    digest = hashlib.sha256()
    for sample in samples:
        turns = [[turn.role, turn.text] for turn in sample.conversation.turns]
        digest.update(canonical_json([sample.clip_id, turns, sample.conversation.images]))
    return sha256_digest(digest.digest())


def refuse_other_config(then: TrainConfig, now: TrainConfig, where: Path) -> None:
    """Raise `BadInput`, naming each, if settings differ that a resumed run may not change: all but `FREE` and those of sets."""
    differing = {
        path: values for path, values in differences(then, now).items() if path not in FREE and not _FREE_OF_SETS.match(path)
    }
    if differing:
        lines = "\n".join(
            f"  {path}: the run started with {old!r}, now it is {new!r}" for path, (old, new) in differing.items()
        )
        raise BadInput(
            f"the run in {where} started with other settings; these differ:\n{lines}\n"
            "Use the values in its config.json, or start a new run in another `output`."
        )


def refuse_other_data(then: TrainedOn, now: TrainedOn, where: Path, what: str) -> None:
    """Raise `BadInput` if the checkpoint or the run (``what``) in a folder learnt from other data than a run would now."""
    compared: Mapping[str, tuple[object, object]] = {
        **{
            f"the fingerprint of `{name}`": (then.fingerprints.get(name), now.fingerprints.get(name))
            for name in sorted(then.fingerprints.keys() | now.fingerprints.keys())
        },
        "the digest of the conversations": (then.conversations, now.conversations),
        "samples in one optimizer step (processes · batch · accumulate)": (then.samples_per_step, now.samples_per_step),
    }
    if differing := {name: values for name, values in compared.items() if values[0] != values[1]}:
        lines = "\n".join(f"  {name}: the {what} has {old}, here it is {new}" for name, (old, new) in differing.items())
        raise BadInput(
            f"the {what} in {where} belongs to another run; these differ:\n{lines}\n"
            "Resume with what the run started with, or start a new run in another `output`."
        )
