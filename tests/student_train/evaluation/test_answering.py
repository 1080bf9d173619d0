"""Any model asked a benchmark from a folder in its published layout, without a store."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_folders
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import two_processes
from benchmark_folders import png
from safetensors.torch import save_file

from schemas.errors import BadInput
from schemas.evaluation import Answer, AnswersReport, EvalReport
from schemas.train import ModelConfig
from student_train.evaluation.asking import Asked, Questions, ask
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.registry import BENCHMARKS
from student_train.evaluation.evaluate import Wanted, evaluate
from student_train.evaluation.models import open_model
from student_train.models.build import build_student, load_student

COMMAND = (*two_processes.COMMAND[:-1], "eval")
PAGE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "benchmarks.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain model of another class than ours, that answers at random."""
    folder = tmp_path_factory.mktemp("models") / "qwen"
    torch.manual_seed(0)
    build_student(ModelConfig(backbone="qwen2.5-vl")).save(folder)
    return folder


@pytest.fixture(scope="module")
def root(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R4D-Bench in its published layout: four questions that can be asked, one without its video, one that is none."""
    return benchmark_folders.r4d(tmp_path_factory.mktemp("R4D-Bench"), videos)


def answers_in(out: Path) -> dict[str, Answer]:
    lines = (out / "answers.jsonl").read_text(encoding="utf-8").split("\n")
    return {answer.id: answer for answer in map(Answer.model_validate_json, filter(None, lines))}


@pytest.fixture(scope="module")
def asked(model: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AnswersReport, Path]:
    out = tmp_path_factory.mktemp("eval")
    report = evaluate(model, Wanted(benchmark="r4d", root=root, out=out, batch=2))
    assert report.answers is not None
    assert (report.mode, report.steps, report.maps) == (None, None, None)
    return report.answers, out


def test_every_item_is_asked_listed_or_counted_wrong(asked: tuple[AnswersReport, Path]) -> None:
    report, _ = asked
    assert report.asked == 4
    assert {one.id: one.reason for one in report.unevaluated} == {"none": "item_unreadable", "gone": "video_missing"}
    assert [one.id for one in report.faults] == ["4"]
    assert (report.groups["static"].questions, report.groups["dynamic"].questions) == (2, 2)
    assert (report.frames, report.expected) == (16, 1419)


def test_each_answer_says_what_was_shown_asked_said_and_read(asked: tuple[AnswersReport, Path]) -> None:
    answers = answers_in(asked[1])
    assert list(answers) == ["1", "part", "instant", "4", "gone"]
    for name in ("1", "part", "instant", "4"):
        answer = answers[name]
        assert answer.prompt is not None
        assert answer.prompt.endswith("Answer with only the letter of the correct option.")
        assert answer.response is not None
        assert (answer.parsed, answer.rule) != (None, "")
        assert answer.official == float(answer.parsed == answer.expected)
    assert (answers["1"].images, answers["1"].expected, len(answers["1"].times)) == (1, "C", 16)
    assert answers["4"].expected is None
    assert answers["gone"].prompt is None


def test_a_clip_that_was_not_cut_is_the_same_seconds_of_its_source(asked: tuple[AnswersReport, Path]) -> None:
    answers = answers_in(asked[1])
    part, instant = answers["part"], answers["instant"]
    assert (part.video, part.segment) == ("videos/vlm4d/2.mp4", (0.3, 0.7))
    # 30 frames a second: those of 0.3 s to 0.7 s are the 9th to the 20th, and each is shown once.
    assert part.times == pytest.approx([number / 30 for number in range(9, 21)])
    assert instant.times == pytest.approx([0.5])


def test_the_pages_show_scores_and_what_was_shown_for_wrong_answers(asked: tuple[AnswersReport, Path]) -> None:
    report, out = asked
    said = (out / "answers.md").read_text(encoding="utf-8")
    assert report.micro is not None
    assert f"| micro mean | {report.micro.official:.1%} |" in said
    assert f"| this evaluation | {report.micro.official:.1%} | {report.groups['static'].official:.1%} |" in said
    assert "| 4D-RGPT-8B (release, note 2) | 46.2% | 41.0% | 47.8% |" in said
    assert "- note 2, on others' figures: the same files and prompt" in said
    assert "which count as wrong: 1" in said
    assert "- gone: video_missing (" in said
    assert "- 4: no_right_answer (the published answer 'sideways' is none of the options)" in said
    page = (out / "answers.html").read_text(encoding="utf-8")
    wrong = [answer for answer in answers_in(out).values() if answer.official is not None and answer.official < 1]
    assert 1 <= len(wrong) <= 4
    assert page.count("<section>") == len(wrong)
    shown = {"1": 1 + 6, "part": 6, "instant": 1, "4": 6}
    assert page.count("data:image/jpeg") == sum(shown[answer.id] for answer in wrong)
    assert "Where to?" in page or "Where?" in page
    assert "<obj_1>" not in page  # a question's text is no markup
    assert "script" not in page


def test_a_stopped_evaluation_goes_on_and_ends_alike(
    asked: tuple[AnswersReport, Path], model: Path, root: Path, tmp_path: Path
) -> None:
    report, before = asked
    out = tmp_path / "eval"
    shutil.copytree(before, out)
    path = out / "answers.jsonl"
    first, rest = path.read_text(encoding="utf-8").split("\n", 1)
    marked = json.loads(first) | {"response": "kept"}
    path.write_text(json.dumps(marked) + "\n" + rest[:40], encoding="utf-8")  # a line was cut off
    wanted = Wanted(benchmark="r4d", root=root, out=out, batch=2, resume=True)
    again = evaluate(model, wanted).answers
    assert again == report
    answers = answers_in(out)
    assert answers["1"].response == "kept"
    assert {name: answer for name, answer in answers.items() if name != "1"} == {
        name: answer for name, answer in answers_in(before).items() if name != "1"
    }
    with pytest.raises(BadInput, match="given with other settings:\n  frames: they have 16, now it is 8"):
        evaluate(model, Wanted(benchmark="r4d", root=root, out=out, frames=8, resume=True))


def test_some_questions_are_asked_first_and_no_answer_is_lost(
    asked: tuple[AnswersReport, Path], model: Path, root: Path, tmp_path: Path
) -> None:
    report, before = asked
    wanted = Wanted(benchmark="r4d", root=root, out=tmp_path, batch=2, limit=2)
    some = evaluate(model, wanted).answers
    assert some is not None
    assert (some.asked, some.limit, list(answers_in(tmp_path))) == (2, 2, list(answers_in(before))[:2])
    assert "only the first 2 questions were to be asked" in (tmp_path / "answers.md").read_text(encoding="utf-8")
    with pytest.raises(BadInput, match="already holds answers; give another --out, --resume to keep them, or --overwrite"):
        evaluate(model, replace(wanted, limit=None))
    with pytest.raises(BadInput, match="already holds answers"):  # which is known before the model is looked for
        evaluate(tmp_path / "no model", replace(wanted, limit=None))
    with pytest.raises(BadInput, match="give one of them"):
        evaluate(model, replace(wanted, resume=True, overwrite=True))
    assert evaluate(model, replace(wanted, limit=None, resume=True)).answers == report
    assert answers_in(tmp_path) == answers_in(before)
    assert evaluate(model, replace(wanted, resume=True)).answers == some
    given = {name: answer for name, answer in answers_in(before).items() if answer.reason is None}
    assert answers_in(tmp_path) == given  # also those that were not asked for
    short = evaluate(model, replace(wanted, new_tokens=1, overwrite=True)).answers
    assert short is not None
    assert (short.new_tokens, len(answers_in(tmp_path))) == (1, 2)


@pytest.mark.complete  # starts torch twice
def test_two_processes_give_the_answers_of_one(
    asked: tuple[AnswersReport, Path], model: Path, root: Path, tmp_path: Path
) -> None:
    report, before = asked
    command = (model, "--benchmark", "r4d", "--root", root, "--out", tmp_path / "eval", "--batch", 2, "--json")
    (status, out, err), (other, _, _) = two_processes.finished(two_processes.start(COMMAND, *command, cwd=tmp_path))
    assert (status, other) == (1, 1), err
    assert EvalReport.model_validate_json(out).answers == report
    assert answers_in(tmp_path / "eval") == answers_in(before)
    assert {path.name for path in (tmp_path / "eval").glob("answers*")} >= {"answers.jsonl", "answers.settings.json"}
    assert not list((tmp_path / "eval").glob("answers.rank-*"))


def test_several_images_are_shown_in_their_order_without_a_video(model: Path, tmp_path: Path) -> None:
    images = [png((200, 30, 30)), png((30, 200, 30)), png((30, 30, 200))]
    question = "Which?\nOptions: A: one, B: two, C: three, D: four"
    rows = [
        {"id": n, "images": images[: n + 1], "question": question, "question_type": "MSR", "answer": "B"} for n in range(3)
    ] + [{"id": 3, "images": [b"no picture"], "question": question, "question_type": "MSR", "answer": "B"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "MMSI_Bench.parquet")
    benchmark = BENCHMARKS["mmsi"]
    student = load_student(model).eval()
    items = read(benchmark, tmp_path).items
    questions = Questions(benchmark, items, str(tmp_path), student.processor)
    last = questions[2]
    assert isinstance(last, Asked)
    assert [int(np.argmax(image.mean((0, 1)))) for image in last.prompt.images] == [0, 1, 2]
    assert last.prompt.ids.count(student.processor.image_token_id) == 3 * student.processor.image_ids().count(
        student.processor.image_token_id
    )
    small = Questions(_briefly("mmsi"), items, str(tmp_path), student.processor)
    alone, together = ([*ask(student, small, batch=n, workers=0, device=torch.device("cpu"))] for n in (1, 4))
    assert [answer.response for answer in alone] == [answer.response for answer in together]
    assert [answer.reason for answer in alone] == [None, None, None, "image_unreadable"]


def page_folder(folder: Path, model: Path, root: Path) -> dict[str, str]:
    """What the page downloads, with questions that can all be asked; and the environment of its commands."""
    shutil.copytree(model, folder / "NVILA-Lite-8B")
    shutil.copytree(root, folder / "R4D-Bench")
    items = json.loads((root / "test.json").read_text(encoding="utf-8"))
    (folder / "R4D-Bench" / "test.json").write_text(json.dumps(items[:4]), encoding="utf-8")
    return os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def page_blocks(kind: str) -> str:
    return "".join(re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


def shell(text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_pages_commands_run_as_written(model: Path, root: Path, tmp_path: Path) -> None:
    """On a folder in R4D-Bench's layout, of questions that can be asked."""
    environment = page_folder(tmp_path, model, root)
    text = page_blocks("bash")
    assert text.count("student-train eval") == 2
    done = shell(text, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    for said in (
        "needed test.json", "micro mean", "macro mean", "4D-RGPT-8B (release, note 2)", "4 questions of R4D-Bench/test.json",
    ):  # fmt: skip
        assert said in done.stdout
    assert {"answers.md", "answers.html", "answers.jsonl", "report.json"} <= {
        p.name for p in (tmp_path / "eval-base").iterdir()
    }


def test_the_pages_downloads_are_commands_that_hf_takes() -> None:
    """They are not run here: they need the network, and a licence that was accepted."""
    lines = [line.split() for line in page_blocks("console").splitlines() if line.startswith("hf ")]
    assert [line[:2] for line in lines] == [["hf", "download"]] * 2
    usage = subprocess.run(
        [Path(sys.executable).parent / "hf", "download", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(word in usage for line in lines for word in line if word.startswith("--"))


@pytest.mark.complete  # starts torch twice
def test_the_pages_command_for_several_gpus_runs_with_two_processes(model: Path, root: Path, tmp_path: Path) -> None:
    environment = page_folder(tmp_path, model, root)
    (line,) = (line for line in page_blocks("console").splitlines() if line.startswith("torchrun "))
    done = shell(line.replace("--nproc-per-node 8", "--nproc-per-node 2"), tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert list(answers_in(tmp_path / "eval-base")) == ["1", "part", "instant", "4"]


def test_a_plain_nvila_lite_is_loaded_as_it_is_published(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = build_student(ModelConfig())
    parts = student.parts()
    parts["vision_tower"].save_pretrained(tmp_path / "vision_tower")
    parts["llm"].save_pretrained(tmp_path / "llm")
    student.processor.save(tmp_path / "llm")
    (tmp_path / "mm_projector").mkdir()
    save_file(parts["projector"].state_dict(), tmp_path / "mm_projector" / "model.safetensors")
    opened = open_model(tmp_path, None)
    assert (opened.config, opened.steps, opened.dtype) == (None, None, "bfloat16")
    assert sorted(path.name for folder in opened.weights for path in folder.glob("*.safetensors")) == ["model.safetensors"] * 3
    assert opened.student.model.config.timestamps == "none"
    assert {parameter.dtype for parameter in opened.student.parameters()} == {torch.bfloat16}


def _briefly(name: str) -> Any:
    from dataclasses import replace

    return replace(BENCHMARKS[name], new_tokens=4)


def test_a_folder_that_holds_no_model_and_an_absent_root_are_refused(root: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run"):
        evaluate(tmp_path, Wanted(benchmark="r4d", root=root))
    with pytest.raises(BadInput, match=r"--benchmark r4d needs --root, its folder; needed test\.json"):
        evaluate(model, Wanted(benchmark="r4d"))
    with pytest.raises(BadInput, match="nothing to evaluate"):
        evaluate(model, Wanted())
