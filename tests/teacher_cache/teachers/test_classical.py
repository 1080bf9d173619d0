"""The classical teacher: optical flow and a foreground model by OpenCV, in a system that expects a network's features."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
import torch
from conftest import Command, Jobs, tree
from decoding import decode_clip
from log_files import contents

from schemas.errors import BadInput, CouldNotRun, SignalMissing
from schemas.job import Job, TeacherJob
from schemas.signal import SIGNALS
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.scenes import frame_times, random_scene, render_scene
from teacher_cache.store.verify import verify
from teacher_cache.teachers.classical import FAMILY, backward_flow, motion_logits
from teacher_cache.teachers.registry import family

SMALL = TeacherJob(family="classical", preset="px112")


def rendered(seed: int, *, moving_camera: bool, fps: float = 12):
    return render_scene(random_scene(seed, moving_camera=moving_camera), frame_times(16, fps), height=112, width=112)


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.from_numpy(np.stack([rendered(seed, moving_camera=bool(seed)).rgb for seed in range(2)]))


def test_it_is_found_by_its_name_and_says_what_it_is():
    assert family("classical") is FAMILY
    described = FAMILY.identify(SMALL)
    assert described.identity.weights == f"none: classical, opencv {cv2.__version__}"
    assert "DIS" in described.identity.config["method"]["flow"]
    assert "KNN" in described.identity.config["method"]["motion"]
    assert FAMILY.load(SMALL, "cpu").identity == described.identity
    assert FAMILY.load(SMALL, "cpu").heads() is None


def test_it_gives_the_signals_it_describes(clips):
    teacher = FAMILY.load(SMALL, "cpu")
    raw = teacher.raw(clips, ["flow", "motion"])
    assert {s: tuple(x.shape) for s, x in raw.items()} == {s: (2, *shape) for s, shape in teacher.shapes.items()}
    assert all(len(shape) == len(SIGNALS[s].dims) for s, shape in teacher.shapes.items())
    assert {x.dtype for x in raw.values()} == {torch.float32}
    assert all(x.isfinite().all() for x in raw.values())
    assert set(teacher.raw(clips, ["motion"])) == {"motion"}


def test_a_clip_gives_the_same_whatever_came_before_and_however_many_threads(clips):
    before = FAMILY.load(SMALL, "cpu").raw(clips, ["flow", "motion"])
    cv2.setRNGSeed(5)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    alone = FAMILY.load(SMALL, "cpu").raw(clips[1:], ["flow", "motion"])
    assert cv2.getNumThreads() == 2
    cv2.setNumThreads(threads)
    assert all(torch.equal(alone[s][0], before[s][1]) for s in before)

    other_thread = {}
    work = threading.Thread(target=lambda: other_thread.update(FAMILY.load(SMALL, "cpu").raw(clips, ["flow", "motion"])))
    work.start()
    work.join()
    assert all(torch.equal(other_thread[s], before[s]) for s in before)


def test_flow_of_a_translated_texture_is_the_translation():
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    # The window moves 2 right and 1 down in the texture with every frame, so what it shows moves 2 left and 1 up:
    # a point was 2 to the right and 1 below in the frame before.
    clip = np.stack([texture[t : t + 112, 2 * t : 2 * t + 112] for t in range(16)])
    flow = backward_flow(clip)
    assert not flow[0].any()
    inner = flow[1:, 8:-8, 8:-8]
    assert np.abs(inner - [2, 1]).mean() < 0.05
    assert np.abs(inner - [2, 1]).max() < 0.5


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_flow_of_a_scene_is_near_its_truth(seed):
    truth = rendered(seed, moving_camera=True)
    flow = backward_flow(truth.rgb)
    seen = truth.visible & np.isfinite(truth.flow).all(-1)
    error = np.linalg.norm(flow - truth.flow, axis=-1)[seen].mean()
    zero = np.linalg.norm(truth.flow, axis=-1)[seen].mean()
    assert error < 0.4 * zero


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_motion_before_a_still_camera_is_near_its_truth(seed):
    truth = rendered(seed, moving_camera=False, fps=8)
    found = motion_logits(truth.rgb) > 0
    overlap = (found & truth.motion).sum() / (found | truth.motion).sum()
    share = truth.motion.mean()
    assert overlap > 0.5 > 1.5 * share  # marking every pixel gives ``share``, marking them at random gives less


def test_a_still_clip_has_neither_flow_nor_motion():
    still = np.repeat(rendered(1, moving_camera=False).rgb[:1], 16, axis=0)
    assert np.abs(backward_flow(still)).max() < 0.01
    np.testing.assert_allclose(motion_logits(still), np.log(0.5 / 25.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preset": "giant"}, "no preset 'giant'; it has px224, px112"),
        ({"weights": "/models/l4p.ckpt"}, "is not learned and takes no weights"),
        ({"dtype": "bfloat16"}, "computes in float32 alone"),
    ],
)
def test_a_job_for_another_family_is_refused(change, said):
    with pytest.raises(BadInput, match=said):
        FAMILY.identify(SMALL.model_copy(update=change))


def test_what_it_cannot_do_is_refused(clips):
    teacher = FAMILY.load(SMALL, "cpu")
    with pytest.raises(CouldNotRun, match="runs on the CPU, got 'cuda'"):
        FAMILY.load(SMALL, "cuda")
    with pytest.raises(SignalMissing, match="does not give depth; it gives flow, motion"):
        teacher.raw(clips, ["depth"])
    with pytest.raises(BadInput, match=r"takes uint8 frames of shape \(batch, 16, 112, 112, 3\), got float32"):
        teacher.raw(clips.float(), ["flow"])


# --- in the whole system ---


def classical(jobs: Jobs, store, **changes) -> Job:
    teacher = {"family": "classical", "preset": "px112"}
    return Job.model_validate(jobs.value(store, **({"teacher": teacher, "signals": ["flow", "motion"]} | changes)))


def test_a_job_that_asks_it_for_depth_is_refused(jobs, tmp_path):
    with pytest.raises(BadInput, match="teacher classical gives flow, motion; the job asks for depth"):
        run_job(classical(jobs, tmp_path / "store", signals=["depth", "flow"]))
    assert not (tmp_path / "store").exists()


def test_a_job_runs_verifies_reads_and_shows(jobs, videos, tmp_path, command: Command):
    store = tmp_path / "store"
    report = run_job(classical(jobs, store))
    assert report.clips.committed == 4
    assert not verify(str(store)).findings
    run_job(classical(jobs, tmp_path / "again"))
    assert contents(tree(store)) == contents(tree(tmp_path / "again"))

    cache = open_cache(str(store))
    assert cache.heads() is None
    read = cache.read(["flow", "motion"], ["scene-1.mp4"])
    clip = decode_clip(str(videos / "scene-1.mp4"), cache.recipe.clips).frames
    np.testing.assert_allclose(read["flow"][0], backward_flow(clip), atol=1 / 32 + 1e-4)
    np.testing.assert_allclose(read["motion"][0], motion_logits(clip), atol=1 / 16 + 1e-4)

    shown = command("teacher-cache", "view", str(store))
    assert shown.status == 0, shown.err
    assert command("teacher-cache", "status", str(store)).status == 0
