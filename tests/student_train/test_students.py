"""Every student with every feature: the table of docs/reference/students.md, a test for each of its cells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import two_processes
import yaml
from PIL import Image
from student_folders import internvl, nvila_lite
from transformers import AutoModelForImageTextToText

from schemas.errors import BadInput
from schemas.train import FitReport, ModelConfig, TrainConfig
from student_train.evaluation.evaluate import Wanted, evaluate
from student_train.export import export
from student_train.models.backbone import Backbone
from student_train.models.build import build_student, load_student
from student_train.training.fit import fit

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "students.md"
STEPS = 2
STUDENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "NVILA-Lite 384": lambda folder: {"weights": str(nvila_lite(folder, patches=9))},
    "NVILA-Lite 448": lambda folder: {"weights": str(nvila_lite(folder, patches=11))},
    "Qwen2.5-VL": lambda _: {"backbone": "qwen2.5-vl"},
    "Qwen3-VL": lambda _: {"backbone": "qwen3-vl"},
    "InternVL": lambda folder: {"backbone": "image-text-to-text", "weights": str(internvl(folder))},
}
"""Name → a `model` of TRAIN.yaml, whose checkpoint is written to a folder. The NVILA-Lite of 384 pixels has patches that 3
divides, and that of 448 one fewer; InternVL stands for `image-text-to-text`, and its embeddings are its head."""


class Runs:
    """Fits of every student over the same four conversations, all of them in each step."""

    def __init__(self, folder: Path, store: Path, videos: Path) -> None:
        self.folder, self.store, self.videos = folder, store, videos
        Image.new("RGB", (80, 60), "green").save(folder / "green.png")
        turns = [{"from": "human", "value": "What moves?"}, {"from": "gpt", "value": "A ball."}]
        samples: list[dict[str, Any]] = [{"conversations": turns, "video": f"scene-{i}.mp4"} for i in range(2)]
        samples += [{"conversations": turns, "video": "scene-1.mp4", "image": "green.png"}, {"conversations": turns}]
        (folder / "train.json").write_text(json.dumps(samples), encoding="utf-8")
        self.models: dict[str, dict[str, Any]] = {}
        for number, (name, made) in enumerate(STUDENTS.items()):
            torch.manual_seed(number)
            self.models[name] = made(folder / f"weights-{number}")
        self.alone = cache(self._alone)
        self.together = cache(self._together)

    def config(self, student: str, kind: str, **changes: Any) -> TrainConfig:
        roots = {"image_root": str(self.folder), "video_root": str(self.videos)}
        base = {
            "store": str(self.store),
            "output": str(self.folder / f"{student} {kind}"),
            "model": self.models[student],
            "data": {"conversations": str(self.folder / "train.json"), "workers": 0, **roots},
            "decoder": {"hidden": 32},
            "mode": "latent",
            "optim": {"learning_rate": 2e-3},
            "steps": STEPS,
            "batch": 4,
        }
        return TrainConfig.model_validate(base | changes)

    def _alone(self, student: str) -> Path:
        """The folder of a run by one process, with a checkpoint before its last step."""
        config = self.config(student, "alone", checkpoint_every=STEPS - 1)
        fit(config)
        return Path(config.output)

    def _together(self) -> None:
        """Runs by two processes of all students, one after another, so that they start once."""
        files = []
        for number, student in enumerate(STUDENTS):
            for kind, changes in (("DDP", {}), ("FSDP", {"fsdp": "full_shard"})):
                files.append(self.folder / f"{number}-{kind}.yaml")
                config = self.config(student, kind, batch=2, **changes)
                files[-1].write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
        done = two_processes.finished(two_processes.start(two_processes.PROGRAM, *files, cwd=self.folder), timeout=300)
        assert [status for status, _, _ in done] == [0, 0], done
        assert [out for _, out, _ in done] == ["", ""]  # what stopped a fit


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_store: Path, videos: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("students"), tiny_store, videos)


class Cell(NamedTuple):
    """What a check looks at."""

    runs: Runs
    student: str
    folder: Path
    """An empty one."""


def curve(output: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: line[name] for name in ("loss", "sft", "ld", "grad_norm")} for line in lines]


def is_the_same_curve(mine: Path, theirs: Path) -> None:
    for ours, others in zip(curve(mine), curve(theirs), strict=True):
        assert ours == pytest.approx(others, rel=1e-3)


def trains(cell: Cell) -> None:
    """From a store, on videos, an image with a video, and text: every part of the loss falls, and the tower stays."""
    output = cell.runs.alone(cell.student)
    lines = curve(output)
    for part in ("loss", "sft", "ld"):
        assert lines[-1][part] < lines[0][part], part
    torch.manual_seed(0)
    began, ended = build_student(cell.runs.config(cell.student, "").model), load_student(output / "student")
    moved = {
        name: any(not torch.equal(p, q) for p, q in zip(part.parameters(), ended.parts()[name].parameters(), strict=True))
        for name, part in began.parts().items()
    }
    assert moved == {"vision_tower": False, "projector": True, "llm": True}


def trains_whole(cell: Cell) -> None:
    """With nothing frozen, each weight that is to train gets a gradient, for which DDP waits."""
    student = build_student(cell.runs.config(cell.student, "", model={**cell.runs.models[cell.student], "freeze": ()}).model)
    processor, seconds = student.processor, [0.0, 0.5]
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, *[processor.image_size] * 2, 3), dtype=np.uint8)
    ids = torch.tensor([[*processor.video_ids(seconds), 5, 6]])
    visual = processor.visual(frames, np.array([seconds]), None)
    output = student(ids, torch.ones_like(ids), labels=ids.clamp(min=0), visual=visual)
    output.loss.backward()
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert trained == {name for name, weight in student.named_parameters() if weight.grad is not None}
    assert {name for name, part in student.parts().items() if any(p.requires_grad for p in part.parameters())} == {
        "vision_tower", "projector", "llm",
    }  # fmt: skip


def checkpoints_activations(cell: Cell) -> None:
    config = cell.runs.config(cell.student, "recomputed", gradient_checkpointing=True)
    fit(config)
    is_the_same_curve(Path(config.output), cell.runs.alone(cell.student))


def adapts(cell: Cell) -> None:
    """Adapters alone train in the language model, and what is saved has the plain model's names."""
    report = fit(cell.runs.config(cell.student, "adapted", lora={"rank": 2}, steps=1))
    parts = report.parameters
    assert report.trained_parameters == parts["adapters"] + parts["projector"] + parts["perception_decoder"]
    plain = load_student(cell.runs.alone(cell.student) / "student").model
    adapted = load_student(Path(report.output) / "student").model
    assert {n: p.shape for n, p in adapted.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}


def resumes(cell: Cell) -> None:
    alone = cell.runs.alone(cell.student)
    config = cell.runs.config(cell.student, "resumed", checkpoint_every=STEPS - 1)
    shutil.copytree(alone, config.output)
    (Path(config.output) / "result.json").unlink()
    fit(config, resume=True)
    assert curve(Path(config.output)) == curve(alone)
    mine, theirs = (load_student(folder / "student").model.state_dict() for folder in (Path(config.output), alone))
    for name, weight in mine.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=0, msg=name)


def is_repeated(cell: Cell) -> None:
    by_two(cell, "DDP")


def is_sharded(cell: Cell) -> None:
    by_two(cell, "FSDP")


def by_two(cell: Cell, kind: str) -> None:
    """Two processes have the losses of one, and write the same student."""
    cell.runs.together()
    output, alone = Path(cell.runs.config(cell.student, kind).output), cell.runs.alone(cell.student)
    assert FitReport.model_validate_json((output / "result.json").read_text(encoding="utf-8")).processes == 2
    is_the_same_curve(output, alone)
    mine, theirs = (load_student(folder / "student").model.state_dict() for folder in (output, alone))
    for name, weight in mine.items():
        torch.testing.assert_close(weight, theirs[name], rtol=2e-3, atol=2e-4, msg=name)


def inputs(student: Backbone, seconds: list[float]) -> dict[str, Any]:
    size, processor = student.processor.image_size, student.processor
    frames = np.random.default_rng(0).integers(0, 256, (1, len(seconds), size, size, 3), dtype=np.uint8)
    ids = torch.tensor([[5, *processor.video_ids(seconds), 6]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "visual": processor.visual(frames, np.array([seconds]), None),
    }


def exports(cell: Cell) -> None:
    """transformers' own class gives the trained student's logits from the files alone."""
    run = cell.runs.alone(cell.student)
    export(run, cell.folder / "out")
    student = load_student(run / "student").eval()
    plain = AutoModelForImageTextToText.from_pretrained(cell.folder / "out").eval()
    given = inputs(student, [0.0, 0.5])
    own = {**given, **student.model_inputs(given["input_ids"], given.pop("visual"))}
    with torch.no_grad():
        torch.testing.assert_close(plain(**own).logits, student.model(**own).logits, rtol=0, atol=0)
    assert (cell.folder / "out" / "README.md").is_file()


def evaluates(cell: Cell) -> None:
    question = {"id": "a", "task": "Counting", "video": "scene-0.mp4", "question": "How many?", "options": ["1", "2"]}
    (cell.folder / "questions.json").write_text(json.dumps([question | {"answer": "2"}]), encoding="utf-8")
    wanted = Wanted(limit=1, pictures=0, questions=cell.folder / "questions.json", video_root=str(cell.runs.videos))
    report = evaluate(cell.runs.alone(cell.student), wanted)
    assert report.maps is not None
    assert report.maps.clips == 1
    assert report.answers is not None
    assert not report.answers.unevaluated


def tells_time(cell: Cell) -> None:
    """The timestamp encoding tells frames half a second apart from the same frames eight seconds apart."""
    student = build_student(cell.runs.config(cell.student, "").model).eval()
    near, far = (student(**inputs(student, seconds)).hidden for seconds in ([0.0, 0.5], [0.0, 8.0]))
    assert not torch.allclose(near[:, 1], far[:, 1])
    bare = ModelConfig.model_validate(cell.runs.models[cell.student] | {"timestamps": "none"})
    student = build_student(bare).eval()
    near, far = (student(**inputs(student, seconds)).hidden for seconds in ([0.0, 0.5], [0.0, 8.0]))
    torch.testing.assert_close(near, far, rtol=0, atol=0)


def refuses_timestamps(cell: Cell) -> None:
    with pytest.raises(BadInput, match="is 4D-RGPT's"):
        build_student(ModelConfig.model_validate(cell.runs.models[cell.student] | {"timestamps": "before_projector"}))


FEATURES: dict[str, Callable[[Cell], None]] = {
    "`fit`": trains,
    "`--resume`": resumes,
    "`freeze: []`": trains_whole,
    "`gradient_checkpointing`": checkpoints_activations,
    "`lora`": adapts,
    "two processes (DDP)": is_repeated,
    "`fsdp`": is_sharded,
    "`export`": exports,
    "`eval`": evaluates,
    "`timestamps` (TPE)": tells_time,
}
REFUSED = {("`timestamps` (TPE)", student): refuses_timestamps for student in ("Qwen2.5-VL", "Qwen3-VL", "InternVL")}
"""Cells that say `refused`, and the test that it is."""
CELLS = [
    pytest.param(feature, student, "refused" if (feature, student) in REFUSED else "✓", id=f"{feature} {student}")
    for student in STUDENTS
    for feature in FEATURES
]


@pytest.mark.parametrize(("feature", "student", "says"), CELLS)
def test_cell(runs: Runs, tmp_path: Path, feature: str, student: str, says: str) -> None:
    check = REFUSED[feature, student] if says == "refused" else FEATURES[feature]
    check(Cell(runs, student, tmp_path))


def test_the_page_has_the_cells_that_are_tested(request: pytest.FixtureRequest) -> None:
    """As pytest collects them from this file, none left out."""
    module = request.node.getparent(pytest.Module)
    collected = [item.callspec.params for item in module.collect() if item.originalname == "test_cell"]
    tested = {(params["feature"], params["student"]): params["says"] for params in collected}
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    (_, *students), _, *features = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    written = {(name, student): said for name, *cells in features for student, said in zip(students, cells, strict=True)}
    assert len(tested) == len(collected) == len(FEATURES) * len(STUDENTS)
    assert written == tested
