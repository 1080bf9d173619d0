"""Held-out conversations: their losses, the best student, pictures of its maps; and steps that are skipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from board_events import read_events
from conftest import Jobs
from safetensors.torch import load_file

from schemas.errors import BadInput, CouldNotRun
from schemas.job import Job
from schemas.train import FitReport, TrainConfig
from student_train.data.conversations import Conversation
from student_train.data.samples import Sample
from student_train.training.checkpoints import Checkpoints
from student_train.training.fit import build, fit, prepared
from student_train.training.ranks import Ranks
from student_train.training.stores import opened
from student_train.training.trainer import P4DTrainer
from student_train.training.validation import held_out
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job

RAYS_ONLY = {"weights": {"depth": 0, "flow": 0, "motion": 0}}
VALIDATION = {"share": 0.3, "every": 2, "pictures": 1}


def config(store: Path, output: Path, **changes: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "store": str(store), "output": str(output), "data": {"video_root": "/"}, "decoder": {"hidden": 64}, "loss": RAYS_ONLY,
        "optim": {"learning_rate": 2e-3, "schedule": "constant_with_warmup"}, "validation": VALIDATION, "steps": 5, "batch": 1,
    }  # fmt: skip
    return TrainConfig.model_validate(base | changes)


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def validations(output: Path) -> dict[int, dict[str, float]]:
    found = [(line["step"], line["validation"]) for line in lines(output) if "validation" in line]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.fixture(scope="module")
def explodes_after_two(tmp_path_factory: pytest.TempPathFactory, tiny_store: Path) -> Iterator[FitReport]:
    """A run whose rate rises a thousandfold after its second step, so that its best student is that of step 2."""
    output = tmp_path_factory.mktemp("validated") / "run"
    step = P4DTrainer.get_batch_samples

    def with_another_rate(self: P4DTrainer, *args: Any) -> Any:
        if self.state.global_step >= 2:
            for group in self.optimizer.param_groups:
                group["lr"] = 1.0
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(output.parent / "board"))
        patch.setattr(P4DTrainer, "get_batch_samples", with_another_rate)
        yield fit(config(tiny_store, output, report_to=["tensorboard"]))


def test_held_out_losses_are_measured_before_and_as_it_learns(explodes_after_two: FitReport) -> None:
    found = validations(Path(explodes_after_two.output))
    assert list(found) == [0, 2, 4, 5]
    for losses in found.values():
        assert losses["loss"] == pytest.approx(losses["sft"] + 0.5 * losses["ld"] + 0.1 * 0.05 * losses["ed_camray"])
    assert found[2]["loss"] < found[0]["loss"] < found[4]["loss"]
    assert explodes_after_two.samples == 2  # of 4: 0.3 of them are two


def test_the_run_holds_the_best_student_and_its_checkpoint(explodes_after_two: FitReport) -> None:
    output, best = Path(explodes_after_two.output), explodes_after_two.validation
    assert best is not None
    assert (best.step, best.losses) == (2, validations(output)[2])
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000002"]
    kept = Checkpoints(output / "checkpoints", 1).at(2).weights()
    saved = load_file(output / "student" / "model.safetensors")
    norm = "llm.model.norm.weight"
    torch.testing.assert_close(saved[norm], kept[f"student.model.{norm}"], rtol=0, atol=0)


def test_maps_are_drawn_and_shown_as_the_losses_are(explodes_after_two: FitReport) -> None:
    output = Path(explodes_after_two.output)
    drawn = sorted(str(path.relative_to(output)) for path in output.rglob("*.png"))
    assert drawn == [f"validation/step-{step:08d}/clip-0.png" for step in (0, 2, 4, 5)]
    (events,) = (output.parent / "board").glob("events.*")
    told = [(event.step, value) for event in read_events(events) for value in event.summary.value]
    pictures = {step: value.image for step, value in told if value.tag == "eval/clip-0"}
    assert list(pictures) == [0, 2, 4, 5]
    assert all(picture.width > 300 and picture.height > 100 for picture in pictures.values())
    scalars = {(step, value.tag): value.simple_value for step, value in told}
    assert scalars[2, "eval/loss"] == pytest.approx(validations(output)[2]["loss"])
    assert scalars[3, "train/tokens_per_second"] > 0


def test_a_line_says_how_much_was_computed_in_its_seconds(explodes_after_two: FitReport) -> None:
    line = next(line for line in lines(Path(explodes_after_two.output)) if line["step"] == 3)
    tokens = line["tokens_per_second"] / line["clips_per_second"]  # two quotients by the same seconds, each rounded
    assert tokens == pytest.approx(1079)  # the tokens of a clip and its question
    # Forward and backward, 2 and 4 a weight that trains and 2 a weight that does not, for each token; the tower sees 64 tokens
    # a frame as well, and heads and decoder more: what is sure is a range.
    per_token = line["tflops_per_second"] * 1e12 / line["tokens_per_second"]
    matrices = explodes_after_two.parameters["llm"]
    assert 4 * matrices < per_token < 100 * matrices
    assert line["padding"] == 0


def test_it_goes_on_with_what_it_had_measured(explodes_after_two: FitReport, tiny_store: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(explodes_after_two.output, output)
    (output / "result.json").unlink()
    report = fit(config(tiny_store, output), resume=True)
    found, before = validations(output), validations(Path(explodes_after_two.output))
    assert list(found) == [0, 2, 4, 5]
    assert (found[0], found[2]) == (before[0], before[2])
    assert report.validation is not None
    assert report.validation.losses["loss"] == min(losses["loss"] for step, losses in found.items() if step)


def test_the_last_student_and_other_files_where_they_are_asked_for(tiny_store: Path, tmp_path: Path, videos: Path) -> None:
    turns = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    samples = [{"conversations": turns}, {"video": str(videos / "scene-1.mp4"), "conversations": turns}]
    (tmp_path / "held.json").write_text(json.dumps(samples), encoding="utf-8")
    validation = {"conversations": str(tmp_path / "held.json"), "every": 9, "student": "last"}
    report = fit(config(tiny_store, tmp_path / "run", mode="latent", steps=1, validation=validation))
    assert report.samples == 4
    assert report.validation is not None
    assert (report.validation.step, set(report.validation.losses)) == (1, {"loss", "sft", "ld"})
    assert not list((tmp_path / "run").rglob("*.png"))  # `latent` has no maps


def test_all_conversations_about_a_video_are_held_out_together() -> None:
    samples = [Sample(Conversation(f"file[{i}]", ()), f"clip-{i // 5}", None) for i in range(500)]
    videos = {f"clip-{i}": f"/v/{i}.mp4" for i in range(100)}
    taken, held = held_out(samples, videos, 0.1, seed=0)
    assert (len(taken), len(held)) == (450, 50)
    assert not {one.clip_id for one in taken} & {one.clip_id for one in held}
    assert held_out(samples, videos, 0.1, seed=0)[1] == held != held_out(samples, videos, 0.1, seed=1)[1]
    assert len(held_out(samples[:10], videos, 0.001, seed=0)[1]) == len(held_out(samples[:10], videos, 0.999, seed=0)[1]) == 5
    with pytest.raises(BadInput, match="all 5 conversations are about one video"):
        held_out(samples[:5], videos, 0.1, seed=0)


def test_all_clips_of_a_video_are_held_out_together(tmp_path: Path, videos: Path) -> None:
    """A video of several windows, and one of two segments; a conversation about the first that has no targets, and a text."""
    rows: list[dict[str, Any]] = [{"uri": str(videos / "scene-1.mp4"), "id": "whole"}]
    rows += [{"uri": str(videos / "scene-3.mp4"), "id": f"part-{at}", "start": at, "end": at + 1} for at in (0, 1)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source, clips = {"manifest": str(tmp_path / "list.jsonl")}, {"sampling": "fps", "fps": 30}
    job = Jobs(tmp_path, videos).value(tmp_path / "store", videos=source, clips=clips, signals=["f4d"])
    run_job(Job.model_validate(job))
    cache = open_cache(str(tmp_path / "store"))
    assert len(cache.committed_ids()) > len(rows)
    turns = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    asked = [{"clip_id": clip_id, "conversations": turns} for clip_id in cache.committed_ids()]
    asked += [{"video": str(videos / "scene-1.mp4"), "clip_id": "none", "conversations": turns}, {"conversations": turns}]
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    for seed in range(4):
        data = {"conversations": str(tmp_path / "asked.json"), "video_root": "/", "without_targets": "sft"}
        settings = config(tmp_path / "store", tmp_path / "run", mode="latent", data=data, seed=seed)
        stores = opened(settings, None, Ranks())
        run, validation = prepared(stores, build(settings, stores.cache, has_weights=False), Ranks())
        assert validation is not None
        taken, held = ({one.video for one in samples} for samples in (run.samples, validation.samples))
        assert len(run.samples) + len(validation.samples) == len(asked)
        assert taken
        assert held
        assert not taken & held


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_bad_step_is_skipped_and_counted(tiny_store: Path, tmp_path: Path, what: str) -> None:
    """The third of four steps has a loss, or a gradient, that is no number."""
    compute, clip = P4DTrainer.compute_loss, P4DTrainer._clip_grad_norm

    def bad_loss(self: P4DTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, *args, **kwargs)
        if self.state.global_step == 2:
            self._pending[-1][0]["loss"] = torch.tensor(torch.nan)
            return loss * torch.nan
        return loss

    def bad_norm(self: P4DTrainer, model: Any) -> Any:
        if self.state.global_step == 2:
            next(p for p in model.parameters() if p.grad is not None).grad[:] = torch.inf
        return clip(self, model)

    changes: dict[str, Any] = {"mode": "latent", "steps": 4, "validation": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(P4DTrainer, *{"loss": ("compute_loss", bad_loss), "gradient": ("_clip_grad_norm", bad_norm)}[what])
        with pytest.raises(CouldNotRun, match=rf"the {what}.* of step 3 is (nan|inf)"):
            fit(config(tiny_store, tmp_path / "none", **changes, max_bad_steps=0))
        report = fit(config(tiny_store, tmp_path / "run", **changes, checkpoint_every=2, keep_checkpoints=9))
    assert report.bad_steps == 1
    told = lines(tmp_path / "run")
    assert [line["bad_steps"] for line in told] == [0, 0, 1, 1]
    assert ("loss" in told[2]) == (what == "gradient")
    assert "grad_norm" not in told[2]
    saved = load_file(tmp_path / "run" / "student" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in saved.values())
