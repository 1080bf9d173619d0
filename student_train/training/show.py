"""A `TrainConfig` goes in; what it comes to comes out: steps, tokens, parts with their learning rates, and memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from schemas.train import ShownFit, ShownPart, TrainConfig
from student_train.data.mixture import with_mixture
from student_train.training.fit import Built, build, layers, learning_rates, optimizer_steps, prepared
from student_train.training.memory import Batch, reckon
from student_train.training.ranks import Ranks
from student_train.training.stores import opened
from teacher_cache import Cache


def shown_fit(config: TrainConfig, processes: int, per_machine: int) -> ShownFit:
    """What a fit of the config by so many processes, ``per_machine`` of them on each machine, would be.

    Reads the store's catalog and the conversations, and no weights.
    Raises what `student_train.training.fit.fit` raises for settings, a store and conversations that do not fit together.
    """
    config = with_mixture(config)
    stores = opened(config, None, Ranks())
    cache = stores.cache
    built = build(config, cache, has_weights=False)
    run, _ = prepared(stores, built, Ranks())
    lengths, steps = run.fitting.lengths, optimizer_steps(config, len(run.epochs), processes)
    longest = max(length.whole for length in lengths)
    shards = {None: None, "full_shard": processes, "hybrid_shard": per_machine}
    memory = reckon(
        built.model,
        built.model.student.language_model,
        layers(built.model.student),
        Batch(config.batch, longest, config.batch * max(length.whole - length.least + 1 for length in lengths)),
        shards=shards[config.fsdp],
        bf16=config.precision == "bf16",
        decode=_decoders(built, cache),
    )
    named = {name: sum(part) if isinstance(part, tuple) else part for name, part in memory._asdict().items()}
    return ShownFit(
        config=config.model_dump(mode="json"),
        loss=config.loss.resolved(),
        processes=processes,
        samples=len(run.samples),
        epoch=len(run.epochs),
        sets=run.epochs.sets if config.data.mixture else {},
        dropped=len(run.fitting.joined.dropped) + len(run.fitting.left_out),
        cut=run.fitting.cut,
        tokens=sum(length.whole for length in lengths),
        longest=longest,
        steps=steps,
        warmup_steps=round(config.optim.warmup * steps),
        samples_per_step=config.batch * config.accumulate * processes,
        parts=_parts(config, built),
        memory={**named, "total": memory.total},
        checkpoint_host_bytes=2 * (memory.gradients + memory.moments),  # trained weights take what their gradients take
    )


def _parts(config: TrainConfig, built: Built) -> dict[str, ShownPart]:
    own = learning_rates(config, built)
    found = {}
    for name, part in {**built.model.student.parts(), **built.model.p4d.parts}.items():
        trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
        rate = own.get(trained[0], config.optim.learning_rate) if trained else None
        found[name] = ShownPart(
            parameters=sum(p.numel() for p in part.parameters()), trained=sum(p.numel() for p in trained), learning_rate=rate
        )
    return found


def _decoders(built: Built, cache: Cache) -> list[Callable[[], Any]]:
    """For each map that a frozen head decodes, a function that decodes one clip without values."""
    perception = built.model.p4d.perception

    def decode(signal: Any) -> Any:
        return perception.decode(torch.zeros(1, *cache.shape("f4d"), requires_grad=True), signal)

    return [partial(decode, signal) for signal in built.model.p4d.signals if signal in perception.decoded]
