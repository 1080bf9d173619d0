"""A good checkpoint loads from either format; a bad one is refused with one sentence that says what to do."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_l4p import SMALL

from schemas.errors import BadInput
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import PRESETS


def write(tensors: dict[str, torch.Tensor], path):
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "pytorch-lightning_version": "2.4.0"}, path)
    else:
        save_file({name: t.clone() for name, t in tensors.items()}, path)
    return path


@pytest.fixture(params=["l4p.ckpt", "l4p.safetensors"])
def path(request, tmp_path):
    return tmp_path / request.param


def refusal(path, model: L4P | None = None) -> str:
    model = model or L4P(SMALL)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(BadInput) as error:
        model.load_checkpoint(path)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_weights_are_the_files(checkpoint, path, device):
    with torch.device(device):
        model = L4P(SMALL)
    assert model.load_checkpoint(str(write(checkpoint, path))) is model
    loaded = {f"l4p_model.{name}": t for name, t in model.state_dict().items()}
    assert loaded.keys() == checkpoint.keys()
    assert all(torch.equal(t, checkpoint[name]) for name, t in loaded.items())
    assert not any(p.requires_grad for p in model.parameters())


def test_the_tracking_head_is_left_out(checkpoint, path):
    checkpoint["l4p_model.task_heads.track_2d.prompt.weight"] = torch.full((3,), float("nan"))
    L4P(SMALL).load_checkpoint(write(checkpoint, path))


@pytest.mark.parametrize("dropped", [r"\.layer_rn\.", r"\.layer\d_rn\."])
def test_a_layer_with_two_names_may_come_under_one(checkpoint, path, dropped):
    once = {name: t for name, t in checkpoint.items() if not re.search(dropped, name)}
    model = L4P(SMALL).load_checkpoint(write(once, path))
    assert all(torch.equal(t, checkpoint[f"l4p_model.{name}"]) for name, t in model.state_dict().items())


def test_half_precision_files_load_as_float32(checkpoint, path):
    model = L4P(SMALL).load_checkpoint(write({name: t.bfloat16() for name, t in checkpoint.items()}, path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_checkpoint_on_disk_is_not_read_into_memory(checkpoint, tmp_path):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists a process's mapped files")
    path = write(checkpoint, tmp_path / "l4p.ckpt")
    model = L4P(SMALL).load_checkpoint(path)
    mapped = [
        [int(end, 16) for end in line.split()[0].split("-")] for line in maps.read_text().splitlines() if str(path) in line
    ]
    address = model.video_encoder.blocks[0].mlp.fc1.weight.data_ptr()
    assert any(start <= address < end for start, end in mapped)


def test_two_names_of_one_layer_must_agree(checkpoint, path):
    checkpoint["l4p_model.task_heads.depth.task_head.dpt.scratch.layer_rn.2.weight"] += 1
    message = refusal(write(checkpoint, path))
    assert "contradicts itself" in message
    assert "depth.task_head.dpt.scratch.layer_rn.2.weight" in message


def test_what_does_not_fit_is_named(checkpoint, path):
    del checkpoint["l4p_model.video_encoder.norm.bias"]
    checkpoint["l4p_model.video_encoder.cls_token"] = torch.zeros(1)
    checkpoint["optimizer.step"] = torch.zeros(1)
    checkpoint["l4p_model.video_encoder.norm.weight"] = torch.ones(7)
    message = refusal(write(checkpoint, path))
    assert "1 missing: l4p_model.video_encoder.norm.bias" in message
    assert "2 unexpected: " in message
    assert "l4p_model.video_encoder.cls_token" in message
    assert "optimizer.step" in message
    assert "1 of the wrong shape: l4p_model.video_encoder.norm.weight (needs [24], found [7])" in message


def test_another_size_of_the_network_is_named_as_such(checkpoint, path):
    with torch.device("meta"):
        model = L4P(PRESETS["giant"])
    write(checkpoint, path)
    with pytest.raises(
        BadInput, match=r"missing: .* and \d+ more\n.*of the wrong shape: .*needs \[1408, 3, 2, 14, 14\], found \[24"
    ):
        model.load_checkpoint(path)


def test_integers_are_not_weights(checkpoint, path):
    checkpoint["l4p_model.video_encoder.norm.weight"] = torch.ones(24, dtype=torch.int32)
    assert "1 not floating-point: l4p_model.video_encoder.norm.weight" in refusal(write(checkpoint, path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_must_be_finite(checkpoint, path, value):
    checkpoint["l4p_model.video_encoder.blocks.2.mlp.fc1.weight"][3, 4] = value
    message = refusal(write(checkpoint, path))
    assert "NaN or infinite weights in 1 tensors: l4p_model.video_encoder.blocks.2.mlp.fc1.weight" in message


def test_another_model_is_refused(path):
    message = refusal(write({"encoder.layer.0.weight": torch.zeros(2), "encoder.layer.0.bias": torch.zeros(2)}, path))
    assert "is not an L4P checkpoint: it has 2 tensors (encoder.layer.0" in message
    assert "l4p_depth_flow_2d3dtrack_camray_dynseg_v1.ckpt" in message


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.999])
def test_a_truncated_file_is_refused(checkpoint, path, kept):
    data = write(checkpoint, path).read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    message = refusal(path)
    assert "is truncated or damaged" in message
    assert "Fetch it again" in message


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/never-made-by-teacher-cache",)


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": checkpoint, "hyper_parameters": Evil()}, path)
    message = refusal(path)
    assert "holds Python objects besides tensors" in message
    assert "system" in message
    assert not Path("/tmp/never-made-by-teacher-cache").exists()


def test_a_plain_pickle_is_not_opened(checkpoint, tmp_path):
    path = tmp_path / "plain.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    assert "Plain pickles are not opened" in refusal(path)
    torch.save({"state_dict": checkpoint}, path, _use_new_zipfile_serialization=False)
    assert "Plain pickles are not opened" in refusal(path)


@pytest.mark.parametrize("content", [{"model": {"w": torch.zeros(1)}}, [torch.zeros(1)], {"state_dict": {"w": "text"}}])
def test_a_file_without_a_state_dict_says_what_it_has(tmp_path, content):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    assert "is not a Lightning checkpoint: it has " in refusal(path)


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "l4p.ckpt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    assert "is truncated or damaged" in refusal(path)


def test_a_missing_an_empty_and_a_foreign_file_are_refused(tmp_path):
    assert "cannot read the teacher's weights" in refusal(tmp_path / "none.ckpt")
    assert "cannot read the teacher's weights" in refusal(tmp_path)
    (tmp_path / "empty.ckpt").touch()
    assert "are an empty file" in refusal(tmp_path / "empty.ckpt")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><title>Google Drive: too many downloads</title>")
    assert "neither a PyTorch checkpoint" in refusal(tmp_path / "page.ckpt")
