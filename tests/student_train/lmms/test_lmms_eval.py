"""The plugin under lmms-eval itself: the same questions, answers and scores as `student-train eval`.

lmms-eval asks for some eighty packages, so it is installed apart. ``LMMS_EVAL_PYTHON`` names a Python that has it and what this
project needs; CONTRIBUTING.md says how to make one. Tests that need it skip without it.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benchmark_folders
import pytest
import torch
import yaml
from PIL import Image

from schemas.errors import BadInput, CouldNotRun
from schemas.evaluation import Answer, AnswersReport
from schemas.train import ModelConfig
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.registry import BENCHMARKS
from student_train.evaluation.evaluate import Wanted, evaluate
from student_train.lmms import TASKS, published
from student_train.models.build import build_student

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "guides" / "benchmarks.md"
NAMES = sorted(benchmark_folders.FOLDERS)


# --- without lmms-eval ---


class Loader(yaml.SafeLoader):
    """YAML as lmms-eval reads it: ``!function`` is a function's dotted name."""


Loader.add_constructor("!function", lambda loader, node: getattr(published, loader.construct_scalar(node).rpartition(".")[2]))


def task(name: str) -> dict[str, Any]:
    (path,) = (TASKS / name).glob("*.yaml")
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return found


@pytest.fixture(scope="module")
def roots(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each benchmark in its published layout."""
    return {name: made(tmp_path_factory.mktemp(name), videos) for name, made in benchmark_folders.FOLDERS.items()}


def documents(name: str, root: Path) -> list[dict[str, Any]]:
    return list(published._documents(read(BENCHMARKS[name], root), root, name))


def test_every_task_folder_is_a_benchmarks() -> None:
    assert sorted(path.name for path in TASKS.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_task_has_the_benchmarks_settings_and_every_score_it_gives(name: str, roots: dict[str, Path]) -> None:
    config = task(name)
    assert config["task"] == f"p4d_{name}"
    assert config["generation_kwargs"]["max_new_tokens"] == BENCHMARKS[name].new_tokens
    (row,) = json.loads((TASKS / name / "folder.json").read_text(encoding="utf-8"))
    assert (row["benchmark"], set(row)) == (name, {"benchmark", "variable", "folder"})
    metrics = {one["metric"]: one["aggregation"] for one in config["metric_list"]}
    assert (metrics[f"{name}_accuracy"] == "mean") != BENCHMARKS[name].is_macro
    found = {key for one in documents(name, roots[name]) for key in published.results(one, ["A"])}
    assert found - {f"{name}_answer"} <= set(metrics)
    assert {f"{name}_accuracy", f"{name}_lenient"} <= found


def test_lmms_eval_is_told_where_the_plugin_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (where,) = project["project"]["entry-points"]["lmms_eval.models"].values()
    module, _, name = where.partition(":")
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    (path,) = re.findall(r'chat_class_path="([\w.]+)"', text)
    assert f"def {name}(" in text
    assert f"class {path.rpartition('.')[2]}(" in (ROOT / f"{path.rpartition('.')[0].replace('.', '/')}.py").read_text()


def test_r4ds_scores_have_the_names_of_the_release() -> None:
    metrics = [one["metric"] for one in task("r4d")["metric_list"]]
    parts = ("accuracy", "static", "dynamic", "VG", "DM", "SR", "R", "C", "T", "FP", "SA", "DP")
    assert {f"r4d_{part}" for part in parts} <= set(metrics)
    assert set(published._CODES) == {row for found in BENCHMARKS["r4d"].published for row in found.parts} - {
        "static",
        "dynamic",
    }


def test_marks_are_pictures_and_parts_of_videos_have_their_times(roots: dict[str, Path]) -> None:
    marked, part, instant, _ = documents("r4d", roots["r4d"])
    image, video = published.visual(marked)
    assert isinstance(image, Image.Image)  # some models of lmms-eval leave out paths without a word
    assert video == str(roots["r4d"] / "videos/stibench/1.mp4")
    shown, watched, asked = published.messages(marked)[0]["content"]
    assert (shown["type"], watched["start_time"], asked["text"]) == ("image", None, published.text(marked))
    times = [published.messages(one)[0]["content"][0] for one in (part, instant)]
    assert [(one["start_time"], one["each_once"]) for one in times] == [(0.3, True), (0.5, True)]
    assert [one["end_time"] for one in times] == pytest.approx([0.7, 0.5])
    with pytest.raises(BadInput, match=r"from 0\.3 to 0\.7 s.*cut the clips"):
        published.visual(part)


def test_no_file_outside_of_the_benchmarks_folder_is_opened(roots: dict[str, Path], tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    shutil.copytree(roots["r4d"], root, dirs_exist_ok=True)
    outside = shutil.copy(next((root / "videos").rglob("*.mp4")), tmp_path / "outside.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (root / "linked.mp4").symlink_to(outside)
    one = json.loads((root / "test.json").read_text())[0] | {"source": None}
    for number, place in enumerate(
        [{"som_image": str(tmp_path / "outside.png")}, {"video": "../outside.mp4"}, {"video": "linked.mp4"}]
    ):
        (root / "test.json").write_text(json.dumps([one, one | {"id": f"outside-{number}"} | place]))
        assert len(documents("r4d", root)) == 1


def test_a_damaged_picture_is_told(roots: dict[str, Path], tmp_path: Path) -> None:
    marked = documents("r4d", roots["r4d"])[0]
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(CouldNotRun, match=r"cannot read the image .*bad\.png"):
        published.messages(marked | {"images": [str(tmp_path / "bad.png")]})


def test_what_was_not_asked_is_in_no_mean(roots: dict[str, Path]) -> None:
    (one, *_) = documents("vlm4d", roots["vlm4d"])
    assert published.results(one, [published.NOT_ASKED]) == {}
    assert published.results(one, [""])["vlm4d_accuracy"] == 0


def test_a_macro_mean_weighs_tasks_alike() -> None:
    assert published.macro([("a", 1.0), ("a", 0.0), ("a", 0.5), ("b", 0.0)]) == 0.25


# --- under lmms-eval ---


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that has lmms-eval."""
    if given := os.environ.get("LMMS_EVAL_PYTHON"):
        return given
    if importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("no lmms-eval: LMMS_EVAL_PYTHON names no Python that has it")
    return sys.executable


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that says letters, digits and marks, and others of other videos. It has the timestamp encoding.

    Weights as they are drawn say one token over and over; larger ones make states that differ.
    """
    folder = tmp_path_factory.mktemp("models") / "student"
    torch.manual_seed(0)
    made = build_student(ModelConfig())
    assert made.model.config.timestamps != "none"
    ids = made.processor.tokenizer("ABCDE12.() \n", add_special_tokens=False).input_ids
    head = made.model.get_output_embeddings().weight
    with torch.no_grad():
        for part in ("llm", "projector"):
            for weight in made.parts()[part].parameters():
                weight.mul_(5 if weight.ndim > 1 else 1)
        spoken = torch.zeros_like(head)
        spoken[ids] = torch.randn(len(ids), head.shape[1])
        head.copy_(spoken)
    made.save(folder)
    return folder


def environment(cwd: Path) -> dict[str, str]:
    here = {"PYTHONPATH": str(ROOT), "HF_HOME": str(cwd / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {key: value for key, value in os.environ.items() if not key.endswith("_ROOT")} | here


Run = tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]], str]
"""Task → metric → value; task → question's id → its line of the log; what the command said."""


@pytest.fixture(scope="module")
def run(python: str, student: Path, roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The page's commands, but for the installation, in a folder that has what they name."""
    out = tmp_path_factory.mktemp("lmms")
    for name, root in roots.items():
        (row,) = json.loads((TASKS / name / "folder.json").read_text(encoding="utf-8"))
        (out / row["folder"]).symlink_to(root)
    (out / "my-student").symlink_to(student)
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (text,) = (block for block in blocks if "-m lmms_eval" in block)
    install, _, commands = text.partition("\n")
    assert "pip install '.[train]' lmms-eval==" in install
    # In float32: lmms-eval asks all tasks at once, so batches are others, and in bfloat16 padding can change an answer.
    commands = commands.replace("pretrained=my-student", "pretrained=my-student,dtype=float32")
    done = subprocess.run(
        ["bash", "-euc", commands.replace("lmms/bin/python", python)],
        cwd=out, env=environment(out), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.rglob("*_results.json")
    logs = {}
    for name in NAMES:
        (log,) = out.rglob(f"*_samples_p4d_{name}.jsonl")
        lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
        logs[name] = {line.get(f"{name}_answer", {"id": "not asked"})["id"]: line for line in lines}
    return json.loads(path.read_text(encoding="utf-8"))["results"], logs, done.stdout + done.stderr


@pytest.fixture(scope="module")
def ours(student: Path, roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Benchmark → (report, answers)."""

    def asked() -> Iterator[tuple[str, tuple[AnswersReport, list[Answer]]]]:
        for name in NAMES:
            out = tmp_path_factory.mktemp("eval")
            report = evaluate(
                student, Wanted(benchmark=name, root=roots[name], out=out, batch=8, pictures=0, dtype="float32")
            ).answers
            assert report is not None
            lines = (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()
            yield name, (report, [*map(Answer.model_validate_json, lines)])

    return dict(asked())


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_the_command(name: str, run: Run, ours: dict[str, Any]) -> None:
    _, logs, _ = run
    asked = [answer for answer in ours[name][1] if answer.reason is None]
    assert len(asked) >= 2
    for answer in asked:
        line = logs[name][answer.id]
        assert line["filtered_resps"] == answer.response
        assert line["input"] == answer.prompt
        read_as = line[f"{name}_answer"]
        assert {key: read_as[key] for key in ("parsed", "rule", "lenient_rule", "expected", "fault")} == answer.model_dump(
            include={"parsed", "rule", "lenient_rule", "expected", "fault"}
        )
        assert line["target"] == (answer.expected or "")
    assert set(logs[name]) - {"not asked"} == {answer.id for answer in asked}


def test_the_answers_differ_and_some_are_right(ours: dict[str, Any]) -> None:
    """Else their agreement would say little."""
    answers = [answer for _, found in ours.values() for answer in found if answer.reason is None]
    assert len({answer.response for answer in answers}) > len(answers) / 2
    assert len({answer.parsed for answer in answers}) > 2
    assert any("\n\n" in (answer.response or "") for answer in answers)  # where lmms-eval cuts by default
    assert any(answer.official for answer in answers)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_command(name: str, run: Run, ours: dict[str, Any]) -> None:
    scores = {key.partition(",")[0]: value for key, value in run[0][f"p4d_{name}"].items()}
    report: AnswersReport = ours[name][0]
    assert report.micro is not None
    assert scores[f"{name}_accuracy"] == pytest.approx(report.overall)
    assert scores[f"{name}_lenient"] == pytest.approx(report.micro.lenient)
    parts = report.groups | {published._CODES.get(task, task): score for task, score in report.tasks.items()}
    metrics = {one["metric"] for one in task(name)["metric_list"]}
    compared = {part: score.official for part, score in parts.items() if f"{name}_{part}" in metrics}
    assert compared == pytest.approx({part: scores[f"{name}_{part}"] for part in compared})
    assert len(compared) == {"r4d": 2 + 4, "stibench": 0, "vlm4d": 2, "vstibench": 2}[name]
    if name == "r4d":
        assert scores["r4d_random"] == pytest.approx(report.micro.drawn / report.asked)


def test_what_cannot_be_read_is_told_and_in_no_mean(run: Run) -> None:
    said = run[2]
    assert "/R4D-Bench: 2 records are left out" in said
    assert "p4d_stibench, document 3 is not asked: not_a_video" in said
    assert "not asked" in run[1]["stibench"]


def test_a_model_of_lmms_evals_own_is_asked_too(python: str, roots: dict[str, Path], tmp_path: Path) -> None:
    """By its simple interface; the model opens the videos and says A, which is right for one of two and for one of four."""
    here = {"VLM4D_ROOT": str(roots["vlm4d"]), "STI_BENCH_ROOT": str(roots["stibench"])}
    command = (
        *(python, "-m", "lmms_eval", "--model", "dummy", "--model_args", "read_bytes=16", "--include_path", TASKS),
        *("--tasks", "p4d_vlm4d,p4d_stibench", "--output_path", tmp_path / "out"),
    )
    done = subprocess.run(
        [*map(str, command)], cwd=tmp_path, env=environment(tmp_path) | here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.rglob("*_results.json")
    scores = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert scores["p4d_vlm4d"]["vlm4d_accuracy,none"] == 0.5
    assert scores["p4d_stibench"]["stibench_accuracy,none"] == 0.25


def test_messages_are_of_lmms_evals_kind(python: str, roots: dict[str, Path], tmp_path: Path) -> None:
    """Its chat models get the picture of the marks, the part of the video, and nothing of this project's own."""
    code = (
        "import sys; from pathlib import Path; from lmms_eval.protocol import ChatMessages\n"
        "from student_train.evaluation.benchmarks.protocol import read\n"
        "from student_train.evaluation.benchmarks.registry import BENCHMARKS\n"
        "from student_train.lmms import published\n"
        "root = Path(sys.argv[1])\n"
        "for one in list(published._documents(read(BENCHMARKS['r4d'], root), root, 'r4d'))[:2]:\n"
        "    (turn,) = ChatMessages(messages=published.messages(one)).to_hf_messages()\n"
        "    shown = [{k: getattr(v, 'size', v) for k, v in part.items()} for part in turn['content']]\n"
        "    print([{k: v for k, v in part.items() if k not in ('text', 'video')} for part in shown])"
    )
    done = subprocess.run(
        [python, "-c", code, str(roots["r4d"])],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "[{'type': 'image', 'image': (96, 64)}, {'type': 'video'}, {'type': 'text'}]",
        "[{'type': 'video', 'video_start': 0.3, 'video_end': 0.7}, {'type': 'text'}]",
    ], done.stderr[-2000:]


OTHER_TASKS = """
import sys
from types import SimpleNamespace
from PIL import Image
from student_train.lmms.model import Student

student, image, video = sys.argv[1:]
model = Student(pretrained=student, batch_size=4, dtype="float32")
words = {"type": "text", "text": "What is it?"}
asked = [
    ([words], {}),
    ([{"type": "image", "url": image}, words], {"max_new_tokens": 4}),
    ([{"type": "image", "url": Image.open(image)}, words], {"max_new_tokens": 4}),
    ([{"type": "video", "url": video}, words], {"max_new_tokens": 32}),
    ([{"type": "video", "url": {"path": video, "video_start": 0.1, "video_end": 0.2}}, words], {"max_new_tokens": 32}),
    ([{"type": "video", "url": video, "start_time": 0.1, "end_time": 0.2}, words], {"max_new_tokens": 32}),
    ([{"type": "video", "url": video, "start_time": 0.2, "end_time": 0.1}, words], {}),
    ([{"type": "video", "url": video}, {"type": "video", "url": video}, words], {}),
    ([{"type": "audio", "url": "a.wav"}, words], {}),
    ([{"type": "video", "url": [Image.open(image)]}, words], {}),
]
model.task_dict = {"task": {"test": [[{"role": "user", "content": content}] for content, _ in asked]}}
requests = [SimpleNamespace(args=("", lambda doc: doc, settings, n, "task", "test")) for n, (_, settings) in enumerate(asked)]
whole = model.generate_until(requests)
print(whole)
cut = SimpleNamespace(args=("", lambda doc: doc, {"max_new_tokens": 32, "until": [whole[3][1]]}, 3, "task", "test"))
print(model.generate_until([cut]))
one, same, part, again = (model._ready(requests[n]).prompt.watched.frames for n in (3, 3, 4, 5))
print((one is same, part is again, one is part))
"""


def test_the_model_takes_what_other_tasks_give(
    python: str, student: Path, roots: dict[str, Path], tmp_path: Path, videos: Path
) -> None:
    given = (student, roots["r4d"] / "images/stibench/1.png", videos / "scene-0.mp4")
    done = subprocess.run(
        [python, "-c", OTHER_TASKS, *map(str, given)],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    whole, cut, shared = map(ast.literal_eval, done.stdout.splitlines())
    said, by_path, opened, shown, part, other_form, *refused = whole
    assert published.NOT_ASKED not in {said, by_path, opened, shown, part, other_form}
    assert by_path == opened  # a path is not left out
    assert part == other_form != shown
    assert max(map(len, (by_path, opened))) <= 4 < len(said)
    assert refused == [published.NOT_ASKED] * 4
    assert cut == [shown[:1].strip()]
    assert shared == (True, True, False)  # a video is read once for the questions about it
    for reason in ("needed start < end", "one video a question", "or audio", "needed a path"):
        assert reason in done.stderr


def test_a_wrong_folder_ends_at_once_with_its_message(python: str, tmp_path: Path) -> None:
    """Its message alone: lmms-eval would try again what raises, and show a traceback."""
    code = (
        "from student_train.lmms.published import documents; documents([{'benchmark': 'r4d', 'variable': 'V', 'folder': '.'}])"
    )
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"p4d: {tmp_path} is no R4D-Bench: it holds nothing")
    assert done.stderr.endswith("Set V to the benchmark's folder\n")
