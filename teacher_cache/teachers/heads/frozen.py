"""A teacher's frozen heads: F4D in, raw maps out; and the file and card that transfer them from teacher to student.

Light on purpose: a trainer can import this without any teacher, video decoder or Ray.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from schemas.base import canonical_json, sha256_digest
from schemas.errors import BadInput, SignalMissing, StoreDamaged
from schemas.heads import HeadsCard
from schemas.recipe import Precision
from schemas.signal import Shape, SignalName
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.heads.dpt import DPTHead, canonical_name
from teacher_cache.teachers.heads.precision import autocast
from teacher_cache.teachers.heads.tensors import file_digest, listed, misfits, safetensors_shapes


def decode_raw(heads: Mapping[SignalName, DPTHead], f4d: Tensor, signals: Collection[SignalName]) -> RawSignals:
    """Run the heads of ``signals`` one by one, so that only one head's activations are in memory. Raises `SignalMissing`."""
    unknown = sorted(set(signals) - set(heads))
    if unknown:
        raise SignalMissing(f"no head gives {', '.join(unknown)}; the heads here give {', '.join(sorted(heads))}")
    return {signal: heads[signal](f4d) for signal in heads if signal in signals}


def to_physical(raw: RawSignals) -> RawSignals:
    """Raw signals converted to the units of `schemas.signal.SIGNALS`: exp for depth; the others are unchanged."""
    return {signal: x.exp() if signal == "depth" else x for signal, x in raw.items()}


class FrozenHeads(nn.Module):
    """Heads with frozen weights. Gradients flow through them to the features."""

    def __init__(self, card: HeadsCard) -> None:
        super().__init__()
        self.card = card
        self.heads = nn.ModuleDict({signal: DPTHead(config) for signal, config in card.heads.items()})
        self.precision: Precision = card.dtype
        """Precision of the matrix products; by default the teacher's, so that its features decode to its maps. May be set."""
        self.requires_grad_(requires_grad=False)

    def raw(self, f4d: Tensor, signals: Collection[SignalName]) -> RawSignals:
        """Decode features into raw maps (log depth, motion logit, flow in pixels, Plücker rays).

        ``f4d``: floating (batch, layer, token_time, token_y, token_x, channel), the last five as the card's ``f4d``.
        Returns the requested signals as float32: depth and motion (batch, frame, y, x), flow (batch, frame, y, x, uv),
        camray (batch, frame, token_y, token_x, plucker). Raises `BadInput` for another shape, `SignalMissing`.
        """
        if tuple(f4d.shape[1:]) != tuple(self.card.f4d):
            raise BadInput(
                f"the heads take features of shape (batch, {', '.join(map(str, self.card.f4d))}), got {tuple(f4d.shape)}"
            )
        with autocast(f4d.device.type, self.precision):
            return decode_raw(cast("Mapping[SignalName, DPTHead]", self.heads), f4d.float(), signals)


def save_heads(
    heads: Mapping[SignalName, DPTHead], *, family: str, dtype: Precision, f4d: Shape, image_size: int, frames: int
) -> tuple[bytes, bytes]:
    """Serialise heads as (safetensors file, card as JSON). Equal weights give equal bytes.

    ``dtype`` is the precision that the heads run in, ``f4d`` the shape of one clip's features.
    """
    tensors = _tensors(heads)
    # One metadata key only: safetensors writes them in an order that differs between runs.
    file = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, {"format": "pt"})
    card = HeadsCard(
        family=family,
        heads={signal: head.config for signal, head in heads.items()},
        weights=sha256_digest(file),
        dtype=dtype,
        f4d=f4d,
        image_size=image_size,
        frames=frames,
    )
    return file, canonical_json(card.model_dump(mode="json"))


def load_heads(file: bytes | str | Path, card: HeadsCard | bytes) -> FrozenHeads:
    """Rebuild heads from their file (bytes or path) and card (or its JSON), on the CPU.

    Raises `BadInput` if the file cannot be read, `StoreDamaged` if it is not the one that the card describes.
    """
    card = card if isinstance(card, HeadsCard) else _parse_card(card)
    with torch.device("meta"):  # the file's tensors become the weights, so none are allocated here
        model = FrozenHeads(card)
    needed = _tensors(cast("Mapping[SignalName, DPTHead]", model.heads))
    found = _read_checked(file, card, {name: tuple(tensor.shape) for name, tensor in needed.items()})
    prefixed = {name: found[canonical_name(name).removeprefix("heads.")] for name in model.state_dict()}
    model.load_state_dict(prefixed, assign=True)
    return model.requires_grad_(requires_grad=False)


def _tensors(heads: Mapping[SignalName, DPTHead]) -> dict[str, Tensor]:
    """``SIGNAL.PARAMETER`` → tensor, each parameter only once."""
    return {
        f"{signal}.{name}": tensor
        for signal, head in heads.items()
        for name, tensor in head.state_dict().items()
        if name == canonical_name(name)
    }


def _parse_card(data: bytes) -> HeadsCard:
    try:
        return HeadsCard.model_validate_json(data)
    except ValidationError as error:
        raise StoreDamaged(f"this is not a card of frozen heads: {error}") from error


def _read_checked(file: bytes | str | Path, card: HeadsCard, needed: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The file's tensors, which have the digest and shapes that are ``needed``; nothing is made of a file that has not."""
    try:
        digest = sha256_digest(file) if isinstance(file, bytes) else file_digest(Path(file))
    except OSError as error:
        raise BadInput(
            f"cannot read the heads file {file!s}: {error.strerror}. Give the path of an exported heads file."
        ) from error
    if digest != card.weights:
        raise StoreDamaged(
            f"the heads file has digest {digest}, its card says {card.weights}: "
            "the file is damaged or belongs to other heads. Copy both from the store again."
        )
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb") as stream:
            wrong = misfits(needed, safetensors_shapes(stream, stream.seek(0, io.SEEK_END) + stream.seek(0)))
        if wrong:
            raise StoreDamaged(
                f"the heads file does not hold the heads its card describes:\n{listed(wrong)}\nExport the heads again."
            )
        tensors: dict[str, Tensor] = (
            safetensors.torch.load(file) if isinstance(file, bytes) else safetensors.torch.load_file(file)
        )
    except (SafetensorError, ValueError) as error:
        raise StoreDamaged(f"the heads file is not a safetensors file: {error}") from error
    return tensors
