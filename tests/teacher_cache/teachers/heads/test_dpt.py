"""The dense heads: their resolutions, the order of their last steps, and the CPU kernel they choose."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from schemas.heads import DPTHeadConfig
from teacher_cache.teachers.heads.dpt import Conv3d, DPTHead, canonical_name


def head(grid="pixels", outputs=("u", "v")) -> DPTHead:
    torch.manual_seed(0)
    config = DPTHeadConfig(embed_dim=12, feature_dim=6, last_dim=4, layer_dims=(3, 4, 5, 6), grid=grid, outputs=outputs)
    return DPTHead(config).requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("grid", "outputs", "shape"),
    [
        ("pixels", ("log_depth",), (2, 16, 56, 42)),
        ("pixels", ("u", "v"), (2, 16, 56, 42, 2)),
        ("tokens", tuple("abcdef"), (2, 16, 4, 3, 6)),
    ],
)
def test_maps_lie_on_their_grid(grid, outputs, shape):
    raw = head(grid, outputs)(torch.randn(2, 4, 8, 4, 3, 12))
    assert raw.shape == shape
    assert raw.is_contiguous()


@pytest.mark.parametrize(
    ("grid", "sizes"),
    [
        ("pixels", [(16, 16, 16), (16, 8, 8), (8, 4, 4), (4, 2, 2)]),
        ("tokens", [(16, 4, 4), (16, 4, 4), (8, 4, 4), (4, 2, 2)]),
    ],
)
def test_layers_are_resampled_to_the_published_sizes(grid, sizes):
    seen = []
    model = head(grid)
    for act in model.act_postprocess:
        act.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[2:])))
    model(torch.randn(1, 4, 8, 4, 4, 12))
    assert seen == sizes


@pytest.mark.parametrize("factors", [(1, 2, 2), (2, 2, 2), (2, 1, 1)])
def test_a_pointwise_convolution_commutes_with_the_upsampling(factors):
    """What lets each fusion block convolve before it upsamples, where L4P convolves after."""
    block = head().scratch.refinenet2.double()
    block.factors = factors
    x = torch.randn(1, 6, 4, 5, 6, dtype=torch.float64)
    refined = block.resConfUnit2(x)
    published = block.out_conv(F.interpolate(refined, scale_factor=factors, mode="trilinear", align_corners=True))
    assert (block(x) - published).abs().max() < 1e-13


def test_the_last_layer_stays_in_float32_under_autocast():
    model = head()
    f4d = torch.randn(1, 4, 8, 2, 2, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = model(f4d)
    assert raw.dtype == torch.float32
    assert (raw != raw.bfloat16()).float().mean() > 0.9


def test_each_layer_has_one_canonical_name():
    names = list(head().state_dict())
    assert {n for n in names if n != canonical_name(n)} == {f"scratch.layer_rn.{i}.weight" for i in range(4)}
    assert canonical_name("a.dpt.scratch.layer_rn.2.weight") == "a.dpt.scratch.layer3_rn.weight"
    assert {canonical_name(n) for n in names} <= set(names)


def test_one_clip_on_the_cpu_gets_the_result_of_the_usual_kernel():
    conv = Conv3d(5, 7, kernel_size=3, stride=(1, 2, 2), padding=1)
    x = torch.randn(1, 5, 6, 8, 9)
    with torch.no_grad():
        fast = conv(x)
    usual = F.conv3d(x, conv.weight, conv.bias, stride=(1, 2, 2), padding=1)
    assert fast.shape == usual.shape
    assert (fast - usual).abs().max() < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", ["pixels", "tokens"])
def test_gradients_reach_every_layer_of_the_features(batch, grid):
    model = head(grid)
    f4d = torch.randn(batch, 4, 8, 2, 2, 12, requires_grad=True)
    model(f4d).square().sum().backward()
    assert f4d.grad is not None
    assert f4d.grad.isfinite().all()
    assert (f4d.grad.abs().amax(dim=(2, 3, 4, 5)) > 0).all()
    assert all(p.grad is None for p in model.parameters())


def test_gradients_agree_with_finite_differences():
    model = head()
    f4d, step = torch.randn(2, 1, 4, 8, 2, 2, 12)
    step = step * 1e-2
    f4d.requires_grad_()
    model(f4d).square().mean().backward()
    with torch.no_grad():
        ahead, behind = (model(f4d + sign * step).square().mean() for sign in (1, -1))
    assert (f4d.grad * step).sum().item() == pytest.approx((ahead - behind).item() / 2, rel=2e-2)


def test_maps_with_and_without_gradients_are_the_same():
    model = head()
    f4d = torch.randn(2, 4, 8, 2, 2, 12)
    assert (model(f4d) - model(f4d.clone().requires_grad_())).abs().max() < 1e-6


@pytest.mark.parametrize("outputs", [("log_depth",), ("u", "v")])
@pytest.mark.parametrize("frames", [slice(0, 3), slice(5, 10), slice(13, 16), slice(7, 8)])
def test_some_frames_are_decoded_as_all_are(outputs, frames):
    model, f4d = head(outputs=outputs), torch.randn(2, 4, 8, 4, 3, 12)
    some = model(f4d, frames)
    assert torch.allclose(some, model(f4d)[:, frames], atol=1e-5)
    assert some.is_contiguous()
