"""A model's folder from anyone: none of its code runs, nobody is asked, and a few bytes of JSON take no memory."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import BadInput
from schemas.train import ModelConfig
from student_train.models.build import build_student, load_student

ROOT = Path(__file__).resolve().parents[3]
EVIL = "import pathlib\npathlib.Path({mark!r}).touch()\nfrom transformers import Qwen2Config\nclass Config(Qwen2Config): ...\n"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user who agrees to all that is asked. Returns the file that a folder's code makes, should it run."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "it ran"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    build_student(ModelConfig(backbone="qwen2.5-vl", freeze=())).save(folder)
    return folder


@pytest.fixture
def changed(qwen: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model's folder, with fields of one of its JSON files changed."""

    def change(name: str = "config.json", **fields: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(qwen, folder, dirs_exist_ok=True)
        held = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(merged(held, fields)))
        return folder

    return change


def merged(held: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return held | {n: merged(held.get(n) or {}, v) if isinstance(v, dict) else v for n, v in fields.items()}


def build(folder: Path) -> None:
    build_student(ModelConfig(backbone="qwen2.5-vl", weights=str(folder), freeze=()))


def test_code_in_a_folder_is_named_and_never_run_nor_asked_about(tmp_path: Path, eager: Path) -> None:
    """NVILA's layout: its language model is in a folder of its own, with a tokenizer that would need the code."""
    build_student(ModelConfig(freeze=())).save(tmp_path / "rgpt")
    folder = tmp_path / "nvila"
    student = load_student(tmp_path / "rgpt")
    student.model.vision_tower.save_pretrained(folder / "vision_tower")
    student.model.llm.save_pretrained(folder / "llm")
    student.processor.save(folder / "llm")
    (folder / "mm_projector").mkdir()
    (folder / "llm/evil.py").write_text(EVIL.format(mark=str(eager)))
    config = json.loads((folder / "llm/config.json").read_text())
    (folder / "llm/config.json").write_text(
        json.dumps(config | {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    with pytest.raises(
        BadInput, match=r"llm needs code of its own: `auto_map` in config.json names .*evil.Config.*never runs here"
    ):
        build_student(ModelConfig(weights=str(folder)))
    assert not eager.exists()


def test_an_export_s_code_beside_it_is_not_what_runs(tmp_path: Path, eager: Path) -> None:
    torch.manual_seed(0)
    build_student(ModelConfig(freeze=())).save(tmp_path / "export")
    (tmp_path / "export/rgpt.py").write_text(EVIL.format(mark=str(eager)))
    assert load_student(tmp_path / "export").hidden_size == 128
    assert not eager.exists()


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}}, "`auto_map` in config.json names"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "`auto_map` in tokenizer_config.json names"),
        ("config.json", {"text_config": {"attn_implementation": "someone/kernel"}}, "the kernel 'someone/kernel'"),
        ("adapter_config.json", {"base_model_name_or_path": "/etc"}, "adapters"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../x.safetensors"}}, "its index names '../x.safetensors'"),
        ("config.json", {"text_config": {"vocab_size": 2**33}}, "its files hold"),
        ("config.json", {"text_config": {"hidden_size": 2**44}}, "cannot read the model"),
        ("config.json", {"text_config": {"num_hidden_layers": 10**9, "layer_types": None}}, "1,000,000,000 layers"),
        ("config.json", {"vision_config": {"depth": 10**9}}, "1,000,000,000 layers"),
        ("config.json", {"text_config": {"hidden_size": "wide"}}, "cannot read the model"),
        ("config.json", {"vision_config": {"patch_size": -14}}, "cannot read the model"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 10**14, "longest_edge": 10**15}}, "pixels a side"),
        ("preprocessor_config.json", {"image_mean": 5}, "cannot read the model"),
        ("preprocessor_config.json", {"size": "large"}, "cannot read the model"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("eager")
def test_what_a_folder_may_not_ask_for_is_one_clear_error(
    name: str, fields: dict[str, Any], said: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(BadInput, match=said):
        build(changed(name, **fields))


def test_weights_are_read_from_safetensors_alone(changed: Callable[..., Path]) -> None:
    folder = changed()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    save_file({"stray": torch.zeros(1)}, folder / "other.safetensors")
    build(changed(transformers_weights="pytorch_model.bin"))
    (folder / "model.safetensors").unlink()
    (folder / "other.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no weights as safetensors \(pytorch_model.bin: pickles, which can run code\)"):
        build(folder)


@pytest.mark.parametrize("text", ["[]", "{", "null", '{"model_type": []}'])
def test_a_config_that_is_none_is_one_clear_error(text: str, changed: Callable[..., Path]) -> None:
    folder = changed()
    (folder / "config.json").write_text(text)
    for load in (build, load_student):
        with pytest.raises(BadInput):
            load(folder)


def test_models_are_loaded_in_one_place() -> None:
    """In each of two rooms, which trusts no code and asks no hub; another call might forget to say so."""
    places = {"student_train/models/folder.py", "teacher_cache/teachers/phrases.py"}
    for package in ("schemas", "teacher_cache", "cluster", "student_train"):
        for path in (ROOT / package).rglob("*.py"):
            calls = [call.func for call in ast.walk(ast.parse(path.read_text())) if isinstance(call, ast.Call)]
            names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
            loads = names & {"from_pretrained", "from_config", "hf_hub_download", "snapshot_download", "load_adapter"}
            assert not loads or path.relative_to(ROOT).as_posix() in places, path
