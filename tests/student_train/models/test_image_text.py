"""LLaVA and InternVL as students: frames are images to them, in their places, and what is saved is the plain model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from student_folders import internvl
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForImageTextToText,
)
from without_values import is_the_same_without_values

from schemas.errors import BadInput
from schemas.train import ModelConfig
from student_train.data.chat import IGNORED_LABEL, prompt, tokenize
from student_train.data.conversations import turn
from student_train.models.backbone import Processor
from student_train.models.build import build_student, load_student
from student_train.models.image_text import VIDEO_ID, ImageTextBackbone, checkpoint, tiny

SECONDS = [0.0, 0.5, 1.0]
QUESTION = turn("user", "<video>\nWhat moves?")
# As LLaVA's own: it reads a turn's pieces alone, and of a plain text writes nothing.
PIECES = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for piece in message['content'] | selectattr('type', 'equalto', 'text') %}{{ piece['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


@pytest.fixture(scope="module", params=["llava", "internvl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "internvl":
        return internvl(path)
    tiny().save(path)
    return path


@pytest.fixture(scope="module")
def student(folder: Path) -> ImageTextBackbone:
    return checkpoint(folder, torch.float32)


def pictures(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (*shape, 56, 56, 3), dtype=np.uint8)


def test_frames_are_images_to_the_model(student: ImageTextBackbone, folder: Path) -> None:
    """An image, a video and another image, as transformers' own class sees five images."""
    processor, frames, images = student.processor, pictures(1, 3), pictures(2)
    ids = torch.tensor([[*processor.image_ids(), 5, *processor.video_ids(SECONDS), 6, *processor.image_ids(), 7]])
    output = student(ids, torch.ones_like(ids), visual=processor.visual(frames, np.array([SECONDS]), images))
    theirs = AutoModelForImageTextToText.from_pretrained(folder).eval()
    mean, std = (np.array(values, np.float32) for values in processor.pixels)
    ordered = np.stack([images[0], *frames[0], images[1]]).astype(np.float32)
    pixels = torch.from_numpy((ordered / 255 - mean) / std).movedim(-1, 1)
    shown = ids.masked_fill(ids == VIDEO_ID, theirs.config.image_token_id)
    expected = theirs(input_ids=shown, pixel_values=pixels, output_hidden_states=True)
    torch.testing.assert_close(output.logits, expected.logits)
    side = round(processor.tokens**0.5)
    assert output.hidden is not None
    assert output.hidden.shape == (1, 3, side, side, 64)
    torch.testing.assert_close(output.hidden.flatten(0, 3), expected.hidden_states[-1][ids == VIDEO_ID])


def test_a_batch_gives_what_its_samples_give_alone(student: ImageTextBackbone) -> None:
    """An image and a video, then a video alone, then text."""
    processor, frames, images = student.processor, pictures(2, 3), pictures(1)
    rows = [[*processor.image_ids(), *processor.video_ids(SECONDS), 5], [*processor.video_ids(SECONDS), 5, 6], [5, 6, 7]]
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    clock = np.array([SECONDS, SECONDS])
    logits = student(ids, mask, visual=processor.visual(frames, clock, images)).logits
    for number, visual in enumerate(((frames[:1], clock[:1], images), (frames[1:], clock[1:], None), (None, None, None))):
        row = torch.tensor([rows[number]])
        alone = student(row, torch.ones_like(row), visual=processor.visual(*visual)).logits
        torch.testing.assert_close(logits[number, : row.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


def test_the_parts_are_the_whole_model(student: ImageTextBackbone) -> None:
    parts = [{id(p) for p in part.parameters()} for part in student.parts().values()]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) == {id(p) for p in student.parameters()}


def test_what_the_tower_computes_and_nobody_reads_does_not_train(folder: Path) -> None:
    """LLaVA reads its last but one layer."""
    student = build_student(ModelConfig(backbone="image-text-to-text", weights=str(folder), freeze=()))
    ids = torch.tensor([[*student.processor.video_ids(SECONDS), 5, 6]])
    visual = student.processor.visual(pictures(1, 3), np.array([SECONDS]), None)
    student(ids, torch.ones_like(ids), labels=ids.clamp(min=0), visual=visual).loss.backward()
    weights = dict(student.named_parameters())
    assert {name for name in weights if weights[name].requires_grad} == {n for n in weights if weights[n].grad is not None}
    still = {name for name in weights if not weights[name].requires_grad}
    assert all("layers.1." in name or "post_layernorm" in name for name in still)
    assert bool(still) == ("llava" in folder.name)


def test_without_weights_it_is_the_same_but_for_the_values(folder: Path) -> None:
    is_the_same_without_values(ModelConfig(backbone="image-text-to-text", weights=str(folder)))


def with_tokenizer(student: ImageTextBackbone, kind: str) -> Processor:
    """The processor, whose tokenizer has a template that reads pieces alone, or begins every text with a token, as LLaVA's."""
    processor: Processor = pickle.loads(pickle.dumps(student.processor))
    tokenizer = processor.tokenizer
    if kind != "own":
        tokenizer.chat_template = PIECES
    if kind == "begins":
        tokenizer.bos_token = "<|endoftext|>"
        special = [("<|endoftext|>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=special)
    return processor


@pytest.mark.parametrize("kind", ["own", "pieces", "begins"])
def test_the_readme_of_an_export_writes_the_prompt_that_was_trained(student: ImageTextBackbone, kind: str) -> None:
    processor = with_tokenizer(student, kind)
    asked = prompt((QUESTION,), processor, SECONDS)
    ids, labels = tokenize((QUESTION, turn("assistant", "A ball.")), processor, SECONDS)
    assert ids[: len(asked)] == asked
    assert processor.tokenizer.decode([label for label in labels if label != IGNORED_LABEL]) == "A ball.<|im_end|>"
    assert (ids[0] == processor.tokenizer.bos_token_id) == (kind == "begins")
    code = ImageTextBackbone(student.model, processor).example
    names = {"torch": torch, "tokenizer": processor.tokenizer, "model": student.model}
    written = code[code.index("frames = torch") : code.index("pixels = ")].replace("torch.zeros(16", "torch.zeros(3")
    exec(written, names)
    shown = torch.tensor([asked]).masked_fill(torch.tensor([asked]) == VIDEO_ID, student.model.config.image_token_id)
    assert torch.equal(names["ids"], shown)


def test_answers_to_padded_prompts_are_the_likeliest_tokens(student: ImageTextBackbone) -> None:
    processor, frames = student.processor, pictures(2, 3)
    asked = [prompt((turn("user", f"<video>\nWhat{more}?"),), processor, SECONDS) for more in ("", " is it that moves")]
    length = max(map(len, asked))
    pad = int(processor.tokenizer.pad_token_id)
    ids = torch.tensor([[*[pad] * (length - len(row)), *row] for row in asked])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in asked])
    visual = processor.visual(frames, np.array([SECONDS] * 2), None)
    answers = student.generate(ids, mask, visual=visual, max_new_tokens=2)
    for number, answer in enumerate(answers):
        row = torch.tensor([asked[number]])
        own = processor.visual(frames[number : number + 1], np.array([SECONDS]), None)
        assert answer[0] == student(row, torch.ones_like(row), visual=own).logits[0, -1].argmax()


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("timestamps", "separator"):
        value = {"timestamps": "before_projector", "separator": "newline"}[name]
        with pytest.raises(BadInput, match=f"`model.{name}: {value}` is 4D-RGPT's; image-text-to-text has none"):
            build_student(ModelConfig.model_validate({"backbone": "image-text-to-text", name: value}))
    build_student(ModelConfig(backbone="qwen3-vl")).save(tmp_path)
    with pytest.raises(BadInput, match="holds a qwen3_vl; needed one of llava, internvl"):
        build_student(ModelConfig(backbone="image-text-to-text", weights=str(tmp_path)))
    settings = json.loads((folder / "config.json").read_text())
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"image_seq_length": 5}))
    with pytest.raises(BadInput, match="as 5 tokens; needed a square"):
        load_student(tmp_path)
