"""The perception decoders: shapes, what is sampled, how it is resized, and how they begin."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from schemas.errors import BadInput
from schemas.train import DecoderConfig
from student_train.perception import LinearDecoder, Mlp3Decoder, perception_decoder

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
    decoder = LinearDecoder(10, (1, 8, 4, 4, 10))
    hidden = torch.randn(1, 16, 4, 4, 10)
    torch.testing.assert_close(decoder.resample(hidden), hidden[:, [0, 2, 4, 6, 8, 10, 12, 14]])


def test_space_is_resized_bilinearly_frame_by_frame() -> None:
    decoder = LinearDecoder(10, (1, 8, 16, 16, 10))
    hidden = torch.randn(2, 16, 9, 9, 10)
    resampled = decoder.resample(hidden)  # (clip, token_time, token_y, token_x, hidden)
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
