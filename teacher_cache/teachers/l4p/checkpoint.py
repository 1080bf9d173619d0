"""An L4P checkpoint file in, its tensors by name out, or one error that says what is wrong with the file.

Nothing in a file is ever executed: from a ``.ckpt`` only tensors are loaded, and plain pickles are refused.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from schemas.errors import BadInput
from schemas.signal import Shape
from teacher_cache.teachers.heads.dpt import canonical_name
from teacher_cache.teachers.heads.tensors import listed, misfits, shorten

PREFIX = "l4p_model."
"""Prefix of every name, from L4P's training module."""
IGNORED = "task_heads.track_2d."
"""Prefix of the point tracker, which has no dense signal."""
PUBLISHED = "l4p_depth_flow_2d3dtrack_camray_dynseg_v1.ckpt"

_WHAT_TO_GIVE = f"Give L4P's published checkpoint ({PUBLISHED}), or the same tensors under the same names as safetensors."


def read_checkpoint(path: Path, needed: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Tensors of a Lightning ``.ckpt`` or a safetensors file, memory-mapped and so read only when used.

    ``needed`` are the network's parameter names, without the checkpoint's ``l4p_model.`` prefix, and shapes. Returns tensors
    under the same names, without the tracking head, and each layer only once. Raises `BadInput` if the file is not a
    checkpoint, would run code, is truncated, or has other names, shapes or non-floating-point tensors.
    """
    tensors = _open(path)
    if not any(name.startswith(PREFIX) for name in tensors):
        raise BadInput(
            f"{path} is not an L4P checkpoint: it has {len(tensors)} tensors ({shorten(list(tensors))}), "
            f"and none is named {PREFIX}…. {_WHAT_TO_GIVE}"
        )
    own = _without_aliases(path, {n: t for n, t in tensors.items() if not n.startswith(PREFIX + IGNORED)})
    _check_fits(path, own, {PREFIX + canonical_name(name): shape for name, shape in needed.items()})
    return {name.removeprefix(PREFIX): tensor for name, tensor in own.items()}


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `BadInput` if a weight is NaN or infinite. Reads every value once."""
    bad = [name for name, t in tensors.items() if t.numel() and not all(bound.isfinite() for bound in t.aminmax())]
    if bad:
        raise BadInput(
            f"{path} has NaN or infinite weights in {len(bad)} tensors: {shorten([PREFIX + name for name in bad])}. "
            "The file is damaged or its training diverged: fetch it again, or give another."
        )


def _open(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, in the format that its first bytes indicate."""
    start = _first_bytes(path)
    if start.startswith(b"PK\x03\x04"):
        return _open_lightning(path)
    if start[8:9] == b"{":  # eight bytes of header length, then the header's JSON
        return _open_safetensors(path)
    raise BadInput(
        f"{path} is neither a PyTorch checkpoint (a zip file) nor a safetensors file: it starts with {start!r}. "
        f"Plain pickles are not opened, since a pickle can run code. {_WHAT_TO_GIVE}"
    )


def _check_fits(path: Path, found: Mapping[str, Tensor], needed: Mapping[str, Shape]) -> None:
    """Check names, shapes and dtypes; reads no values."""
    wrong = misfits(needed, {name: tuple(t.shape) for name, t in found.items()})
    integers = [name for name, t in found.items() if not t.is_floating_point()]
    if integers:
        wrong.append(f"{len(integers)} not floating-point: {shorten(integers)}")
    if wrong:
        raise BadInput(
            f"{path} does not hold this L4P configuration:\n{listed(wrong)}\n"
            f"Give the checkpoint that belongs to the preset, or the preset that belongs to the checkpoint. {_WHAT_TO_GIVE}"
        )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise BadInput(
            f"cannot read the teacher's weights {path}: {error.strerror}. Give the path of a file on this machine."
        ) from error
    if not start:
        raise BadInput(f"the teacher's weights {path} are an empty file. Fetch the checkpoint again.")
    return start


def _open_lightning(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):  # a zip file's directory is at its end
        raise _truncated(path, "it starts as a zip file, but its end is missing")
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise BadInput(
            f"{path} holds Python objects besides tensors ({found[1] if found else 'of a kind that is not allowed'}), "
            f"which could run code when loaded; nothing was loaded. {_WHAT_TO_GIVE}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _truncated(path, str(error).partition("\n")[0]) from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        held = (
            f"keys {shorten([str(k) for k in checkpoint])}"
            if isinstance(checkpoint, dict)
            else f"a {type(checkpoint).__name__}"
        )
        raise BadInput(f"{path} is not a Lightning checkpoint: it has {held}, and no `state_dict` of tensors. {_WHAT_TO_GIVE}")
    return state


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if not name.startswith(PREFIX + IGNORED)}  # noqa: SIM118
    except SafetensorError as error:
        raise _truncated(path, str(error)) from error


def _truncated(path: Path, detail: str) -> BadInput:
    return BadInput(
        f"{path} is truncated or damaged ({detail}); it has {path.stat().st_size:,} bytes. "
        "Fetch it again and compare its length with the source's."
    )


def _without_aliases(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each layer once, under its canonical name. Checkpoints store ``scratch.layer1_rn`` also as ``scratch.layer_rn.0``."""
    unique: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0] != canonical_name(item[0])):  # own names first
        own = canonical_name(name)
        if own in unique and not _same(unique[own], tensor):
            raise BadInput(
                f"{path} contradicts itself: {name} and {own} are two names of one layer, and their values differ. "
                "Fetch the checkpoint again, or save it anew from the model."
            )
        unique.setdefault(own, tensor)
    return unique


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, so that a NaN equals itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.data_ptr() == b.data_ptr() or torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
