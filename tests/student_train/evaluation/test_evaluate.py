"""A trained student against its teacher, and its answers to questions: as a function and as the command a user types."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, Jobs
from PIL import Image
from safetensors.torch import load_file, save_file

from schemas.errors import BadInput, UnknownClip
from schemas.evaluation import Answer, ClipScores, EvalReport
from schemas.job import Job
from schemas.train import DataConfig, TrainConfig
from student_train.data.frames import StudentFrames
from student_train.distill.p4d import P4D
from student_train.evaluation.asking import Asked, Questions, ask
from student_train.evaluation.benchmarks.item import Item
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.r4d import QUESTIONS
from student_train.evaluation.evaluate import Wanted, evaluate
from student_train.evaluation.map_metrics import METRICS, SCORED
from student_train.evaluation.models import open_model
from student_train.evaluation.plots import smoothed
from student_train.export import export
from student_train.models.build import load_student
from student_train.training.fit import fit
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job

STEPS = 60
WAY = {
    "id": "way",
    "benchmark": "vlm4d",
    "task": "Translational",
    "video": "scene-0.mp4",
    "options": ["left", "right", "up", "down"],
    "question": "Which way does <obj_1> move?",
    "answer": "right",
}
COLOUR = {
    "id": "colour",
    "benchmark": "stibench",
    "task": "Spatial Relationship",
    "video": "scene-0.mp4",
    "options": ["red", "blue"],
    "question": "Of what colour is it?",
    "answer": "red",
}
ABSENT = WAY | {"id": "absent", "video": "nowhere.mp4"}
WITH_MARKS = WAY | {"id": "marks", "som_image": "marks.png"}
WRITTEN = {"way": "(B)", "colour": "red"}


def write_questions(folder: Path, *items: dict[str, Any]) -> Path:
    path = folder / "questions.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def read_questions(path: Path) -> tuple[Item, ...]:
    return read(QUESTIONS, path.parent, path).items


@pytest.fixture(scope="module")
def run(tiny_store: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which a student learnt one video's F4D, and to answer one question by letter and one by text."""
    folder = tmp_path_factory.mktemp("evaluated")
    asked = read_questions(write_questions(folder, WAY, COLOUR))
    conversations = [
        {
            "video": one.video,
            "conversations": [
                {"from": "human", "value": "<video>\n" + QUESTIONS.prompt(one, 20 / 24)},
                {"from": "gpt", "value": WRITTEN[one.id]},
            ],
        }
        for one in asked
    ]
    (folder / "train.json").write_text(json.dumps(conversations), encoding="utf-8")
    fit(
        TrainConfig.model_validate(
            {
                "store": str(tiny_store),
                "output": str(folder / "run"),
                "mode": "latent",
                "decoder": {"hidden": 512},
                "optim": {"learning_rate": 4e-3},
                "steps": STEPS,
                "checkpoint_every": STEPS // 2,
                "batch": 2,
                "data": {"conversations": str(folder / "train.json"), "video_root": str(videos)},
            }
        )
    )
    return folder / "run"


@pytest.fixture(scope="module")
def held_out(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the same recipe over other files: one that is gone since, one that is whole, and one that is no video."""
    folder = tmp_path_factory.mktemp("held-out")
    (folder / "raw").mkdir()
    for name in ("gone.mp4", "whole.mp4"):
        shutil.copy(videos / "scene-2.mp4", folder / "raw" / name)
    (folder / "raw" / "broken.mp4").write_bytes(b"no video")
    report = run_job(Job.model_validate(Jobs(folder, folder / "raw").value(folder / "store")))
    assert (report.clips.committed, report.clips.failed) == (2, 1)
    (folder / "raw" / "gone.mp4").unlink()
    return folder / "store"


@pytest.fixture(scope="module")
def report(run: Path) -> EvalReport:
    return evaluate(run, Wanted(pictures=1))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_the_report_has_every_metric_over_all_clips(report: EvalReport, run: Path) -> None:
    assert report.maps is not None
    assert set(report.maps.metrics) == set(METRICS)
    assert (report.maps.clips, report.maps.unevaluated, report.maps.note) == (4, (), None)
    assert (report.mode, report.steps, report.answers) == ("latent", STEPS, None)
    assert EvalReport.model_validate_json((run / "eval" / "report.json").read_text(encoding="utf-8")) == report


def test_the_student_is_nearer_to_what_it_learnt_than_a_constant_is(report: EvalReport) -> None:
    clips = {
        clip.clip_id: clip for clip in map(ClipScores.model_validate_json, lines(Path(report.run) / "eval" / "clips.jsonl"))
    }
    assert len(clips) == 4
    learnt = clips["scene-0.mp4"]
    for name, metric in METRICS.items():
        if name == "motion_iou":
            continue  # 3% of this video's pixels move: too few for so short a fit of F4D
        sign = 1 if metric.better == "higher" else -1
        score, baseline = learnt.scores[name], learnt.baselines[name]
        assert score is not None
        assert baseline is not None
        assert sign * score > sign * baseline, name


def test_overall_figures_are_means_over_clips(report: EvalReport, run: Path) -> None:
    clips = [ClipScores.model_validate_json(line) for line in lines(run / "eval" / "clips.jsonl")]
    assert report.maps is not None
    for name, found in report.maps.metrics.items():
        scores = [clip.scores[name] for clip in clips if clip.scores[name] is not None]
        assert found.mean == pytest.approx(np.mean(scores))
        assert found.median == pytest.approx(np.median(scores))
        assert found.clips == len(scores)


def test_pictures_are_drawn(report: EvalReport, run: Path) -> None:
    drawn = {path.name for path in (run / "eval" / "plots").iterdir()}
    assert drawn == {"scores.png", "training.png", "clip-000.png"}
    for name in drawn:
        with Image.open(run / "eval" / "plots" / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50
    assert all(Path(path).is_file() for path in report.files)


def test_the_teachers_own_features_score_as_the_teacher(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    p4d = P4D.for_store(cache, hidden_size=8)
    p4d.perception.decoder = torch.nn.Identity()  # hidden states that are the teacher's F4D itself
    clip_ids = cache.committed_ids()[:1]
    teacher = {name: torch.from_numpy(values) for name, values in cache.read(list(cache.signals), clip_ids).items()}
    student = p4d.maps(teacher["f4d"], list(cache.signals))
    for signal, target in teacher.items():
        for name, scores in SCORED[signal](student[signal], target).items():
            # What is left is the rounding of F4D and of the maps in the store.
            best, error = (1.0, 0.1) if METRICS[name].better == "higher" else (0.0, 0.1 * scores.baseline.item())
            assert scores.student.item() == pytest.approx(best, abs=error), name
    # `fine` clips logits to ±8 and steps by 1/8; F4D's own rounding comes on top.
    assert (student["motion"].clamp(-8, 8) - teacher["motion"]).abs().max() < 0.125


def test_held_out_clips_that_cannot_be_scored_are_listed(run: Path, held_out: Path, tmp_path: Path) -> None:
    found = evaluate(run, Wanted(store=str(held_out), video_root="/", out=tmp_path / "eval", pictures=0)).maps
    assert found is not None
    assert found.clips == 1
    assert {one.id: one.reason for one in found.unevaluated} == {"gone.mp4": "video_missing", "broken.mp4": "not_a_video"}
    assert [json.loads(line)["clip_id"] for line in lines(tmp_path / "eval" / "clips.jsonl")] == ["whole.mp4"]


def test_clips_can_be_counted_and_a_wrong_name_is_said(run: Path, tmp_path: Path) -> None:
    first = evaluate(run, Wanted(limit=1, out=tmp_path / "eval", pictures=0)).maps
    assert first is not None
    assert first.clips == 1
    with pytest.raises(UnknownClip, match="scene-9"):
        evaluate(run, Wanted(clip_ids=("scene-9.mp4",), out=tmp_path / "other"))


def test_without_heads_features_alone_are_compared(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "store", ignore=shutil.ignore_patterns("heads"))
    found = evaluate(run, Wanted(store=str(tmp_path / "store"), limit=1, out=tmp_path / "eval", pictures=0)).maps
    assert found is not None
    assert set(found.metrics) == {"f4d_smooth_l1", "f4d_cosine"}
    assert "depth, flow, motion, camray not compared" in str(found.note)


def test_a_student_with_heads_of_its_own_is_compared_by_them(tiny_store: Path, tmp_path: Path) -> None:
    fit(
        TrainConfig.model_validate(
            {
                "store": str(tiny_store), "output": str(tmp_path / "run"), "mode": "direct", "steps": 1, "batch": 1,
                "loss": {"alpha": 0, "weights": {"flow": 0}}, "data": {"video_root": "/"},
            }
        )
    )  # fmt: skip
    found = evaluate(tmp_path / "run", Wanted(limit=1, pictures=1)).maps
    assert found is not None
    assert {METRICS[name].signal for name in found.metrics} == {"depth", "motion", "camray"}
    assert "f4d, flow not compared" in str(found.note)


@pytest.mark.parametrize("backbone", ["qwen2.5-vl", "qwen3-vl"])
def test_other_backbones_are_evaluated_alike(tiny_store: Path, videos: Path, tmp_path: Path, backbone: str) -> None:
    value = {"store": str(tiny_store), "output": str(tmp_path / "run"), "mode": "latent", "decoder": {"hidden": 8}, "steps": 1}
    fit(TrainConfig.model_validate(value | {"model": {"backbone": backbone}, "batch": 1, "data": {"video_root": "/"}}))
    Image.new("RGB", (96, 64), (200, 30, 30)).save(tmp_path / "marks.png")
    path = write_questions(tmp_path, *(item | {"video": str(videos / item["video"])[1:]} for item in (WAY, WITH_MARKS)))
    items = json.loads(path.read_text(encoding="utf-8"))
    items[1]["som_image"] = str(tmp_path / "marks.png")[1:]
    path.write_text(json.dumps(items), encoding="utf-8")
    found = evaluate(tmp_path / "run", Wanted(clip_ids=("scene-0.mp4",), pictures=0, questions=path, video_root="/"))
    assert found.is_whole
    assert found.maps is not None
    assert found.answers is not None
    assert (set(found.maps.metrics), found.answers.asked) == (set(METRICS), 2)


def test_a_student_answers_as_it_learnt(run: Path, videos: Path, tmp_path: Path) -> None:
    path = write_questions(tmp_path, WAY, COLOUR, ABSENT)
    found = evaluate(run, Wanted(maps=False, questions=path, video_root=str(videos), out=tmp_path / "eval")).answers
    written = {a.id: a for a in map(Answer.model_validate_json, lines(tmp_path / "eval" / "answers.jsonl"))}
    assert {name: answer.response for name, answer in written.items()} == {**WRITTEN, "absent": None}
    assert found is not None
    assert found.micro is not None
    assert (found.asked, found.micro.official, found.micro.lenient) == (2, 0.5, 1.0)
    assert {task: accuracy.official for task, accuracy in found.tasks.items()} == {
        "Spatial Relation": 0.0,
        "Translational": 1.0,
    }
    ((missing),) = found.unevaluated
    assert (missing.id, missing.reason) == ("absent", "video_missing")


def test_a_checkpoint_answers_as_its_export(run: Path, videos: Path, tmp_path: Path) -> None:
    wanted = Wanted(questions=write_questions(tmp_path, WAY, COLOUR), video_root=str(videos), dtype="float32")
    export(run, tmp_path / "exported", step=STEPS // 2)
    found = []
    for number, folder in enumerate((run / "checkpoints" / f"step-{STEPS // 2:08d}", tmp_path / "exported")):
        assert all(any(place.glob("*.safetensors")) for place in open_model(folder, None).weights)
        out = tmp_path / f"eval-{number}"
        report = evaluate(folder, replace(wanted, out=out))
        written = [Answer.model_validate_json(line) for line in lines(out / "answers.jsonl")]
        assert report.maps is None
        found.append(((report.mode, report.steps), [answer.response for answer in written]))
    (of_checkpoint, said), (of_export, same) = found
    assert (of_checkpoint, of_export) == (("latent", STEPS // 2), (None, None))
    assert len(said) == 2
    assert said == same


def test_answers_are_kept_until_the_weights_that_gave_them_change(run: Path, videos: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    path = write_questions(tmp_path, WAY)
    wanted = Wanted(maps=False, questions=path, video_root=str(videos), out=tmp_path / "eval", resume=True)
    first = evaluate(copy, wanted).answers
    shutil.rmtree(copy / "checkpoints")
    (copy / "p4d" / "perception_decoder.safetensors").touch()
    assert evaluate(copy, wanted).answers == first
    (copy / "student" / "model.safetensors").touch()
    with pytest.raises(BadInput, match="given with other settings:\n  weights: they have"):
        evaluate(copy, wanted)


def questions(run: Path, videos: Path, items: tuple[Item, ...]) -> Questions:
    return Questions(QUESTIONS, items, str(videos), load_student(run / "student").processor)


def test_answers_do_not_depend_on_what_stands_beside_them(run: Path, videos: Path, tmp_path: Path) -> None:
    asked = read_questions(write_questions(tmp_path, WAY, COLOUR, WAY | {"id": "long", "question": "Which way? " * 8}))
    student = load_student(run / "student").eval()
    alone, together = (
        [a.response for a in ask(student, questions(run, videos, asked), batch=n, workers=0, device=torch.device("cpu"))]
        for n in (1, 3)
    )
    assert alone == together


def test_marks_are_shown_before_the_video(run: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    Image.new("RGB", (96, 64), (200, 30, 30)).save(tmp_path / "videos" / "marks.png")
    plain, marked, absent = questions(
        run,
        tmp_path / "videos",
        read_questions(write_questions(tmp_path, WAY, WITH_MARKS, WITH_MARKS | {"som_image": "no.png"})),
    )
    assert isinstance(plain, Asked)
    assert isinstance(marked, Asked)
    processor = load_student(run / "student").processor
    shown = processor.image_ids()
    at = next(i for i in range(len(marked.prompt.ids)) if marked.prompt.ids[i : i + len(shown)] == shown)
    assert marked.prompt.watched is not None
    video = processor.video_ids(marked.prompt.watched.timestamps.tolist())
    assert at < next(i for i in range(len(marked.prompt.ids)) if marked.prompt.ids[i : i + len(video)] == video)
    assert plain.prompt.images == ()
    assert [image.shape for image in marked.prompt.images] == [(processor.image_size, processor.image_size, 3)]
    assert isinstance(absent, Answer)
    assert (absent.reason, absent.response) == ("image_unreadable", None)


def test_a_question_sees_the_frames_that_the_teacher_saw(tiny_store: Path, videos: Path) -> None:
    cache = open_cache(str(tiny_store))
    watched = StudentFrames(96, 0).watch(f"{videos}/scene-1.mp4", 16)
    stored = cache.read(["timestamps"], ["scene-1.mp4"])["timestamps"][0]
    assert watched.timestamps.tolist() == stored.tolist()
    assert watched.seconds == pytest.approx(33 / 30)
    assert watched.frames.shape == (16, 96, 96, 3)


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run"):
        evaluate(tmp_path, Wanted())
    shutil.copytree(run, tmp_path / "half", ignore=shutil.ignore_patterns("student", "eval"))
    (tmp_path / "half" / "result.json").unlink()
    with pytest.raises(BadInput, match="is not finished"):
        evaluate(tmp_path / "half", Wanted())


def test_a_store_of_another_recipe_is_refused_by_its_fields(run: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    shutil.copy(videos / "scene-0.mp4", tmp_path / "raw")
    other = Jobs(tmp_path, tmp_path / "raw").value(tmp_path / "store", clips={"preprocessing": "student", "student_size": 98})
    run_job(Job.model_validate(other | {"signals": ["camray"]}))
    with pytest.raises(BadInput) as refused:
        evaluate(run, Wanted(store=str(tmp_path / "store"), out=tmp_path / "eval"))
    assert "clips.preprocessing: the run learnt from 'l4p', this store has 'student'" in str(refused.value)
    assert "clips.student_size" in str(refused.value)
    assert "teacher" not in str(refused.value).partition("differ:")[2].partition("Give")[0]
    assert not (tmp_path / "eval").exists()


def test_another_recipe_is_refused_where_the_runs_own_store_is_gone(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    for name, key, value in (("config.json", "store", str(tmp_path / "gone")), ("result.json", "fingerprint", "0" * 64)):
        path = tmp_path / "run" / name
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    with pytest.raises(BadInput, match=r"learnt from 0{16}….*its own store, needed to say what differs, cannot be opened"):
        evaluate(tmp_path / "run", Wanted(store=str(tiny_store)))


def test_a_student_that_gives_no_numbers_is_no_score(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    weights = tmp_path / "run" / "p4d" / "perception_decoder.safetensors"
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(weights).items()}, weights)
    found = evaluate(tmp_path / "run", Wanted(limit=2))
    assert found.maps is not None
    assert (found.maps.clips, found.maps.metrics, found.is_whole) == (0, {}, False)
    assert [one.reason for one in found.maps.unevaluated] == ["student_nonfinite"] * 2
    assert "depth" in found.maps.unevaluated[0].detail


def test_scores_do_not_depend_on_what_stands_beside_a_clip(report: EvalReport, run: Path, tmp_path: Path) -> None:
    alone = evaluate(run, Wanted(clip_ids=("scene-2.mp4",), batch=1, out=tmp_path / "eval", pictures=0))
    assert alone.maps is not None
    (line,) = lines(tmp_path / "eval" / "clips.jsonl")
    before = {
        clip.clip_id: clip for clip in map(ClipScores.model_validate_json, lines(Path(report.run) / "eval" / "clips.jsonl"))
    }
    assert ClipScores.model_validate_json(line).scores == pytest.approx(before["scene-2.mp4"].scores, rel=1e-3)


def test_nothing_to_evaluate_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is nothing to evaluate"):
        evaluate(run, Wanted(maps=False, out=tmp_path / "eval"))
    unused: tuple[tuple[Wanted, str], ...] = (
        (Wanted(maps=False, clip_ids=("scene-0.mp4",)), "--clip chooses clips"),
        (Wanted(root=tmp_path), "--root is for questions, and none are asked"),
        (Wanted(frames=4), "--frames is for questions"),
        (Wanted(new_tokens=4), "--new-tokens is for questions"),
    )
    for wanted, said in unused:
        with pytest.raises(BadInput, match=said):
            evaluate(run, wanted)


def test_running_means_end_where_they_are() -> None:
    assert smoothed([3.0, 5.0]) == [3.0, 5.0]
    twenty = smoothed(list(map(float, range(20))))
    assert twenty[:2] == [0.0, 0.5]
    assert twenty[-1] == pytest.approx(18.5)


def test_the_command_lists_what_has_no_score_and_says_so_in_its_status(
    run: Path, videos: Path, tmp_path: Path, student_train_command: Command
) -> None:
    path = write_questions(tmp_path, WAY, ABSENT)
    done = student_train_command(
        "eval", run, "--clip", "scene-0.mp4", "--pictures", 0, "--questions", path, "--video-root", videos,
        "--out", tmp_path / "eval", "--json",
    )  # fmt: skip
    assert done.status == 1, done.err
    found = EvalReport.model_validate(done.json)
    assert found.answers is not None
    assert [one.id for one in found.answers.unevaluated] == ["absent"]
    assert found.maps is not None
    assert found.maps.clips == 1


def test_a_mistyped_benchmark_is_one_error_and_status_2(run: Path) -> None:
    from typer.testing import CliRunner

    from student_train.cli import app

    done = CliRunner().invoke(app, ["eval", str(run), "--benchmark", "r5d", "--root", "x", "--json"])
    assert done.exit_code == 2
    assert "there is no benchmark 'r5d'; there are r4d" in done.stderr
    assert json.loads(done.stdout)["error"]["kind"] == "BadInput"


def test_the_benchmarks_are_listed_with_what_they_need() -> None:
    from typer.testing import CliRunner

    from student_train.cli import app

    done = CliRunner().invoke(app, ["eval", "--list"])
    assert done.exit_code == 0
    assert "r4d: R4D-Bench, 1,419 questions, 16 frames" in done.stdout
    assert "needed qa.parquet, and the folder video/, from https://huggingface.co/datasets/MINT-SJTU/STI-Bench" in done.stdout


def test_the_tables_show_every_metric_and_task(
    report: EvalReport, run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from student_train.cli.printed import print_evaluation

    path = write_questions(tmp_path, WAY, COLOUR, ABSENT, WAY | {"id": "n", "options": [], "answer": 3, "task": "distance"})
    answered = evaluate(run, Wanted(maps=False, questions=path, video_root=str(videos), out=tmp_path / "eval"))
    capsys.readouterr()
    print_evaluation(report.model_copy(update={"answers": answered.answers}))
    out, err = capsys.readouterr()
    for said in ("depth AbsRel", "motion IoU", "static", "dynamic", "33.3%", "66.7%", "Spatial Relation", "distance"):
        assert said in out
    assert "absent: video_missing" in err


def test_a_run_that_distilled_nothing_answers_questions_and_has_no_maps(tiny_store: Path, videos: Path, tmp_path: Path) -> None:
    data = DataConfig(video_root=("/",))
    fit(TrainConfig(store=str(tiny_store), output=str(tmp_path / "run"), data=data, mode="sft", steps=1, batch=1))
    with pytest.raises(BadInput, match="mode `sft`, which learns no maps"):
        evaluate(tmp_path / "run", Wanted())
    report = evaluate(tmp_path / "run", Wanted(questions=write_questions(tmp_path, WAY), video_root=str(videos)))
    assert report.maps is None
    assert report.answers is not None
    assert report.answers.asked == 1


def test_the_length_is_told_or_left_to_be_seen(run: Path, videos: Path, tmp_path: Path) -> None:
    processor = load_student(run / "student").processor
    asked = read_questions(write_questions(tmp_path, WAY))
    texts = []
    for tell_length in (True, False):
        one = Questions(QUESTIONS, asked, str(videos), processor, tell_length=tell_length)[0]
        assert isinstance(one, Asked)
        texts.append(processor.tokenizer.decode(one.prompt.ids))
    assert "seconds long" in texts[0]
    assert "seconds long" not in texts[1]
    assert "Which way does" in texts[1]
