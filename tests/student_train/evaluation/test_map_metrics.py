"""Scores of maps: each against values worked out by hand, and the laws that hold for all maps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from student_train.data.pictures import aligned_depth
from student_train.evaluation.map_metrics import (
    METRICS,
    SCORED,
    camray_scores,
    depth_scores,
    f4d_scores,
    flow_scores,
    motion_scores,
)

SHAPES = {
    "f4d": (2, 3, 4, 2, 2, 5),
    "depth": (2, 4, 3, 3),
    "flow": (2, 4, 3, 3, 2),
    "motion": (2, 4, 3, 3),
    "camray": (2, 4, 2, 2, 6),
}
seeds = st.integers(0, 2**32 - 1)
factors = st.floats(1e-3, 1e3)


def noise(signal: str, seed: int) -> torch.Tensor:
    values = torch.randn(SHAPES[signal], generator=torch.Generator().manual_seed(seed))
    return values.exp() if signal == "depth" else values


def clip(*values: float) -> torch.Tensor:
    """One clip of one frame, one row of pixels: (1, 1, 1, pixel)."""
    return torch.tensor(values).view(1, 1, 1, -1)


def test_every_metric_is_given_by_its_signal() -> None:
    for signal, scored in SCORED.items():
        found = scored(noise(signal, 0), noise(signal, 1))
        assert set(found) == {name for name, metric in METRICS.items() if metric.signal == signal}
        for scores in found.values():
            assert scores.student.shape == scores.baseline.shape == (2,)


def test_depth_is_scaled_by_medians_first() -> None:
    # Medians 2 and 20: the scale is 1/10, and the depths 0.5, 2, 4 meet 1, 2, 4.
    student, teacher = clip(5.0, 20.0, 40.0), clip(1.0, 2.0, 4.0)
    assert aligned_depth(student, teacher).flatten().tolist() == pytest.approx([0.5, 2.0, 4.0])
    scores = depth_scores(student, teacher)
    assert scores["depth_abs_rel"].student.item() == pytest.approx((0.5 / 1) / 3)
    assert scores["depth_delta_125"].student.item() == pytest.approx(2 / 3)
    # Always 2: off by 1 of 1, 0 of 2 and 2 of 4.
    assert scores["depth_abs_rel"].baseline.item() == pytest.approx((1 + 0 + 0.5) / 3)
    assert scores["depth_delta_125"].baseline.item() == pytest.approx(1 / 3)


def test_each_clip_has_its_own_scale_and_its_frames_share_one() -> None:
    teacher = torch.ones(2, 2, 1, 2)
    per_clip = teacher * torch.tensor([3.0, 0.1]).view(2, 1, 1, 1)
    assert depth_scores(per_clip, teacher)["depth_abs_rel"].student.tolist() == pytest.approx([0, 0], abs=1e-6)
    drifting = teacher * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    assert depth_scores(drifting, teacher)["depth_abs_rel"].student.tolist() == pytest.approx([0.5, 0.5])


def test_delta_is_strict_and_symmetric() -> None:
    teacher = clip(1.0, 1.0, 1.0, 1.0, 1.0)
    found = depth_scores(clip(1.0, 1.0, 1.0, 1.25, 0.8), teacher)["depth_delta_125"].student
    assert found.item() == pytest.approx(3 / 5)


@given(seeds, factors)
def test_depth_scores_do_not_see_the_students_scale(seed: int, factor: float) -> None:
    student, teacher = noise("depth", seed), noise("depth", seed + 1)
    for name, scores in depth_scores(student, teacher).items():
        scaled = depth_scores(student * factor, teacher)[name].student
        # A pixel at the threshold itself may fall to either side.
        torch.testing.assert_close(scaled, scores.student, rtol=1e-4, atol=1 / 36 + 1e-4 if "delta" in name else 1e-4)


@given(seeds, factors)
def test_depth_scores_do_not_see_the_teachers_scale(seed: int, factor: float) -> None:
    student, teacher = noise("depth", seed), noise("depth", seed + 1)
    before, after = depth_scores(student, teacher), depth_scores(student, teacher * factor)
    torch.testing.assert_close(after["depth_abs_rel"].student, before["depth_abs_rel"].student, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after["depth_abs_rel"].baseline, before["depth_abs_rel"].baseline, rtol=1e-4, atol=1e-4)


def test_flow_is_scored_in_pixels_without_its_first_frame() -> None:
    teacher = torch.zeros(1, 3, 1, 2, 2)
    teacher[:, 1:] = torch.tensor([6.0, 8.0])  # 10 pixels long
    student = teacher + torch.tensor([3.0, 4.0])  # 5 pixels off
    student[:, 0] = 1e6
    teacher[:, 0] = torch.nan
    scores = flow_scores(student, teacher)["flow_epe"]
    assert (scores.student.item(), scores.baseline.item()) == (pytest.approx(5), pytest.approx(10))


def test_motion_is_intersection_over_union() -> None:
    scores = motion_scores(clip(1.0, 1.0, -1.0, -1.0), clip(-1.0, 2.0, 2.0, -1.0))["motion_iou"]
    assert scores.student.item() == pytest.approx(1 / 3)
    assert scores.baseline.item() == pytest.approx(2 / 4)


def test_a_probability_of_one_half_does_not_move() -> None:
    assert motion_scores(clip(0.0, 1.0), clip(1.0, 1.0))["motion_iou"].student.item() == pytest.approx(1 / 2)


def test_motion_without_anything_to_find_has_no_score() -> None:
    still, moving = clip(-1.0, -1.0), clip(-1.0, 1.0)
    assert motion_scores(still, still)["motion_iou"].student.isnan()
    assert motion_scores(moving, still)["motion_iou"].student.item() == 0
    assert motion_scores(still, moving)["motion_iou"].student.item() == 0


@given(seeds)
def test_iou_is_symmetric_and_between_0_and_1(seed: int) -> None:
    a, b = noise("motion", seed), noise("motion", seed + 1)
    one, other = motion_scores(a, b)["motion_iou"].student, motion_scores(b, a)["motion_iou"].student
    assert torch.equal(one, other)
    assert ((one >= 0) & (one <= 1)).all()


def rays(*direction_and_moment: float) -> torch.Tensor:
    return torch.tensor(direction_and_moment, dtype=torch.float32).view(1, 1, 1, 1, 6)


@pytest.mark.parametrize(
    ("direction", "degrees"),
    [((1, 0, 0), 0), ((5, 0, 0), 0), ((1, 1, 0), 45), ((0, 0, 2), 90), ((-1, 0, 0), 180), ((math.sqrt(3), 0, 1), 30)],
)
def test_angles_between_rays(direction: tuple[float, float, float], degrees: float) -> None:
    angle = camray_scores(rays(*direction, 0, 0, 0), rays(1, 0, 0, 0, 0, 0))["camray_angle"].student
    assert angle.item() == pytest.approx(degrees, abs=1e-4)


def test_a_hundredth_of_a_degree_is_still_seen() -> None:
    small = math.radians(0.01)
    angle = camray_scores(rays(math.cos(small), math.sin(small), 0, 0, 0, 0), rays(1, 0, 0, 0, 0, 0))["camray_angle"].student
    assert angle.item() == pytest.approx(0.01, rel=1e-4)


def test_a_ray_without_direction_is_no_perfect_ray() -> None:
    assert camray_scores(rays(0, 0, 0, 0, 0, 0), rays(1, 0, 0, 0, 0, 0))["camray_angle"].student.isnan()


def test_moments_are_compared_by_length() -> None:
    scores = camray_scores(rays(1, 0, 0, 1, 1, 1), rays(1, 0, 0, 1, 4, 5))["camray_moment"]
    assert (scores.student.item(), scores.baseline.item()) == (pytest.approx(5), pytest.approx(math.sqrt(42)))


def test_the_guess_for_rays_is_their_mean_direction() -> None:
    teacher = torch.zeros(1, 2, 1, 1, 6)
    teacher[0, 0, ..., 0] = 3.0  # along x, of any length
    teacher[0, 1, ..., 1] = 0.5  # along y
    assert camray_scores(teacher, teacher)["camray_angle"].baseline.item() == pytest.approx(45, abs=1e-4)


@given(seeds, factors)
def test_angles_do_not_see_the_length_of_directions_nor_a_turn_of_both(seed: int, factor: float) -> None:
    student, teacher = noise("camray", seed), noise("camray", seed + 1)
    before = camray_scores(student, teacher)
    torch.testing.assert_close(
        camray_scores(student * factor, teacher)["camray_angle"].student, before["camray_angle"].student, rtol=1e-4, atol=1e-3
    )
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))

    def turned(camray: torch.Tensor) -> torch.Tensor:
        return torch.cat([camray[..., :3] @ turn, camray[..., 3:] @ turn], dim=-1)

    for name, scores in camray_scores(turned(student), turned(teacher)).items():
        torch.testing.assert_close(scores.student, before[name].student, rtol=1e-4, atol=1e-3)


def test_latents_are_compared_by_smooth_l1_and_cosine() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 2, 1, 1, 2)  # two tokens
    student = torch.tensor([[3.0, 0.0], [0.0, 1.5]]).view(1, 1, 2, 1, 1, 2)
    scores = f4d_scores(student, teacher)
    assert scores["f4d_smooth_l1"].student.item() == pytest.approx((1.5 + 0 + 0 + 0.125) / 4)
    assert scores["f4d_cosine"].student.item() == pytest.approx(1)
    # The mean token is (½, ½): half off everywhere, at 45° to both.
    assert scores["f4d_smooth_l1"].baseline.item() == pytest.approx(0.125)
    assert scores["f4d_cosine"].baseline.item() == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("signal", sorted(SCORED))
@given(seed=seeds)
def test_the_teacher_itself_has_the_best_score(signal: str, seed: int) -> None:
    teacher = noise(signal, seed)
    for name, scores in SCORED[signal](teacher, teacher).items():
        best = 1.0 if METRICS[name].better == "higher" else 0.0
        torch.testing.assert_close(scores.student, torch.full((2,), best), rtol=0, atol=1e-3)


@pytest.mark.parametrize("signal", sorted(SCORED))
@given(seed=seeds)
def test_clips_are_scored_apart(signal: str, seed: int) -> None:
    student, teacher = noise(signal, seed), noise(signal, seed + 1)
    together = SCORED[signal](student, teacher)
    for index in range(2):
        alone = SCORED[signal](student[index : index + 1], teacher[index : index + 1])
        for name, scores in alone.items():
            torch.testing.assert_close(scores.student[0], together[name].student[index], equal_nan=True)
            torch.testing.assert_close(scores.baseline[0], together[name].baseline[index], equal_nan=True)


@pytest.mark.parametrize("signal", ["f4d", "depth", "flow", "camray"])
def test_what_is_not_a_number_is_not_hidden(signal: str) -> None:
    student, teacher = noise(signal, 0), noise(signal, 1)
    student[0, 1] = torch.nan
    for scores in SCORED[signal](student, teacher).values():
        assert scores.student.isnan().tolist() == [True, False]
