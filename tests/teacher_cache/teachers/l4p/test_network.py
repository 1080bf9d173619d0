"""Names, shapes, hooks and gradients of the L4P network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from teacher_cache.teachers.l4p.config import MAPS, TASKS, L4PConfig
from teacher_cache.teachers.l4p.encoder import MLP, Block, VideoEncoder, position_table
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import PRESETS


@pytest.fixture(scope="module")
def giant() -> L4P:
    with torch.device("meta"):
        return L4P(PRESETS["giant"])


def published_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published checkpoint, without its prefix and its tracking head."""
    encoder = {"patch_embed.proj.weight": (1408, 3, 2, 14, 14), "patch_embed.proj.bias": (1408,)}
    encoder |= {"norm.weight": (1408,), "norm.bias": (1408,)}
    for i in range(40):
        block = {"norm1.weight": (1408,), "norm1.bias": (1408,), "norm2.weight": (1408,), "norm2.bias": (1408,)}
        block |= {"attn.q_bias": (1408,), "attn.v_bias": (1408,), "attn.qkv.weight": (4224, 1408)}
        block |= {"attn.proj.weight": (1408, 1408), "attn.proj.bias": (1408,)}
        block |= {"mlp.fc1.weight": (6144, 1408), "mlp.fc1.bias": (6144,)}
        block |= {"mlp.fc2.weight": (1408, 6144), "mlp.fc2.bias": (1408,)}
        encoder |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    names = {f"video_encoder.{name}": shape for name, shape in encoder.items()}
    for task, channels in {"flow_2d_backward": 2, "depth": 1, "camray": 6, "dyn_mask": 1}.items():
        names |= {f"task_heads.{task}.task_head.dpt.{n}": s for n, s in published_head(channels, rays=task == "camray").items()}
    return names


def published_head(channels: int, *, rays: bool) -> dict[str, tuple[int, ...]]:
    dims = (256, 512, 1024, 1024)
    weights: dict[str, tuple[int, ...]] = {f"act_postprocess.{i}.0": (dim, 1408, 1, 1, 1) for i, dim in enumerate(dims)}
    weights["act_postprocess.0.1"] = (256, 256, 2, 1, 1) if rays else (256, 256, 2, 4, 4)
    weights["act_postprocess.1.1"] = (512, 512, 2, 1, 1) if rays else (512, 512, 2, 2, 2)
    weights["act_postprocess.3.1"] = (1024, 1024, 3, 3, 3)
    for i in range(1, 5):
        weights[f"scratch.refinenet{i}.out_conv"] = (256, 256, 1, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                weights[f"scratch.refinenet{i}.resConfUnit{unit}.conv{conv}"] = (256, 256, 3, 3, 3)
    weights |= {"head1.0": (128, 256, 3, 3, 3), "head2.0": (128, 128, 3, 3, 3), "head2.2": (channels, 128, 1, 1, 1)}
    transposed = ("act_postprocess.0.1", "act_postprocess.1.1")
    names = {f"{name}.weight": shape for name, shape in weights.items()}
    names |= {f"{name}.bias": (shape[1] if name in transposed else shape[0],) for name, shape in weights.items()}
    for i, dim in enumerate(dims):
        names[f"scratch.layer{i + 1}_rn.weight"] = names[f"scratch.layer_rn.{i}.weight"] = (256, dim, 3, 3, 3)
    return names


def test_giant_has_the_published_names_and_shapes(giant):
    assert {name: tuple(t.shape) for name, t in giant.state_dict().items()} == published_names()


def test_giant_has_the_published_number_of_parameters(giant):
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(giant.video_encoder) == 1_011_610_752
    assert {signal: count(head) for signal, head in giant.heads.items()} == {
        "flow": 85_846_018,
        "depth": 85_845_889,
        "motion": 85_845_889,
        "camray": 82_307_590,
    }


def test_giant_gives_the_documented_shapes():
    assert PRESETS["giant"].shapes == {
        "f4d": (4, 8, 16, 16, 1408),
        "depth": (16, 224, 224),
        "flow": (16, 224, 224, 2),
        "motion": (16, 224, 224),
        "camray": (16, 16, 16, 6),
    }


@pytest.mark.parametrize(
    "fields",
    [{"image_size": 100}, {"embed_dim": 1400, "num_heads": 16}, {"hooks": (1, 2, 3, 41)}, {"hooks": (1, 2, 3)}, {"patch": 16}],
)
def test_an_inconsistent_configuration_is_refused(fields):
    with pytest.raises(ValidationError):
        L4PConfig(**fields)


def test_positions_are_taken_in_float64():
    table = position_table(2048, 1408)
    assert table.dtype == torch.float32
    exponent = 2 * (np.arange(1408) // 2) / 1408
    angle = np.outer(np.arange(2048, dtype=np.float64), 10000.0**-exponent)
    wanted = np.where(np.arange(1408) % 2, np.cos(angle), np.sin(angle))
    assert np.abs(table.numpy() - wanted).max() < 1e-7  # half a unit in the last place; a float32 table is off by 1e-4


def test_norms_and_gelu_are_the_originals():
    block = Block(8, 2, 16)
    assert block.norm1.eps == block.norm2.eps == VideoEncoder(tokens=1, dim=8, depth=1, num_heads=2, mlp_dim=4).norm.eps == 1e-6
    x = torch.linspace(-3, 3, 61)[:, None]
    mlp = MLP(1, 1)
    with torch.no_grad():
        for layer in (mlp.fc1, mlp.fc2):
            layer.weight.fill_(1)
            layer.bias.fill_(0)
        exact = 0.5 * x.double() * (1 + torch.erf(x.double() / 2**0.5))
        assert (mlp(x) - exact).abs().max() < 1e-6  # the tanh approximation is off by 4e-4


def test_keys_have_no_bias_and_queries_and_values_have(small):
    attention = small.video_encoder.blocks[0].attn
    assert {name for name, _ in attention.named_parameters()} == {"q_bias", "v_bias", "qkv.weight", "proj.weight", "proj.bias"}


def test_each_hook_is_the_output_of_the_block_before_it(small):
    seen: list[torch.Tensor] = []
    for block in small.video_encoder.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    frames = torch.randn(1, 3, 16, 28, 28)
    features = small.video_encoder(frames, range(5))
    embedded = small.video_encoder.patch_embed(frames) + position_table(32, 24)
    assert torch.equal(features[0], embedded)
    for entry in (1, 2, 3):
        assert torch.equal(features[entry], seen[entry - 1])
    assert torch.equal(features[4], small.video_encoder.norm(seen[3]))  # the entry at the depth is the one after the norm


def test_blocks_after_the_last_hook_do_not_run():
    model = L4P(PRESETS["tiny"])
    ran = []
    for i, block in enumerate(model.video_encoder.blocks):
        block.register_forward_hook(lambda *_args, i=i: ran.append(i))
    model.encode(torch.zeros(1, 3, 16, 112, 112))
    assert ran == list(range(max(PRESETS["tiny"].hooks)))


def test_tokens_are_ordered_by_time_row_and_column(small):
    frames = torch.zeros(1, 3, 16, 28, 28)
    base = small.video_encoder.patch_embed(frames)
    frames[0, :, 6, 14, 13] = 1  # frame 6 → token time 3; row 14 → token row 1; column 13 → token column 0
    changed = (small.video_encoder.patch_embed(frames) - base).abs().sum(-1)[0]
    assert changed.nonzero().flatten().tolist() == [3 * 4 + 1 * 2 + 0]


def test_decoding_features_gives_the_maps_of_the_forward(small):
    frames = torch.randn(2, 3, 16, 28, 28)
    out = small(frames)
    decoded = small.decode(out["f4d"])
    assert set(decoded) == set(MAPS)
    assert all(torch.equal(decoded[signal], out[signal]) for signal in MAPS)
    assert {signal: tuple(x.shape[1:]) for signal, x in out.items()} == small.config.shapes


def test_depth_is_the_exponential_of_the_raw_map(small):
    frames = torch.randn(1, 3, 16, 28, 28)
    raw, out = small.raw(frames), small(frames)
    assert torch.equal(out["depth"], raw["depth"].exp())
    assert all(torch.equal(out[s], raw[s]) for s in ("flow", "motion", "camray"))


def test_clips_of_a_batch_do_not_mix(small):
    frames = torch.randn(3, 3, 16, 28, 28)
    together, alone = small.raw(frames), small.raw(frames[1:2])
    for signal, x in alone.items():
        assert (together[signal][1:2] - x).abs().max() < 1e-5, signal


def test_only_the_heads_asked_for_run(small):
    ran = []
    for signal, head in small.heads.items():
        head.register_forward_hook(lambda *_args, s=signal: ran.append(s))
    assert set(small.raw(torch.randn(1, 3, 16, 28, 28), ["flow"])) == {"flow"}
    assert ran == ["flow"]
    assert set(small.raw(torch.randn(1, 3, 16, 28, 28), ["f4d"])) == {"f4d"}
    assert ran == ["flow"]


def test_nothing_in_the_network_trains(small):
    assert not any(p.requires_grad for p in small.parameters())
    assert set(TASKS) == set(small.heads)
