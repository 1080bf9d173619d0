"""LoRA with peft: a language model goes in and gets adapters in place; later they are merged into its weights."""

from __future__ import annotations

import peft
from torch import nn

from schemas.errors import BadInput
from schemas.train import LoraConfig


def add_adapters(llm: nn.Module, config: LoraConfig) -> peft.LoraModel:
    """Insert adapters in place: they train, and the model's own weights are frozen.

    Returns what `merge_adapters` takes. Raises `BadInput` if a target is the name of no linear layer of the model.
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
    """Merge the adapters into the weights beside them and remove them, so that the model has its original structure."""
    llm = adapters.merge_and_unload()
    if hasattr(llm, "peft_config"):  # transformers would take a leftover config for adapters that are still there
        del llm.peft_config
