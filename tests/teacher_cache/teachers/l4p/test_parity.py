"""The network computes what the original computes: against its outputs, and against the formulas written out plainly."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from seeded_weights import seed_weights

from teacher_cache.teachers.l4p.config import TASKS, L4PConfig
from teacher_cache.teachers.l4p.network import L4P

TOLERANCE = 1e-5


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


# --- the original's outputs ---


@pytest.fixture(scope="module", params=["ckpt", "safetensors"])
def loaded(golden, request, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / f"l4p.{request.param}"
    if request.param == "ckpt":
        tracking = {"l4p_model.task_heads.track_2d.some.weight": torch.zeros(3)}
        torch.save({"state_dict": golden.state | tracking, "epoch": 3}, path)
    else:
        save_file({name: t.clone() for name, t in golden.state.items()}, path)
    with torch.device("meta"):
        model = L4P(golden.config)
    return model.load_checkpoint(path)


def test_the_encoder_agrees_with_the_original(golden, loaded):
    features = loaded.video_encoder(golden.frames, range(golden.config.depth + 1))
    wanted = {0: "embed"} | {hook: f"hook{hook}" for hook in golden.config.hooks}
    errors = {name: relative_error(features[entry], golden.tensors[f"feat.{name}"]) for entry, name in wanted.items()}
    errors["last"] = relative_error(features[golden.config.depth], golden.tensors["feat.last"])
    assert max(errors.values()) < TOLERANCE, errors


def test_the_heads_agree_with_the_original(golden, loaded):
    raw = loaded.raw(golden.frames)
    wanted = {signal: golden.tensors[f"head_raw.{task}"].movedim(1, -1).squeeze(-1) for signal, task in TASKS.items()}
    errors = {signal: relative_error(raw[signal], wanted[signal]) for signal in wanted}
    assert max(errors.values()) < TOLERANCE, errors
    depth = loaded(golden.frames)["depth"]
    assert relative_error(depth, golden.tensors["out.depth"][:, 0]) < TOLERANCE


# --- the formulas, in float64, one step after another ---


def plain_positions(tokens: int, dim: int) -> torch.Tensor:
    def angle(p: int, j: int) -> float:
        return p / 10000 ** (2 * (j // 2) / dim)

    rows = [[math.cos(angle(p, j)) if j % 2 else math.sin(angle(p, j)) for j in range(dim)] for p in range(tokens)]
    return torch.tensor(rows, dtype=torch.float64)


def plain_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6) * weight + bias


def plain_attention(x, s, heads):
    q, k, v = (x @ w.T for w in s["attn.qkv.weight"].chunk(3))
    q, v = q + s["attn.q_bias"], v + s["attn.v_bias"]
    width = x.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width), dim=-1)
        out.append(weights @ v[..., part])
    return torch.cat(out, -1) @ s["attn.proj.weight"].T + s["attn.proj.bias"]


def plain_block(x, s, heads):
    x = x + plain_attention(plain_norm(x, s["norm1.weight"], s["norm1.bias"]), s, heads)
    hidden = plain_norm(x, s["norm2.weight"], s["norm2.bias"]) @ s["mlp.fc1.weight"].T + s["mlp.fc1.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + hidden @ s["mlp.fc2.weight"].T + s["mlp.fc2.bias"]


def under(state, prefix):
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def plain_features(s, frames, config) -> list[torch.Tensor]:
    weight = s["patch_embed.proj.weight"].flatten(1)
    steps = range(0, config.image_size, 14)
    patches = [frames[:, :, t : t + 2, y : y + 14, x : x + 14] for t in range(0, 16, 2) for y in steps for x in steps]
    tokens = [patch.flatten(1) @ weight.T + s["patch_embed.proj.bias"] for patch in patches]
    x = torch.stack(tokens, 1)
    entries = [x + plain_positions(x.shape[1], x.shape[2])]
    for i in range(config.depth):
        entries.append(plain_block(entries[-1], under(s, f"blocks.{i}."), config.num_heads))
    entries[-1] = plain_norm(entries[-1], s["norm.weight"], s["norm.bias"])
    return entries


def conv3(s, name, x):
    return F.conv3d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), padding=s[f"{name}.weight"].shape[-1] // 2)


def plain_unit(s, name, x):
    return x + conv3(s, f"{name}.conv2", torch.relu(conv3(s, f"{name}.conv1", torch.relu(x))))


def plain_fusion(s, level, path, skip, factors):
    name = f"scratch.refinenet{level}"
    if skip is not None:
        t, h, w = skip.shape[2:]
        path = path[:, :, :t, :h, :w] + plain_unit(s, f"{name}.resConfUnit1", skip)
    path = plain_unit(s, f"{name}.resConfUnit2", path)
    path = F.interpolate(path, scale_factor=factors, mode="trilinear", align_corners=True)
    return F.conv3d(path, s[f"{name}.out_conv.weight"], s[f"{name}.out_conv.bias"])  # after the upsampling, as published


PLAIN_PYRAMIDS = {
    "pixels": {"up": ((2, 4, 4), (2, 2, 2)), "fuse": ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))},
    "tokens": {"up": ((2, 1, 1), (2, 1, 1)), "fuse": ((1, 1, 1), (1, 1, 1), (2, 1, 1), (2, 2, 2))},
}


def plain_head(s, hooks, grid):
    up, fuse = PLAIN_PYRAMIDS[grid].values()
    h, w = hooks[0].shape[2:4]
    layers = [conv3(s, f"act_postprocess.{i}.0", x.permute(0, 4, 1, 2, 3)) for i, x in enumerate(hooks)]
    for i in (0, 1):
        name = f"act_postprocess.{i}.1"
        layers[i] = F.conv_transpose3d(layers[i], s[f"{name}.weight"], s[f"{name}.bias"], stride=up[i])
    layers[3] = F.conv3d(layers[3], s["act_postprocess.3.1.weight"], s["act_postprocess.3.1.bias"], stride=2, padding=1)
    l1, l2, l3, l4 = (conv3(s, f"scratch.layer{i}_rn", x) for i, x in enumerate(layers, start=1))
    path = plain_fusion(s, 4, l4, None, fuse[3])
    path = plain_fusion(s, 3, path, l3, fuse[2])
    path = plain_fusion(s, 2, path, l2, fuse[1])
    path = conv3(s, "head1.0", plain_fusion(s, 1, path, l1, fuse[0]))
    size = (16, 14 * h, 14 * w) if grid == "pixels" else (16, h, w)
    path = F.interpolate(path, size=size, mode="trilinear", align_corners=True)
    return conv3(s, "head2.2", torch.relu(conv3(s, "head2.0", path))).movedim(1, -1).squeeze(-1)


LAST_HOOK_AFTER_THE_NORM = L4PConfig(
    image_size=28,
    embed_dim=24,
    depth=4,
    num_heads=2,
    mlp_dim=40,
    hooks=(1, 2, 3, 4),
    feature_dim=8,
    last_dim=4,
    layer_dims=(6, 8, 12, 16),
)
ODD_GRID_OF_TOKENS = L4PConfig(
    image_size=70,
    embed_dim=20,
    depth=5,
    num_heads=5,
    mlp_dim=30,
    hooks=(0, 2, 2, 4),
    feature_dim=6,
    last_dim=3,
    layer_dims=(4, 5, 6, 7),
)


@pytest.mark.parametrize("config", [LAST_HOOK_AFTER_THE_NORM, ODD_GRID_OF_TOKENS], ids=["last hook after the norm", "odd grid"])
def test_the_network_agrees_with_its_formulas(config):
    model = L4P(config)
    seed_weights(model, seed=3)
    with torch.no_grad():  # the seed leaves the norms at one and zero, which would hide them
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    frames = torch.randn(2, 3, 16, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0))
    state = {name: t.double() for name, t in model.state_dict().items()}

    entries = plain_features(under(state, "video_encoder."), frames.double(), config)
    side = config.image_size // 14
    hooks = [entries[hook].unflatten(1, (8, side, side)) for hook in config.hooks]
    raw = model.raw(frames)
    assert relative_error(raw["f4d"], torch.stack(hooks, 1)) < TOLERANCE
    for signal, task in TASKS.items():
        grid = "tokens" if signal == "camray" else "pixels"
        wanted = plain_head(under(state, f"task_heads.{task}.task_head.dpt."), hooks, grid)
        assert relative_error(raw[signal], wanted) < TOLERANCE, signal
