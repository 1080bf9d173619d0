"""A folder with a model goes in; its weights and tokenizer come out. Its code never runs, and nothing is fetched.

A folder may come from anyone. transformers would run Python files of it, after a question on standard input, and follow names
in its JSON to other folders, to the hub and to kernels there. So folders that need any of that are refused, by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from schemas.errors import BadInput
from student_train.models.backbone import no_progress_bars

_HAS_WEIGHTS = ContextVar("has_weights", default=True)

Model = TypeVar("Model", bound=PreTrainedModel)
Config = TypeVar("Config", bound=PreTrainedConfig)

_ALONE = {"trust_remote_code": False, "local_files_only": True}
_OWN = "four_d_rgpt"
"""The one model whose exports come with code, `student_train.models.rgpt`: the installed module runs in its place."""
_KERNELS = ("attn_implementation", "_attn_implementation")
_LAYERS = ("num_hidden_layers", "depth")
_MOST_LAYERS = 1000
_TROUBLE = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip
"""What transformers, and what reads its files, raise for a folder that is not as they expect."""
_ADVICE = (
    "The code of a model's folder never runs here. Give a model of transformers' own classes; or load this one yourself, where "
    "you trust its code, and write the plain model with `save_pretrained`"
)


@contextmanager
def without_weights() -> Iterator[None]:
    """Models that are built inside have names, shapes and dtypes but no values, for a process that gets them from another.

    Parameters are on the meta device; buffers, which no checkpoint holds, are real.
    """
    token = _HAS_WEIGHTS.set(False)
    try:
        with init_empty_weights(include_buffers=False):
            yield
    finally:
        _HAS_WEIGHTS.reset(token)


def load_config(kind: type[Config], folder: Path) -> Config:
    """The configuration in a model's folder. Raises `BadInput` if it is not one, or the folder needs code of its own."""
    _require_plain(folder)
    with unreadable(folder):
        config: Config = kind.from_pretrained(folder, **_ALONE)
        return config


def load_model(kind: type[Model], folder: Path, dtype: torch.dtype, config: PreTrainedConfig | None = None) -> Model:
    """The model in a folder, its weights from safetensors alone. ``config`` replaces the folder's.

    Raises `BadInput` if the folder holds no such model, needs code of its own, or describes a larger model than it holds.
    """
    config = load_config(kind.config_class, folder) if config is None else config
    config.transformers_weights = None  # another file's name, of any format
    _require_weights(kind, folder, config)
    with unreadable(folder), no_progress_bars():
        if not _HAS_WEIGHTS.get():
            empty: Model = kind._from_config(config, dtype=dtype)  # noqa: SLF001  # what `from_pretrained` makes and fills
            empty.eval()
            _tie(empty)
            return empty
        model: Model = kind.from_pretrained(folder, config=config, dtype=dtype, use_safetensors=True, **_ALONE)
        return model


def _tie(model: PreTrainedModel) -> None:
    """Make one parameter of those that are tied. `init_empty_weights` makes a new one wherever a parameter is set."""
    for name, source in model.all_tied_weights_keys.items():
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._parameters[own] = model.get_parameter(source)  # noqa: SLF001  # setting it by name makes a new one


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder. Raises `BadInput` if there is none, or it needs code of its own."""
    _require_plain(folder)
    with unreadable(folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **_ALONE)
        return tokenizer


def model_type(folder: Path) -> str | None:
    """The name that transformers has for the model in a folder, from its config.json; None if the folder holds no model."""
    found = read_json(folder / "config.json").get("model_type")
    return found if isinstance(found, str) else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder; empty if there is no file. Raises `BadInput` if it holds anything else."""
    if not path.is_file():
        return {}
    with unreadable(path.parent):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"{path.name} holds no JSON object")
        return found


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Turn what transformers raises for a folder that holds no proper model into `BadInput`."""
    try:
        yield
    except _TROUBLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadInput(f"cannot read the model in {folder}: {reason}; needed a folder as transformers saves it") from error


def _require_plain(folder: Path) -> None:
    """Raise `BadInput` if loading the folder means running Python files, of its own or from elsewhere, or endless layers."""
    config, tokenizer = (read_json(folder / name) for name in ("config.json", "tokenizer_config.json"))
    for name, found in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if found.get("auto_map") and not (found is config and config.get("model_type") == _OWN):
            raise BadInput(f"{folder} needs code of its own: `auto_map` in {name} names {found['auto_map']!r}. {_ADVICE}.")
    if kernels := [value for value in _values(config, _KERNELS) if "/" in str(value)]:
        raise BadInput(f"{folder} needs code from a hub: config.json names the kernel {kernels[0]!r}. {_ADVICE}.")
    layers = [value for value in _values(config, _LAYERS) if isinstance(value, int)]
    if max(layers, default=0) > _MOST_LAYERS:
        # transformers makes lists of that length before it makes any layer.
        raise BadInput(f"the config.json of {folder} describes {max(layers):,} layers, and at most {_MOST_LAYERS:,} are read")
    if (folder / "adapter_config.json").is_file():
        raise BadInput(
            f"{folder} holds adapters (adapter_config.json), which may name any other model; needed a whole model. Merge them "
            "with peft's `merge_and_unload`, and give the folder that `save_pretrained` then writes."
        )


def _require_weights(kind: type[PreTrainedModel], folder: Path, config: PreTrainedConfig) -> None:
    """Raise `BadInput` unless the folder's files hold about as many weights as its configuration describes.

    transformers makes up the missing ones, so a few bytes of JSON could ask for any amount of memory.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
        found = f"{', '.join(pickles[:3])}: pickles, which can run code" if pickles else "none"
        raise BadInput(
            f"{folder} has no weights as safetensors ({found}); load it where you trust it, and `save_pretrained` it"
        )
    with unreadable(folder):
        shards = read_json(folder / "model.safetensors.index.json").get("weight_map", {}).values()
        if stray := set(shards) - {path.name for path in files}:
            raise ValueError(f"its index names {min(stray)!r}, which is no safetensors file of the folder")
        with torch.device("meta"):
            described = sum(parameter.numel() for parameter in kind(config).parameters())
        held = sum(map(_elements, files))
        if described > 2 * held:  # tied weights are stored once
            raise ValueError(f"its config.json describes {described:,} weights, and its files hold {held:,}")


def _elements(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return sum(torch.Size(file.get_slice(name).get_shape()).numel() for name in file.keys())  # noqa: SIM118  # not a mapping


def _values(value: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """What any of these keys holds, at any depth."""
    if isinstance(value, Mapping):
        yield from (value[name] for name in names if name in value)
        for inner in value.values():
            yield from _values(inner, names)
