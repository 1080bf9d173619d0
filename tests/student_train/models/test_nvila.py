"""A checkpoint laid out as NVILA-Lite's: its parts are read into their places, and what does not fit is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from student_folders import MLP_3X3_FIX, Downsample, nvila_lite, with_projector
from torch import nn
from transformers import Qwen2ForCausalLM, SiglipVisionModel
from without_values import is_the_same_without_values

from schemas.errors import BadInput
from schemas.train import Dtype, ModelConfig
from student_train.data.chat import prompt
from student_train.data.conversations import turn
from student_train.models.build import build_student, load_student
from student_train.models.nvila import RgptBackbone
from student_train.models.tiny_tokenizer import tiny_tokenizer

# The layers of each `mm_projector_type`, at 64 channels of the tower and 128 of the language model.
MLP_2X2 = nn.Sequential(Downsample(2), nn.LayerNorm(256), nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 128))
PLAIN = nn.Sequential(Downsample(3), nn.Linear(576, 256), nn.GELU(), nn.Linear(256, 128))
PROJECTORS = {"mlp_downsample_3x3_fix": MLP_3X3_FIX, "mlp_downsample": MLP_2X2, "without norms": PLAIN}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in the three folders, with random weights; 9 × 9 patches, which 3 divides, as in 27 × 27 at 384 px."""
    return nvila_lite(tmp_path_factory.mktemp("nvila"), patches=9)


@pytest.fixture(scope="module")
def padded_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 11 × 11 patches: one short of whole squares, as 32 × 32 are at 448 px."""
    return nvila_lite(tmp_path_factory.mktemp("nvila"), patches=11)


def load(folder: Path, **model: Any) -> RgptBackbone:
    student = build_student(ModelConfig(weights=str(folder), **model))
    assert isinstance(student, RgptBackbone)
    return student


@pytest.mark.parametrize("layers", PROJECTORS.values(), ids=PROJECTORS)
@pytest.mark.parametrize("which", ["parts", "padded_parts"])
def test_every_part_does_in_its_place_what_it_did_alone(
    which: str, tmp_path: Path, layers: nn.Sequential, request: pytest.FixtureRequest
) -> None:
    folder = with_projector(Path(shutil.copytree(request.getfixturevalue(which), tmp_path / "copy")), layers)
    student = load(folder, timestamps="none")
    tower = SiglipVisionModel.from_pretrained(folder / "vision_tower")
    llm = Qwen2ForCausalLM.from_pretrained(folder / "llm")
    side = tower.config.image_size
    frames = torch.randint(0, 256, (1, 2, side, side, 3), dtype=torch.uint8)
    # NVILA projects the states before the tower's last layer.
    states = tower(pixel_values=frames[0].movedim(-1, 1) / 127.5 - 1, output_hidden_states=True).hidden_states[-2]
    expected = layers(states.view(2, side // 8, side // 8, 64))
    torch.testing.assert_close(student.model.encode(frames, None)[0], expected)
    assert len(student.processor.image_ids()) == student.model.grid**2 + 1 == expected.shape[1] ** 2 + 1
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(student(ids, torch.ones_like(ids)).logits, llm(ids).logits)


def test_a_line_break_comes_after_every_frame_and_image(padded_parts: Path) -> None:
    """As in NVILA's own encoders; that it is left out can be said, and both are kept in what is saved."""
    student = load(padded_parts)
    (line_break,) = student.processor.tokenizer("\n", add_special_tokens=False).input_ids
    video, image = student.video_token_id, student.processor.image_token_id
    assert student.processor.video_ids([0.0, 0.5]) == [*[video] * 16, line_break] * 2
    assert student.processor.image_ids() == [*[image] * 16, line_break]
    bare = load(padded_parts, separator="none")
    assert bare.processor.video_ids([0.0, 0.5]) == [video] * 32
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 88, 88, 3), dtype=np.uint8)
    visual = student.processor.visual(frames, np.array([[0.0, 0.5]]), None)
    hidden = []
    for one in (student, bare):
        ids = torch.tensor([one.processor.video_ids([0.0, 0.5])])
        found = one(ids, torch.ones_like(ids), visual=visual).hidden
        assert found is not None
        hidden.append(found)
    assert hidden[0].shape == hidden[1].shape == (1, 2, 4, 4, 128)
    torch.testing.assert_close(hidden[0][:, 0], hidden[1][:, 0])  # nothing comes before the first frame
    assert not torch.allclose(hidden[0][:, 1], hidden[1][:, 1])


def test_the_readme_of_an_export_writes_the_prompt_that_was_trained(padded_parts: Path) -> None:
    student = load(padded_parts)
    tokenizer = student.processor.tokenizer
    tokenizer.chat_template = "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}" + tokenizer.chat_template
    code = student.example
    names = {"torch": torch, "tokenizer": tokenizer, "model": student.model, "frames": torch.zeros(1, 16, 88, 88, 3)}
    exec(code[code.index("chat = [") : code.index("answer = ")], names)
    assert names["ids"].tolist() == [prompt((turn("user", "<video>\nWhat moves?"),), student.processor, range(16))]


def test_no_parameter_is_added_where_the_vocabulary_has_room(parts: Path) -> None:
    count = sum(p.numel() for p in load(parts).parameters())
    files = [parts / part / "model.safetensors" for part in ("vision_tower", "mm_projector", "llm")]
    assert count == sum(tensor.numel() for file in files for tensor in load_file(file).values())


def test_a_full_vocabulary_grows_by_the_words_for_what_is_shown(parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts, tmp_path / "copy"))
    tokenizer = tiny_tokenizer([])
    tokenizer.save_pretrained(folder / "llm")
    llm = Qwen2ForCausalLM.from_pretrained(folder / "llm")
    llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    llm.save_pretrained(folder / "llm")
    student = load(folder)
    assert student.model.get_input_embeddings().num_embeddings == len(tokenizer) + 2
    assert student.video_token_id >= len(tokenizer)


def test_what_is_loaded_is_saved_and_loaded_again(parts: Path, tmp_path: Path) -> None:
    student = load(parts, dtype="bfloat16", freeze=("llm",))
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in student.model.llm.parameters())
    student.save(tmp_path)
    again = load_student(tmp_path)
    assert isinstance(again, RgptBackbone)
    assert again.model.config.timestamps == "before_projector"
    assert again.model.config.vision_layer == -2
    assert again.model.config.separator == "\n"
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor.float(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_weights_it_is_the_same_but_for_the_values(padded_parts: Path, dtype: Dtype) -> None:
    is_the_same_without_values(ModelConfig(weights=str(padded_parts), dtype=dtype))


def wrong(folder: Path, name: str) -> Path:
    """The checkpoint with one thing wrong."""
    if name == "no projector":
        (folder / "mm_projector" / "model.safetensors").unlink()
    elif name == "another's projector":
        with_projector(folder, nn.Sequential(nn.Linear(500, 128)))
    elif name == "another's width":
        with_projector(folder, nn.Sequential(Downsample(3), nn.Linear(576, 64)))
    elif name == "other names":
        save_file({"linear_1.weight": torch.ones(2, 2)}, folder / "mm_projector" / "model.safetensors")
    else:
        shutil.rmtree(folder / "vision_tower")
        (folder / "config.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no projector", "there is no .*model.safetensors; needed the projector's weights"),
        ("another's projector", "takes 500 channels, and its tower gives 64"),
        ("another's width", "gives 64 channels, and its language model takes 128"),
        ("other names", "linear_1.weight; needed tensors called layers.N"),
        ("no tower", "no 4D-RGPT checkpoint: needed the folders vision_tower, mm_projector, llm"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_named(parts: Path, tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        load(wrong(Path(shutil.copytree(parts, tmp_path / "copy")), name))
