"""The packaged teacher sees scenes that it was not trained on; and what trained it: its losses, its data, its steps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import typer
from l4p_tiny import FIRST_SEED, scores
from typer.testing import CliRunner

from schemas.errors import BadInput
from schemas.job import TeacherJob
from teacher_cache.scenes import random_scene, render_scene
from teacher_cache.scenes.dataset import clip_seconds
from teacher_cache.teachers.heads.dpt import canonical_name
from teacher_cache.teachers.l4p.config import MAPS
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import FAMILY, PRESETS
from teacher_cache.teachers.l4p.tiny.clips import render_clips
from teacher_cache.teachers.l4p.tiny.train import (
    Settings,
    Training,
    batches,
    begin_with_frequencies,
    begin_with_motion_energy,
    losses,
    main,
    new_model,
    save_weights,
    silog,
)

CLIPS = 6


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    seeds = range(FIRST_SEED, FIRST_SEED + CLIPS)
    return render_clips(folder, seeds, size=112, grid=8, workers=1, advance=lambda _: None)


def test_the_packaged_teacher_sees_what_is_there(clips):
    found = scores(FAMILY.load(TeacherJob(family="l4p", preset="tiny"), "cpu"), clips)
    for metric, share in (("depth_abs_rel", 0.4), ("camray_angle", 0.4), ("flow_epe", 0.7)):
        assert found[metric]["mean"] < share * found[metric]["constant"], metric
    assert found["motion_iou"]["mean"] > 2 * found["motion_iou"]["constant"]


def test_rendered_clips_are_the_renderers_truth_and_are_kept(clips, tmp_path):
    seed = FIRST_SEED + 1
    truth = render_scene(random_scene(seed), np.linspace(0, clip_seconds(seed), 16), height=112, width=112, ray_grid=(8, 8))
    np.testing.assert_array_equal(clips.rgb[1], truth.rgb)
    np.testing.assert_allclose(clips.depth[1], truth.depth, rtol=1e-3)
    np.testing.assert_array_equal(clips.camray[1], truth.camray)
    assert np.isnan(clips.flow[:, 0]).all()
    told = []
    again = [render_clips(tmp_path, range(2), size=28, grid=2, workers=1, advance=told.append) for _ in range(2)]
    assert told == [1, 1]
    np.testing.assert_array_equal(again[0].rgb, again[1].rgb)
    with pytest.raises(BadInput, match="clips 2, not 3"):
        render_clips(tmp_path, range(3), size=28, grid=2, workers=1, advance=told.append)


def test_silog_forgives_most_of_a_wrong_scale():
    depth = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    assert silog(depth.log(), depth) < 1e-3
    # d = log 2 everywhere: sqrt(log² 2 · (1 - 0.85)).
    assert float(silog(depth.log() + math.log(2), depth)) == pytest.approx(math.log(2) * math.sqrt(0.15), rel=1e-5)


def test_flow_that_nobody_knows_is_left_out():
    truth = {"depth": torch.ones(1, 2, 3, 3), "flow": torch.zeros(1, 2, 3, 3, 2), "motion": torch.zeros(1, 2, 3, 3)}
    truth["camray"] = torch.zeros(1, 16, 2, 2, 6)
    truth["flow"][:, 0] = torch.nan
    raw = {"depth": torch.zeros(1, 2, 3, 3), "flow": torch.full((1, 2, 3, 3, 2), 2.0), "motion": torch.zeros(1, 2, 3, 3)}
    raw["camray"] = torch.full((1, 16, 2, 2, 6), 0.5)
    found = {name: float(loss) for name, loss in losses(raw, truth).items()}
    assert found == pytest.approx({"depth": 1e-4, "flow": 2.0, "motion": math.log(2), "camray": 0.5})


def test_a_mirrored_clip_has_mirrored_truth(clips):
    """Of every batch, what flow says of a pixel and what the rays say of the camera agree with the frames, mirrored or not."""
    frames, truth, span = next(batches(clips, Settings(batch=CLIPS)))
    assert tuple(frames.shape) == (CLIPS, 3, 16, 112, 112)
    mirrored = 0
    for clip in range(CLIPS):
        wanted = [(row, flip) for row in range(CLIPS) for flip in (1, -1)]
        depths = {(row, flip): clips.depth[row][span][..., ::flip].astype(np.float32) for row, flip in wanted}
        row, flip = min(wanted, key=lambda w: np.abs(depths[w] - truth["depth"][clip].numpy()).mean())
        mirrored += flip == -1
        sign = np.array([flip, 1], np.float32)
        np.testing.assert_array_equal(truth["flow"][clip], clips.flow[row][span][:, :, ::flip].astype(np.float32) * sign)
        np.testing.assert_allclose(truth["camray"][clip][..., 0], flip * clips.camray[row][:, :, ::flip, 0])
        light = frames[clip].mean(0).numpy(), clips.rgb[row][:, :, ::flip].mean(-1)
        assert np.corrcoef(light[0].ravel(), light[1].ravel())[0, 1] > 0.95
    assert 0 < mirrored < CLIPS


def test_it_begins_with_one_frequency_a_channel_and_sees_which_way_a_pattern_goes():
    model = L4P(PRESETS["tiny"])
    encoder = model.video_encoder
    torch.manual_seed(0)
    with torch.no_grad():
        filters = begin_with_frequencies(encoder.patch_embed.proj)
        begin_with_motion_energy(encoder.blocks[0], filters)
    assert len(filters) == 36
    channels = [channel for f in filters for channel in (*f.cosine, *f.sine)]
    assert len(set(channels)) == 4 * 36
    waves = encoder.patch_embed.proj.weight[channels]
    assert all((wave[:, 0] == 0).all() != (wave[:, 1] == 0).all() for wave in waves)
    power = torch.fft.fft2(waves.sum((1, 2))).abs().flatten(1)
    assert (power.topk(2).values.square().sum(1) / power.square().sum(1)).min() > 0.99  # a frequency and its mirror image

    def energies(shift: float) -> torch.Tensor:
        """What the first block adds for a pattern whose frames lie ``shift`` pixels apart: (token, frequency)."""
        x = torch.arange(112) * 2 * math.pi / 14
        frames = torch.stack([torch.cos(x - shift * t * 2 * math.pi / 14).expand(112, 112) for t in range(16)])
        clip = frames.expand(1, 3, 16, 112, 112)
        return encoder(clip, [1])[1][0, :, 8:44] - encoder(clip[:, :, :1].expand_as(clip), [1])[1][0, :, 8:44]

    right, left = energies(2.0), energies(-2.0)
    strongest = int(right.abs().mean(0).argmax())
    assert (right[:, strongest].mean() > 0) != (left[:, strongest].mean() > 0)


# A quarter of the height and width, and half of the blocks: a step of the real one takes seconds, on some processors minutes.
QUARTER = PRESETS["tiny"].model_copy(update={"image_size": 28, "depth": 4, "hooks": (1, 2, 3, 3)})


@pytest.fixture(scope="module")
def quarter_clips(tmp_path_factory):
    return render_clips(tmp_path_factory.mktemp("quarter"), range(4), size=28, grid=2, workers=1, advance=lambda _: None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_steps_change_every_part_and_what_is_saved_is_read(quarter_clips, tmp_path, precision):
    model = new_model(0, QUARTER)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    Training(model, Settings(steps=2, batch=2, warmup=1, precision=precision)).run(
        quarter_clips, lambda parts: seen.append(set(parts))
    )
    assert seen == [set(MAPS), set(MAPS)]
    still = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    # What nothing reads: the blocks after the last hook, the final norm, and the coarsest fusion's unused unit.
    unused = ("video_encoder.blocks.3", "video_encoder.norm", "refinenet4.resConfUnit1")
    assert all(any(part in name for part in unused) for name in still), still
    assert not any(p.requires_grad for p in model.parameters())
    save_weights(model, tmp_path / "weights.safetensors")
    read = L4P(QUARTER).load_checkpoint(tmp_path / "weights.safetensors").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(read[name], tensor.half().float()), canonical_name(name)


class Stopped(Exception):
    pass


def test_a_stopped_training_goes_on_as_if_nothing_had_stopped_it(quarter_clips, tmp_path):
    settings = Settings(steps=2, batch=2, warmup=1, precision="float32")
    undisturbed, losses_of_whole = Training(new_model(0, QUARTER), settings), []
    undisturbed.run(quarter_clips, losses_of_whole.append)

    stopped, seen = Training(new_model(0, QUARTER), settings), []

    def stop_after_one(parts):
        seen.append(parts)
        stopped.save(tmp_path / "training.pt")
        raise Stopped

    with pytest.raises(Stopped):
        stopped.run(quarter_clips, stop_after_one)
    again = Training(new_model(1, QUARTER), settings)
    again.load(tmp_path / "training.pt")
    again.run(quarter_clips, seen.append)
    assert seen == losses_of_whole
    assert again.step == 2
    found = again.model.state_dict()
    for name, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(tensor, found[name]), name


def test_the_script_trains_and_a_folder_of_other_settings_is_refused(tmp_path, command):
    options = ["--out", str(tmp_path / "out"), "--clips", "2"]
    options += ["--batch", "1", "--precision", "float32", "--workers", "1"]
    done = command("python", "-m", "teacher_cache.teachers.l4p.tiny.train", *options, "--steps", "1")
    assert done.status == 0, done.err
    L4P(PRESETS["tiny"]).load_checkpoint(tmp_path / "out" / "weights.safetensors")
    (line,) = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert {"step", *MAPS} <= set(json.loads(line))
    script = typer.Typer()
    script.command()(main)
    refused = CliRunner().invoke(script, [*options, "--steps", "2"])
    assert (refused.exit_code, "was made with steps 1, not 2" in refused.stderr) == (2, True)
