"""The same weights run the plain way, to measure against: every block, whole attention matrices, no order changed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.signal import P4D_SIGNALS
from teacher_cache.teachers.heads import RawSignals
from teacher_cache.teachers.heads.dpt import DPTHead
from teacher_cache.teachers.l4p.network import L4P


@torch.no_grad()
def plain_raw(model: L4P, frames: Tensor) -> RawSignals:
    """Every raw signal of normalised frames (batch, 3, 16, size, size), as `L4P.raw` gives them."""
    encoder, config = model.video_encoder, model.config
    x = encoder.patch_embed(frames) + encoder.positions
    features = [x]
    for block in encoder.blocks:
        x = x + _attention(block.attn, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
        features.append(x)
    features[-1] = encoder.norm(x)
    f4d = torch.stack([features[hook] for hook in config.hooks], dim=1).reshape(-1, *config.f4d)
    hidden = {signal: _fused(head, f4d) for signal, head in model.heads.items()}
    maps = {signal: _finish(head, hidden[signal], f4d) for signal, head in model.heads.items()}
    return {signal: ({"f4d": f4d.float()} | maps)[signal] for signal in P4D_SIGNALS}


def _attention(attn, x: Tensor) -> Tensor:
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    q, k, v = F.linear(x, attn.qkv.weight, bias).view(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
    return attn.proj((weights @ v).transpose(1, 2).flatten(2))


def _conv(conv, x: Tensor) -> Tensor:
    """PyTorch's own choice of kernel."""
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)


def _fused(head: DPTHead, f4d: Tensor) -> Tensor:
    layers = []
    for (project, resample), layer in zip(head.act_postprocess, f4d.unbind(1), strict=True):
        x = _conv(project, layer.permute(0, 4, 1, 2, 3).contiguous())
        layers.append(_conv(resample, x) if isinstance(resample, torch.nn.Conv3d) else resample(x))
    scratch = head.scratch
    narrow = [_conv(conv, x) for conv, x in zip(scratch.layer_rn, layers, strict=True)]
    path = None
    for block, skip in zip(
        (scratch.refinenet4, scratch.refinenet3, scratch.refinenet2, scratch.refinenet1), reversed(narrow), strict=True
    ):
        if path is None:
            path = skip
        else:
            t, h, w = skip.shape[2:]
            path = path[:, :, :t, :h, :w] + _unit(block.resConfUnit1, skip)
        path = _unit(block.resConfUnit2, path)
        size = [n * f for n, f in zip(path.shape[2:], block.factors, strict=True)]
        path = _conv(block.out_conv, F.interpolate(path, size=size, mode="trilinear", align_corners=True))
    return path


def _unit(unit, x: Tensor) -> Tensor:
    return _conv(unit.conv2, F.relu(_conv(unit.conv1, F.relu(x)))) + x


def _finish(head: DPTHead, fused: Tensor, f4d: Tensor) -> Tensor:
    x = F.interpolate(_conv(head.head1[0], fused), size=head._output_size(f4d), mode="trilinear", align_corners=True)
    raw = _conv(head.head2[2], F.relu(_conv(head.head2[0], x))).float()
    return raw[:, 0] if raw.shape[1] == 1 else raw.permute(0, 2, 3, 4, 1).contiguous()
