"""A whole fit from a committed store, as a function and as the command a user types."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from board_events import read_events
from conftest import Command, Jobs
from safetensors.torch import load_file
from transformers import Trainer

from schemas.errors import BadInput, CouldNotRun, StoreNotFound
from schemas.job import Job
from schemas.train import FitReport, ShownFit, TrainConfig
from student_train.data import workers
from student_train.export import export
from student_train.training.checkpoints import Checkpoints
from student_train.training.fit import fit
from student_train.training.trainer import P4DTrainer
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job

STEPS = 14
PARTS = {"loss", "sft", "ld", "ed_depth", "ed_flow", "ed_motion", "ed_camray"}


# The heads of dense maps take most of a step's time on a CPU; the head of camera rays alone shows the same path.
RAYS_ONLY = {"weights": {"depth": 0, "flow": 0, "motion": 0}}


def config(store: Path, output: Path, **changes: Any) -> TrainConfig:
    """A fit small enough for a test."""
    base: dict[str, Any] = {
        "store": str(store),
        "output": str(output),
        "data": {"video_root": "/"},
        "decoder": {"hidden": 64},
        "optim": {"learning_rate": 2e-3},
        "loss": RAYS_ONLY,
        "steps": 3,
        "batch": 2,
    }
    return TrainConfig.model_validate(base | changes)


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(output: Path) -> list[dict[str, float]]:
    return [{name: line[name] for name in PARTS if name in line} for line in metrics(output)]


@pytest.fixture(scope="module")
def learnt(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    output = tmp_path_factory.mktemp("fit") / "run"
    return fit(config(tiny_store, output, steps=STEPS, optim={"learning_rate": 4e-3}, loss={}))


def test_every_part_of_the_loss_falls(learnt: FitReport) -> None:
    first, last = learnt.first.losses, learnt.last.losses
    assert set(first) == PARTS
    for part in ("loss", "sft", "ld"):
        assert last[part] < 0.9 * first[part], part
    explicit = {"ed_depth": 1.0, "ed_flow": 0.1, "ed_motion": 0.05, "ed_camray": 0.05}
    assert sum(w * last[p] for p, w in explicit.items()) < sum(w * first[p] for p, w in explicit.items())


def test_the_loss_is_its_parts_weighted(learnt: FitReport) -> None:
    for line in metrics(Path(learnt.output)):
        explicit = line["ed_depth"] + 0.1 * line["ed_flow"] + 0.05 * line["ed_motion"] + 0.05 * line["ed_camray"]
        assert line["loss"] == pytest.approx(line["sft"] + 0.5 * line["ld"] + 0.1 * explicit, rel=1e-4)


def test_the_run_folder_holds_settings_losses_result_and_weights(learnt: FitReport, tiny_store: Path) -> None:
    output = Path(learnt.output)
    assert FitReport.model_validate_json((output / "result.json").read_text(encoding="utf-8")) == learnt
    assert TrainConfig.model_validate_json((output / "config.json").read_text(encoding="utf-8")).steps == STEPS
    assert [line["step"] for line in metrics(output)] == list(range(1, STEPS + 1))
    assert (output / "student" / "model.safetensors").is_file()
    assert (output / "p4d" / "perception_decoder.safetensors").is_file()
    assert not [path for path in output.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".part"}]
    assert learnt.fingerprint == open_cache(str(tiny_store)).recipe.fingerprint


def test_the_report_counts_parameters_and_time(learnt: FitReport) -> None:
    parameters = learnt.parameters
    assert all(parameters[part] > 0 for part in ("vision_tower", "projector", "llm", "perception_decoder", "frozen_heads"))
    assert learnt.trained_parameters == sum(parameters[p] for p in ("projector", "llm", "perception_decoder"))
    assert 0 < learnt.data_wait_seconds < learnt.seconds


def test_frozen_heads_are_not_saved_and_do_not_change(learnt: FitReport) -> None:
    from safetensors import safe_open

    with safe_open(Path(learnt.output) / "p4d" / "perception_decoder.safetensors", framework="pt") as file:
        assert all(name.startswith("mlp.") for name in file.keys())  # noqa: SIM118  # not a mapping


@pytest.fixture(scope="module")
def plain(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that others are compared with: two steps, nothing special."""
    output = tmp_path_factory.mktemp("plain") / "run"
    fit(config(tiny_store, output, steps=2))
    return output


def test_equal_seeds_give_equal_losses(plain: Path, tiny_store: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 2)):
        fit(config(tiny_store, tmp_path / name, seed=seed, steps=2))
    assert losses(plain) == losses(tmp_path / "again")
    assert losses(plain) != losses(tmp_path / "other")


def test_accumulation_gives_the_losses_of_the_larger_batch(tiny_store: Path, tmp_path: Path) -> None:
    fit(config(tiny_store, tmp_path / "whole", steps=2, batch=4))
    fit(config(tiny_store, tmp_path / "halves", steps=2, batch=2, accumulate=2))
    for whole, halves in zip(losses(tmp_path / "whole"), losses(tmp_path / "halves"), strict=True):
        assert halves == pytest.approx(whole, rel=1e-3)


def test_reading_ahead_in_other_processes_gives_the_same_losses(plain: Path, tiny_store: Path, tmp_path: Path) -> None:
    fit(config(tiny_store, tmp_path / "there", steps=2, data={"workers": 1, "video_root": "/"}))
    assert losses(tmp_path / "there") == losses(plain)


def test_bf16_computes_in_bf16_and_keeps_weights_and_losses_in_float32(plain: Path, tiny_store: Path, tmp_path: Path) -> None:
    fit(config(tiny_store, tmp_path / "bf16", steps=2, precision="bf16"))
    for whole, half in zip(losses(plain), losses(tmp_path / "bf16"), strict=True):
        assert half == pytest.approx(whole, rel=2e-2)
        assert half != pytest.approx(whole, rel=1e-6)
    assert any(line["sft"] != torch.tensor(line["sft"]).bfloat16().item() for line in losses(tmp_path / "bf16"))
    saved = load_file(tmp_path / "bf16" / "student" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_weights_that_train_are_in_float32_and_others_as_they_are_said(plain: Path, tiny_store: Path, tmp_path: Path) -> None:
    """In bfloat16, AdamW's steps would be rounded away."""
    half = {
        "model": {"dtype": "bfloat16", "weights": str(plain / "student")},
        "precision": "bf16",
        "mode": "latent",
        "steps": 2,
        "checkpoint_every": 1,
    }
    fit(config(tiny_store, tmp_path / "run", **half, optim={"part_learning_rates": {"projector": 1e-3}}))
    saved = load_file(tmp_path / "run" / "student" / "model.safetensors")
    kinds = {
        part: {t.dtype for name, t in saved.items() if name.startswith(part)} for part in ("vision_tower", "projector", "llm")
    }
    assert kinds == {"vision_tower": {torch.bfloat16}, "projector": {torch.float32}, "llm": {torch.float32}}
    export(tmp_path / "run", tmp_path / "first", step=1, dtype="float32")
    exported = load_file(tmp_path / "first" / "model.safetensors")
    first = Checkpoints(tmp_path / "run" / "checkpoints", 1).at(1).weights()
    trained = {name.removeprefix("student.model."): weight for name, weight in first.items() if "student" in name}
    assert trained.keys() == {name for name in exported if not name.startswith("vision_tower")}
    for name, weight in trained.items():
        torch.testing.assert_close(exported[name], weight, rtol=0, atol=0)
    with pytest.raises(BadInput, match=r"part_learning_rates` names vision_tower, of which nothing trains"):
        fit(config(tiny_store, tmp_path / "other", optim={"part_learning_rates": {"vision_tower": 1e-3}}))


def test_activations_computed_twice_give_the_same_losses(plain: Path, tiny_store: Path, tmp_path: Path) -> None:
    fit(config(tiny_store, tmp_path / "twice", steps=2, gradient_checkpointing=True))
    assert losses(tmp_path / "twice") == losses(plain)


def test_losses_are_reported_as_they_are_logged(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    fit(config(tiny_store, tmp_path / "run", steps=2, report_to=["tensorboard"], model={"attention": "eager"}))
    (events,) = (tmp_path / "board").glob("events.*")
    told = [(event.step, value.tag, value.simple_value) for event in read_events(events) for value in event.summary.value]
    for line in metrics(tmp_path / "run"):
        for name in ("loss", "sft", "ld", "ed_camray", "learning_rate"):
            assert (line["step"], f"train/{name}", pytest.approx(line[name])) in told
    with pytest.raises(CouldNotRun, match=r"`report_to` names mlflow, .* pip install mlflow"):
        fit(config(tiny_store, tmp_path / "other", report_to=["mlflow"]))
    with pytest.raises(CouldNotRun, match=r"`model.attention: flash_attention_2` cannot be used here"):
        fit(config(tiny_store, tmp_path / "other", model={"attention": "flash_attention_2"}))


def test_what_is_overridden_of_transformers_is_there_and_takes_the_same() -> None:
    """Names with an underscore may change in any version."""
    for name in ("_get_grad_norm", "_save_checkpoint", "_defer_fsdp_gradient_reduction"):
        ours, theirs = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (P4DTrainer, Trainer))
        assert ours == theirs, name


def test_a_last_line_comes_whatever_the_steps_between_two(tiny_store: Path, tmp_path: Path) -> None:
    report = fit(config(tiny_store, tmp_path / "run", steps=3, log_every=2))
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2, 3]
    assert report.last.to_step == 3


def test_shards_need_several_processes(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="start it with torchrun"):
        fit(config(tiny_store, tmp_path / "run", fsdp="full_shard"))


def test_latent_mode_needs_no_heads(tiny_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store)
    shutil.rmtree(store / "heads")
    report = fit(config(store, tmp_path / "run", mode="latent"))
    assert set(report.first.losses) == {"loss", "sft", "ld"}
    assert "frozen_heads" not in report.parameters
    with pytest.raises(BadInput, match=r"no frozen heads.*`latent`"):
        fit(config(store, tmp_path / "other"))


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("kind", ["mlp3", "linear"])
def test_recipes_and_decoders_combine(tiny_store: Path, tmp_path: Path, recipe: str, kind: str) -> None:
    report = fit(
        config(
            tiny_store, tmp_path / "run", steps=1, decoder={"kind": kind, "hidden": 64}, loss={**RAYS_ONLY, "recipe": recipe}
        )
    )
    assert report.loss.name == recipe
    assert set(report.first.losses) == {"loss", "sft", "ld", "ed_camray"}


def test_conversations_are_trained_on(tiny_store: Path, tmp_path: Path, videos: Path) -> None:
    turns = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A ball."}]
    plain = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    samples = [{"video": f"scene-{i % 2}.mp4", "conversations": turns} for i in range(4)] + [{"conversations": plain}]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(samples), encoding="utf-8")
    data = {"conversations": [str(path)], "video_root": str(videos)}
    report = fit(config(tiny_store, tmp_path / "run", steps=5, batch=1, data=data))
    assert (report.samples, report.clips) == (5, 2)
    (text_alone,) = [line for line in metrics(tmp_path / "run") if "ld" not in line]
    assert text_alone["loss"] == pytest.approx(text_alone["sft"])
    path.write_text(json.dumps(samples[-1:]), encoding="utf-8")
    frozen = {"mode": "sft", "model": {"freeze": ["vision_tower", "projector"]}}
    fit(config(tiny_store, tmp_path / "llm-alone", steps=1, data=data, **frozen))
    (alone,) = losses(tmp_path / "llm-alone")
    assert alone == {"loss": alone["sft"], "sft": alone["sft"]}


def test_what_is_longer_than_the_limit_is_cut_or_left_out_and_counted(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clip is 1024 tokens here: the second conversation loses its last words, the third has no room for its question."""
    asked = ("What moves?", "What moves?" + " And then?" * 4, "Why?" * 200)
    answers = ("A ball.", "A ball, and it rolls away.", "So.")
    samples = [
        {"video": "scene-0.mp4", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in zip(asked, answers, strict=True)
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(samples), encoding="utf-8")
    data = {"conversations": [str(path)], "video_root": "/", "max_length": 1072}
    report = fit(config(tiny_store, tmp_path / "run", steps=1, mode="sft", data=data))
    assert (report.samples, report.cut, report.dropped) == (2, 1, 1)
    said = capsys.readouterr().err
    assert "1 conversations lose the end of their text: they are longer than `data.max_length: 1072`" in said
    assert f"1 conversations do not fit `data.max_length: 1072` and are left out:\n  {path}[2]: " in said
    with pytest.raises(
        BadInput, match=r"none of 3 conversations fits `data.max_length: 100`; the shortest needs 10\d\d tokens"
    ):
        fit(config(tiny_store, tmp_path / "other", data=data | {"max_length": 100}))


def test_workers_are_what_the_machine_has_for_each_process() -> None:
    given = {(2, 1): 1, (2, 2): 0, (1, 2): 0, (192, 8): 4, (16, 8): 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "MOST_WORKERS", 4)
        assert {case: workers.workers_here(*case) for case in given} == given
    assert (workers.workers_of(None), workers.workers_of(7)) == (0, 7)  # none here: see conftest


def test_lines_can_be_the_means_of_several_steps(tiny_store: Path, tmp_path: Path) -> None:
    fit(config(tiny_store, tmp_path / "each", steps=4))
    fit(config(tiny_store, tmp_path / "two", steps=4, log_every=2))
    each, two = losses(tmp_path / "each"), losses(tmp_path / "two")
    assert two[1] == pytest.approx({name: (each[2][name] + each[3][name]) / 2 for name in each[2]})


def test_a_loss_that_is_not_a_number_stops_the_run(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(CouldNotRun, match=r"the loss of step \d+ is .*sft.*clips are .*scene-.*learning_rate"):
        fit(config(tiny_store, tmp_path / "run", steps=20, max_bad_steps=1, optim={"learning_rate": 1e30, "max_grad_norm": 0}))
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_store_of_another_recipe_is_refused_where_the_config_names_one(tiny_store: Path, tmp_path: Path) -> None:
    own = open_cache(str(tiny_store)).recipe.fingerprint
    assert fit(config(tiny_store, tmp_path / "run", steps=1, fingerprint=own[:12])).fingerprint == own
    with pytest.raises(
        BadInput, match=rf"another recipe: its fingerprint is {own[:16]}.*needed 0123456789.*teacher-cache diff"
    ):
        fit(config(tiny_store, tmp_path / "other", fingerprint="0123456789"))
    assert not (tmp_path / "other").exists()


def test_a_signal_that_the_store_lacks_is_named(jobs: Jobs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_job(Job.model_validate(jobs.value(store, signals=["f4d", "depth", "flow", "motion"])))
    with pytest.raises(BadInput, match="the losses need camray"):
        fit(config(store, tmp_path / "run"))


def test_a_run_is_not_overwritten_unasked(plain: Path, tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "run")
    with pytest.raises(BadInput, match=r"already holds a run.*--overwrite"):
        fit(config(tiny_store, tmp_path / "run", steps=1))
    assert fit(config(tiny_store, tmp_path / "run", steps=1), overwrite=True).steps == 1
    assert len(metrics(tmp_path / "run")) == 1


def write_yaml(folder: Path, value: dict[str, Any]) -> Path:
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return path


def test_the_command_reports_as_json(tiny_store: Path, tmp_path: Path, student_train_command: Command) -> None:
    value = config(tiny_store, tmp_path / "run").model_dump(mode="json")
    done = student_train_command("fit", write_yaml(tmp_path, value), "--json")
    assert done.status == 0, done.err
    assert FitReport.model_validate(done.json).steps == 3
    assert "step 3: loss" in done.err


def test_what_a_file_comes_to_is_shown_without_training(
    tiny_store: Path, tmp_path: Path, student_train_command: Command, learnt: FitReport
) -> None:
    value: dict[str, Any] = {"store": str(tiny_store), "output": str(tmp_path / "run"), "data": {"video_root": "/"}}
    value |= {"recipe": "released", "optim": {"part_learning_rates": {"distillation": 1e-4}}, "batch": 1}
    path = write_yaml(tmp_path, value)
    done = student_train_command("fit", path, "--show", "--json", "--processes", "2", "--set", "fsdp=full_shard")
    assert done.status == 0, done.err
    found = ShownFit.model_validate(done.json)
    assert (found.steps, found.warmup_steps, found.samples_per_step, found.samples) == (20, 1, 2, 4)
    assert (found.config["epochs"], found.config["decoder"]["kind"], found.loss.alpha) == (10, "linear", 0.01)
    assert {name: part.parameters for name, part in found.parts.items() if name != "perception_decoder"} == {
        name: count for name, count in learnt.parameters.items() if name != "perception_decoder"
    }
    rates = {name: part.learning_rate for name, part in found.parts.items()}
    none = dict.fromkeys(("vision_tower", "projector", "frozen_heads"))
    assert rates == none | {"llm": 1e-5, "perception_decoder": 1e-4}
    trained = sum(part.trained for part in found.parts.values())
    assert found.memory["moments"] == 2 * 4 * trained // 2
    assert found.checkpoint_host_bytes == 2 * 12 * trained // 2, "two processes share it"
    assert found.memory["heads"] > 2**20
    hybrid = ("--processes", "64", "--per-machine", "2", "--set", "fsdp=hybrid_shard")
    assert student_train_command("fit", path, "--show", "--json", *hybrid).json["memory"] == found.memory
    assert found.memory["total"] == sum(size for name, size in found.memory.items() if name != "total")
    assert not (tmp_path / "run").exists()
    shown = student_train_command("fit", path, "--show").out
    assert yaml.safe_load(shown.partition("┏")[0]) == found.config | {"fsdp": None}, "a file that can be used again"
    assert "loss: sft + 0.01·ld + 1·(0.1·depth + 0.001·flow + 0.01·motion + 1e-05·camray), mean" in shown
    latent = student_train_command("fit", path, "--show", "--set", "mode=latent").out
    assert "loss: sft + 0.01·ld, mean\n" in latent
    assert "40 steps (1 of warm-up) of 1 conversations by 1 processes; 4 conversations of 4,316 tokens" in shown


def test_the_table_shows_every_part_and_its_change(learnt: FitReport, capsys: pytest.CaptureFixture[str]) -> None:
    from student_train.cli.printed import print_fit

    print_fit(learnt)
    out = capsys.readouterr().out
    assert all(part in out for part in PARTS)
    assert f"{STEPS} steps on 4 conversations over 4 clips" in out


def test_a_misspelt_key_is_one_error_and_status_2(tiny_store: Path, tmp_path: Path, command: Command) -> None:
    value = {"store": str(tiny_store), "output": str(tmp_path / "run"), "stpes": 3}
    done = command("student-train", "fit", write_yaml(tmp_path, value), "--json")
    assert done.status == 2
    assert "did you mean `steps`" in done.err
    assert done.json["error"]["kind"] == "BadInput"
    assert "Traceback" not in done.err


def test_a_missing_store_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="there is no store at /nowhere/store"):
        fit(config(Path("/nowhere/store"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_without_distilling_the_conversations_alone_are_learnt(tiny_store: Path, tmp_path: Path) -> None:
    fit(config(tiny_store, tmp_path / "sft", mode="sft", steps=2))
    fit(config(tiny_store, tmp_path / "latent", mode="latent", steps=2))
    assert [set(line) for line in losses(tmp_path / "sft")] == [{"loss", "sft"}] * 2
    assert all(line["loss"] == line["sft"] for line in losses(tmp_path / "sft"))
    # The same student sees the same batch first, whatever else is learnt from it.
    assert losses(tmp_path / "sft")[0]["sft"] == pytest.approx(losses(tmp_path / "latent")[0]["sft"], rel=1e-5)
    assert (tmp_path / "sft" / "student" / "model.safetensors").is_file()
    with pytest.raises(ValueError, match="`mode: sft` trains without"):
        config(tiny_store, tmp_path, mode="latent", loss={"alpha": 0})
