"""Measures how long a training step waits for its checkpoint, where the disk is written in the step and where it is beside it.

    PYTHONPATH=.:tests python tests/benchmarks/checkpoint_stall.py

One process trains a stack of linear layers with AdamW, on one thread, and every `EVERY` steps writes a checkpoint of weights
and moments to the system's temporary folder. ``in the step``: it waits until the disk has the checkpoint; ``beside``: it goes
on. The two take turns. Told: the medians of a plain step, of a step with its checkpoint, and of the steps until the next one,
which share the machine with the writing threads. It shows neither a GPU, whose copy to the host is part of the step, nor
several processes, nor a network's disk.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import processor
from torch import nn

from schemas.train import TrainConfig
from student_train.training.checkpoints import Checkpoints, CheckpointState
from student_train.training.metrics import MetricsLog
from student_train.training.ranks import Ranks

RESULT = Path(__file__).parent / "results" / "checkpoint-stall.json"
WIDTH, LAYERS, BATCH = 1024, 12, 64
EVERY, CHECKPOINTS, ROUNDS = 5, 2, 4


def beginning() -> CheckpointState:
    return CheckpointState(
        step=0, config=TrainConfig(store="s", output="o"), processes=1, store_version=0, fingerprint="", samples="", data={},
        learning_rates=(), schedule={}, metrics=MetricsLog(None).state(),
    )  # fmt: skip


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {f"weight:{name}": parameter.detach() for parameter, name in names.items()}
    moments = {f"{kind}:{names[p]}": value for p, state in optimizer.state.items() for kind, value in state.items()}
    return {**found, **moments}


def run(folder: Path, *, waits: bool) -> dict[str, list[float]]:
    """Seconds of the steps: plain ones before the first checkpoint, those with a checkpoint, and those after one."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    optimizer, inputs = torch.optim.AdamW(model.parameters()), torch.randn(BATCH, WIDTH)
    checkpoints, ranks, seconds = Checkpoints(folder, keep=1), Ranks(), {"plain": [], "with": [], "after": []}
    with checkpoints.writing(ranks):
        for step in range(1, EVERY * (CHECKPOINTS + 2)):
            started = time.perf_counter()
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            is_saved = step % EVERY == 0 and step > EVERY
            if is_saved:
                state = beginning().model_copy(update={"step": step})
                checkpoints.write(state, tensors(model, optimizer), "", ranks=ranks)
                if waits:
                    checkpoints.finish(ranks)
            kind = "with" if is_saved else "plain" if step < 2 * EVERY else "after"
            if step > 1:  # the first makes the moments
                seconds[kind].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {
        name: {"plain": [], "with": [], "after": []} for name in ("in the step", "beside")
    }
    size = 0
    for _ in range(ROUNDS):
        for name, all_seconds in found.items():
            with tempfile.TemporaryDirectory() as folder:
                for kind, seconds in run(Path(folder), waits=name == "in the step").items():
                    all_seconds[kind] += seconds
                size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    medians = {name: {kind: round(statistics.median(s), 3) for kind, s in kinds.items()} for name, kinds in found.items()}
    stall = {name: round(kinds["with"] - kinds["plain"], 3) for name, kinds in medians.items()}
    result: dict[str, Any] = {
        "machine": {**processor(), "torch": torch.__version__, "load": os.getloadavg()[0]},
        "checkpoint_bytes": size,
        "seconds_of_a_step": medians,
        "stall_seconds": stall,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))  # noqa: T201  # the result


if __name__ == "__main__":
    main()
