"""Each distance against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.train import RECIPES, LossConfig, Modality
from student_train.distill.losses import depth_pair, explicit_loss, latent_loss, masked_smooth_l1

PAPER, RELEASED = RECIPES["paper"], RECIPES["released"]
ALL = torch.tensor([True, True])


def smooth_l1(difference: float) -> float:
    """SmoothL1 with beta 1, from its definition."""
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def constant(shape: tuple[int, ...], by_time: list[float], time_axis: int) -> torch.Tensor:
    """A tensor that holds one value in each time step."""
    view = [1] * len(shape)
    view[time_axis] = len(by_time)
    return torch.tensor(by_time).view(view).expand(shape).clone()


def test_smooth_l1_is_quadratic_below_one_and_linear_above() -> None:
    prediction = torch.tensor([[[0.5, 3.0]]])  # (clip, time, element)
    loss = masked_smooth_l1(prediction, torch.zeros(1, 1, 2), valid=torch.tensor([True]), reduction="mean", clips=1)
    assert loss.item() == pytest.approx((0.125 + 2.5) / 2)


def test_latent_loss_of_the_paper_sums_time_steps() -> None:
    # F4D (clip 1, layer 2, time 3, y 2, x 2, channel 5); each time step has one distance everywhere.
    target = torch.zeros(1, 2, 3, 2, 2, 5)
    prediction = constant(target.shape, [0.5, 1.0, 4.0], time_axis=2)
    loss = latent_loss(prediction, target, valid=torch.tensor([True]), recipe=PAPER, clips=1)
    assert loss.item() == pytest.approx(smooth_l1(0.5) + smooth_l1(1.0) + smooth_l1(4.0))


def test_latent_loss_of_the_released_code_is_the_mean_over_everything() -> None:
    target = torch.randn(2, 4, 8, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    prediction = torch.randn(2, 4, 8, 3, 3, 5, generator=torch.Generator().manual_seed(1))
    loss = latent_loss(prediction, target, valid=ALL, recipe=RELEASED, clips=2)
    torch.testing.assert_close(loss, torch.nn.functional.smooth_l1_loss(prediction, target))


def test_latent_loss_of_the_paper_is_the_equation_written_out() -> None:
    target = torch.randn(2, 4, 8, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    prediction = torch.randn(2, 4, 8, 3, 3, 5, generator=torch.Generator().manual_seed(1))
    expected = sum(torch.nn.functional.smooth_l1_loss(prediction[:, :, n], target[:, :, n]) for n in range(8))
    loss = latent_loss(prediction, target, valid=ALL, recipe=PAPER, clips=2)
    torch.testing.assert_close(loss, torch.as_tensor(expected))


MASKED = LossConfig(recipe="released", mask_first_flow_frame=True).resolved()


@pytest.mark.parametrize(
    ("recipe", "expected"), [(PAPER, smooth_l1(2.0) * 15), (MASKED, smooth_l1(2.0))], ids=["paper", "released, but masked"]
)
def test_flow_leaves_its_first_frame_out(recipe: object, expected: float) -> None:
    target = torch.zeros(1, 16, 4, 4, 2)
    prediction = torch.full_like(target, 2.0)
    prediction[:, 0] = 1000.0
    loss = explicit_loss("flow", prediction, target, valid=torch.tensor([True]), recipe=recipe, clips=1)
    assert loss.item() == pytest.approx(expected)


def test_flow_keeps_its_first_frame_in_the_released_recipe() -> None:
    target = torch.zeros(1, 16, 4, 4, 2)
    prediction = torch.zeros_like(target)
    prediction[:, 0] = 16.5  # SmoothL1 is 16 there and 0 elsewhere
    loss = explicit_loss("flow", prediction, target, valid=torch.tensor([True]), recipe=RELEASED, clips=1)
    assert loss.item() == pytest.approx(1.0)


@pytest.mark.parametrize("modality", ["depth", "motion", "camray"])
def test_only_flow_leaves_a_frame_out(modality: str) -> None:
    target = torch.ones(1, 16, 4, 4)
    prediction = torch.zeros_like(target) if modality == "depth" else target.clone()  # log 1 = 0
    prediction[:, 0] += 16.5
    loss = explicit_loss(modality, prediction, target, valid=torch.tensor([True]), recipe=RELEASED, clips=1)
    assert loss.item() == pytest.approx(1.0, rel=1e-5)


def test_depth_is_compared_as_logarithms() -> None:
    log_depth = torch.full((1, 16, 2, 2), math.log(2.0))
    depth = torch.full((1, 16, 2, 2), 3.0)
    loss = explicit_loss("depth", log_depth, depth, valid=torch.tensor([True]), recipe=PAPER, clips=1)
    assert loss.item() == pytest.approx(16 * smooth_l1(math.log(3.0) - math.log(2.0)), rel=1e-5)


def test_released_depth_adds_its_offset_before_the_logarithm() -> None:
    log_depth, depth = torch.tensor([math.log(1e-8), math.log(5.0), 200.0]), torch.tensor([1e-8, 5.0, 7.0])
    student, teacher = depth_pair(log_depth, depth, RELEASED)
    assert student[0].item() == pytest.approx(math.log(2e-8), rel=1e-6)
    assert teacher[0].item() == pytest.approx(math.log(2e-8), rel=1e-6)
    assert student[2].item() == pytest.approx(200.0)  # exp(200) would be infinite


def test_linear_depth_is_compared_as_it_is() -> None:
    student, teacher = depth_pair(torch.tensor([math.log(2.0)]), torch.tensor([3.0]), LossConfig(depth="linear").resolved())
    assert (student.item(), teacher.item()) == (pytest.approx(2.0), 3.0)


def test_motion_is_compared_as_logits() -> None:
    target = torch.full((1, 16, 2, 2), 10.0)
    loss = explicit_loss("motion", torch.full_like(target, 20.0), target, valid=torch.tensor([True]), recipe=RELEASED, clips=1)
    assert loss.item() == pytest.approx(9.5)  # after a sigmoid the two would be equal


@pytest.mark.parametrize(("recipe", "times"), [(PAPER, 16), (RELEASED, 1)], ids=["paper", "released"])
def test_rays_are_compared_as_they_are(recipe: object, times: int) -> None:
    # Half of the clips are off by 0.5 in the direction's three channels and by 3 in the moment's.
    target = torch.zeros(2, 16, 4, 4, 6)
    prediction = torch.zeros_like(target)
    prediction[0, ..., :3], prediction[0, ..., 3:] = 0.5, 3.0
    loss = explicit_loss("camray", prediction, target, valid=ALL, recipe=recipe, clips=2)
    assert loss.item() == pytest.approx(times * (smooth_l1(0.5) + smooth_l1(3.0)) / 2 / 2)


def test_the_released_depth_is_its_equation_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    log_depth, depth = torch.randn(2, 16, 4, 4, generator=generator), torch.rand(2, 16, 4, 4, generator=generator) + 0.1
    expected = torch.nn.functional.smooth_l1_loss((log_depth.exp() + 1e-8).log(), (depth + 1e-8).log())
    torch.testing.assert_close(explicit_loss("depth", log_depth, depth, valid=ALL, recipe=RELEASED, clips=2), expected)


def test_a_loss_is_the_mean_over_the_clips_of_the_whole_step() -> None:
    target = torch.zeros(2, 16, 2, 2)
    one = explicit_loss("motion", torch.ones_like(target), target, valid=ALL, recipe=RELEASED, clips=8)
    assert one.item() == pytest.approx(smooth_l1(1.0) * 2 / 8)


@pytest.mark.parametrize("recipe", [PAPER, RELEASED], ids=["paper", "released"])
def test_a_clip_without_a_target_adds_nothing(recipe: object) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 16, 4, 4, generator=generator).requires_grad_()
    target = torch.randn(3, 16, 4, 4, generator=generator)
    target[1] = torch.nan
    valid = torch.tensor([True, False, True])
    loss = explicit_loss("motion", prediction, target, valid=valid, recipe=recipe, clips=valid.sum())
    loss.backward()
    alone = explicit_loss("motion", prediction[valid], target[valid], valid=ALL, recipe=recipe, clips=2)
    torch.testing.assert_close(loss, alone)
    assert prediction.grad is not None
    assert prediction.grad[1].eq(0).all()
    assert prediction.grad.isfinite().all()


def test_depths_that_are_missing_do_not_reach_the_gradient() -> None:
    log_depth = torch.zeros(2, 16, 2, 2, requires_grad=True)
    depth = torch.ones(2, 16, 2, 2)
    depth[0] = torch.nan
    loss = explicit_loss("depth", log_depth, depth, valid=torch.tensor([False, True]), recipe=PAPER, clips=1)
    loss.backward()
    assert loss.item() == 0
    assert log_depth.grad is not None
    assert log_depth.grad.isfinite().all()


def test_no_target_at_all_gives_zero_and_not_nan() -> None:
    valid = torch.tensor([False])
    loss = explicit_loss(
        "motion", torch.ones(1, 16, 2, 2), torch.full((1, 16, 2, 2), torch.nan), valid=valid, recipe=PAPER, clips=valid.sum()
    )
    assert loss.item() == 0


def test_a_wanted_target_that_is_nan_is_not_hidden() -> None:
    target = torch.zeros(1, 16, 2, 2)
    target[0, 3, 0, 0] = torch.nan
    loss = explicit_loss("motion", torch.zeros_like(target), target, valid=torch.tensor([True]), recipe=PAPER, clips=1)
    assert loss.isnan()


def test_half_precision_predictions_are_compared_in_single() -> None:
    target = torch.zeros(1, 16, 8, 8)
    loss = explicit_loss(
        "motion", torch.full_like(target, 300.0).half(), target, valid=torch.tensor([True]), recipe=PAPER, clips=1
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(16 * 299.5)


@given(
    data=st.data(), modality=st.sampled_from(["depth", "flow", "motion", "camray"]), name=st.sampled_from(["paper", "released"])
)
@settings(max_examples=20, deadline=None)
def test_weights_scale_each_pixel_and_nothing_else(data: st.DataObject, modality: Modality, name: str) -> None:
    """All 1 is unweighted; a weight scales its pixel's gradient; a pixel of weight 0 has none, even if its target is NaN."""
    shape = (2, 3, 2, 2, *{"flow": (2,), "camray": (6,)}.get(modality, ()))
    numbers = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    raw = torch.randn(shape, generator=numbers)
    target = torch.rand(shape, generator=numbers) + 0.1
    weights = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=24, max_size=24))).view(2, 3, 2, 2)

    def of(target: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = raw.clone().requires_grad_()
        loss = explicit_loss(modality, prediction, target, valid=ALL, recipe=RECIPES[name], clips=2, weights=weights)
        (gradient,) = torch.autograd.grad(loss, prediction)
        return loss.detach(), gradient

    plain, gradient = of(target, None)
    torch.testing.assert_close(of(target, torch.ones(2, 3, 2, 2)), (plain, gradient))
    per_element = weights.view(2, 3, 2, 2, *[1] * (raw.dim() - 4)).expand(shape)
    weighted, scaled = of(torch.where(per_element > 0, target, torch.nan), weights)
    torch.testing.assert_close(scaled, per_element * gradient)
    assert torch.isfinite(weighted)
    assert weighted <= plain
