"""A language model and which adapters it gets in; the same model with them in it, and later without: merged. By peft."""

from __future__ import annotations

import peft
from torch import nn

from schemas.errors import BadInput
from schemas.train import LoraConfig


def add_adapters(llm: nn.Module, config: LoraConfig) -> peft.LoraModel:
    """Put the adapters into the model, in place; from then on they train, and its own weights keep still.

    Gives what `merge_adapters` takes. Raises `BadInput` where a target names no linear layer of the model.
    """
    linear = {name.rpartition(".")[2] for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    if absent := [target for target in config.targets if target not in linear]:
        raise BadInput(
            f"the language model has no linear layer called {', '.join(absent)}, which `lora.targets` names; "
            f"it has {', '.join(sorted(linear))}"
        )
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    return peft.LoraModel(llm, settings, "default")


def merge_adapters(adapters: peft.LoraModel) -> None:
    """Add what the adapters learnt to the weights they sit beside, and take them out: the model is then as it was built."""
    llm = adapters.merge_and_unload()
    if hasattr(llm, "peft_config"):  # a trace, which transformers would take for adapters that are still there
        del llm.peft_config
