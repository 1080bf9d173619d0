"""The perception decoders: shapes, what is sampled, how it is resized, and how they begin."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from schemas.errors import BadInput
from schemas.train import DecoderConfig
from student_train.distill.perception import (
    LinearDecoder,
    Mlp3Decoder,
    PatchHead,
    PerceptionDecoder,
    perception_decoder,
    resample,
)

SHAPE = (4, 8, 6, 6, 20)


@pytest.mark.parametrize("kind", ["mlp3", "linear"])
@pytest.mark.parametrize("grid", [3, 6, 9])
def test_hidden_states_become_f4d(kind: str, grid: int) -> None:
    decoder = perception_decoder(DecoderConfig(kind=kind, hidden=32), 10, SHAPE)
    hidden = torch.randn(2, 16, grid, grid, 10, requires_grad=True)
    f4d = decoder(hidden)
    assert f4d.shape == (2, *SHAPE)
    f4d.sum().backward()
    assert hidden.grad is not None


def test_even_frames_stand_for_their_pairs() -> None:
    hidden = torch.randn(1, 16, 4, 4, 10)
    torch.testing.assert_close(resample(hidden, (8, 4, 4)), hidden[:, [0, 2, 4, 6, 8, 10, 12, 14]])


def test_bfloat16_is_resized_in_float32_and_stays_bfloat16() -> None:
    hidden = torch.randn(1, 16, 9, 9, 10)
    resampled = resample(hidden.bfloat16(), (8, 6, 6))
    assert resampled.dtype == torch.bfloat16
    torch.testing.assert_close(resampled, resample(hidden.bfloat16().float(), (8, 6, 6)).bfloat16(), rtol=0, atol=0)


def test_space_is_resized_bilinearly_frame_by_frame() -> None:
    hidden = torch.randn(2, 16, 9, 9, 10)
    resampled = resample(hidden, (8, 16, 16))  # (clip, token_time, token_y, token_x, hidden)
    image = hidden[1, 6].permute(2, 0, 1)[None]  # frame 6 is time step 3
    expected = F.interpolate(image, (16, 16), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(resampled[1, 3], expected)


def test_each_hook_has_its_own_linear_layer() -> None:
    decoder = LinearDecoder(10, SHAPE)
    hidden = torch.randn(1, 16, 6, 6, 10)
    f4d = decoder(hidden)
    for layer, hook in enumerate(decoder.hooks):
        torch.testing.assert_close(f4d[0, layer, 5, 2, 3], hook(hidden[0, 10, 2, 3]))


def test_mlp_gives_the_layers_side_by_side() -> None:
    decoder = Mlp3Decoder(10, SHAPE, width=32)
    hidden = torch.randn(1, 16, 6, 6, 10)
    together = decoder.mlp(hidden[0, 10, 2, 3]).view(4, 20)
    torch.testing.assert_close(decoder(hidden)[0, :, 5, 2, 3], together)


def test_mlp_begins_as_the_paper_says() -> None:
    decoder = Mlp3Decoder(96, SHAPE, width=128)
    linears = [module for module in decoder.mlp if isinstance(module, torch.nn.Linear)]
    assert [linear.out_features for linear in linears] == [128, 128, 80]
    for linear in linears:
        bound = math.sqrt(6 / (linear.in_features + linear.out_features))  # Glorot and Bengio's uniform
        assert linear.weight.abs().max().item() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert linear.bias.eq(0).all()


def test_linear_begins_as_the_released_code_does() -> None:
    decoder = LinearDecoder(512, SHAPE)
    weights = torch.cat([hook.weight.flatten() for hook in decoder.hooks])
    assert weights.std().item() == pytest.approx(0.1, rel=0.02)
    assert all(hook.bias.eq(0).all() for hook in decoder.hooks)


def test_frames_that_do_not_fill_the_time_steps_are_refused() -> None:
    with pytest.raises(BadInput, match=r"12 frames.*8 time steps"):
        LinearDecoder(10, SHAPE)(torch.randn(1, 12, 6, 6, 10))


def test_a_decoder_without_a_projection_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="project"):
        PerceptionDecoder(10, SHAPE)


@pytest.mark.parametrize("shape", [(4, 6, 9), (4, 6, 9, 2)], ids=["depth", "flow"])
def test_each_token_gives_the_pixels_of_its_own_patch(shape: tuple[int, ...]) -> None:
    head = PatchHead(10, (2, 3, 3), shape)
    resampled = torch.randn(2, 2, 3, 3, 10)
    found = head(resampled)
    assert found.shape == (2, *shape)
    # The patch of time step 1, row 2, column 0 is frames 2 and 3, lines 4 and 5, columns 0 to 2.
    patch = head.pixels(head.norm(resampled[1, 1, 2, 0]))
    torch.testing.assert_close(found[1, 2:4, 4:6, 0:3], patch.view(2, 2, 3, *shape[3:]))


def test_a_patch_by_hand() -> None:
    head = PatchHead(2, (1, 1, 1), (1, 1, 2))
    head.pixels.weight.data = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    head.pixels.bias.data = torch.tensor([0.5, 0.0])
    # The layer norm of (1, 3) is (-1, 1).
    found = head(torch.tensor([1.0, 3.0]).view(1, 1, 1, 1, 2))
    torch.testing.assert_close(found, torch.tensor([-0.5, 1.0]).view(1, 1, 1, 2), atol=1e-4, rtol=0)


def test_patch_heads_give_float32_under_autocast_and_from_half_weights() -> None:
    head, resampled = PatchHead(10, (2, 2, 2), (4, 4, 4)), torch.randn(1, 2, 2, 2, 10)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head(resampled), head(resampled.clone()))
        assert head(resampled).dtype == torch.float32
    assert head.to(torch.bfloat16)(resampled.bfloat16()).dtype == torch.float32


def test_a_map_that_patches_do_not_tile_is_refused() -> None:
    with pytest.raises(BadInput, match=r"4 × 7 × 6 .*2 × 3 × 3 tokens"):
        PatchHead(10, (2, 3, 3), (4, 7, 6))
