"""The student: timestamps by their formula, tokens in their places, gradients through every part, and a round trip to disk."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM, SiglipVisionModel

from schemas.train import ModelConfig
from student_train.model import Projector, Student, build_student, siglip_pixels, timestamp_encoding


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    return build_student(ModelConfig(freeze=()))[0]


def inputs(student: Student, clips: int = 2, frames: int = 4) -> dict[str, torch.Tensor]:
    """A batch of `clips` samples, each with one video and a few words around it."""
    generator = torch.Generator().manual_seed(1)
    tokens = frames * student.grid**2
    words = torch.randint(3, 259, (clips, 12), generator=generator)
    video = torch.full((clips, tokens), student.video_token_id)
    ids = torch.cat([words[:, :5], video, words[:, 5:]], dim=1)
    labels = torch.where(torch.arange(ids.shape[1]) >= 5 + tokens, ids, -100)
    size = student.image_size
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "frames": torch.randint(0, 256, (clips, frames, size, size, 3), dtype=torch.uint8, generator=generator),
        "timestamps": torch.linspace(0, 3, frames, dtype=torch.float64).expand(clips, -1),
    }


def test_timestamp_encoding_is_the_papers_formula() -> None:
    seconds, dim = 3.7, 12
    expected = []
    for i in range(dim // 2):
        angle = seconds / 10000 ** (2 * i / dim)
        expected += [math.sin(angle), math.cos(angle)]
    encoding = timestamp_encoding(torch.tensor([0.0, seconds], dtype=torch.float64), dim)
    torch.testing.assert_close(encoding[1], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(encoding[0], torch.tensor([0.0, 1.0] * 6, dtype=torch.float64))


def test_timestamps_are_added_to_the_towers_features_before_the_projector(student: Student) -> None:
    batch = inputs(student, clips=1, frames=2)
    side = student.grid * student.projector.downsample
    features = student.vision_tower(pixel_values=siglip_pixels(batch["frames"][0])).last_hidden_state  # (frame, patch, vision)
    features = features + timestamp_encoding(batch["timestamps"][0], 64)[:, None].float()
    expected = student.projector(features.view(2, side, side, 64))
    torch.testing.assert_close(student.encode(batch["frames"], batch["timestamps"])[0], expected)


def test_real_time_changes_the_tokens(student: Student) -> None:
    batch = inputs(student)
    slow = student.encode(batch["frames"], batch["timestamps"] * 2)
    assert not torch.allclose(slow, student.encode(batch["frames"], batch["timestamps"]))


def test_without_timestamps_time_changes_nothing() -> None:
    student, _ = build_student(ModelConfig(timestamps="none"))
    batch = inputs(student)
    torch.testing.assert_close(
        student.encode(batch["frames"], batch["timestamps"] * 2), student.encode(batch["frames"], batch["timestamps"])
    )


def test_the_released_place_adds_time_to_the_language_models_tokens() -> None:
    torch.manual_seed(3)
    after, _ = build_student(ModelConfig(timestamps="after_projector"))
    torch.manual_seed(3)
    without, _ = build_student(ModelConfig(timestamps="none"))
    batch = inputs(after, clips=1, frames=2)
    added = after.encode(batch["frames"], batch["timestamps"]) - without.encode(batch["frames"], batch["timestamps"])
    expected = timestamp_encoding(batch["timestamps"], 128)[:, :, None, None].float().expand_as(added)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=0)


def test_projector_puts_neighbours_side_by_side() -> None:
    projector = Projector(5, 7, downsample=3)
    features = torch.randn(2, 6, 9, 5)
    corner = features[1, 3:6, 0:3].reshape(1, -1)  # rows, then columns, then channels
    tokens = projector(features)
    assert tokens.shape == (2, 2, 3, 7)
    torch.testing.assert_close(tokens[1, 1, 0], projector.mlp(corner)[0])


def test_forward_gives_logits_loss_and_the_video_tokens_hidden_states(student: Student) -> None:
    batch = inputs(student)
    output = student(**batch)
    assert output.logits.shape == (*batch["input_ids"].shape, 260)
    assert output.hidden is not None
    assert output.hidden.shape == (2, 4, student.grid, student.grid, student.hidden_size)
    full = student.llm.model(
        inputs_embeds=_embeddings(student, batch), attention_mask=batch["attention_mask"]
    ).last_hidden_state  # (sample, token, hidden)
    tokens = 4 * student.grid**2
    torch.testing.assert_close(output.hidden.flatten(1, 3), full[:, 5 : 5 + tokens])


def _embeddings(student: Student, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    embeddings = student.llm.get_input_embeddings()(batch["input_ids"]).clone()
    video = student.encode(batch["frames"], batch["timestamps"]).flatten(1, 3)
    embeddings[:, 5 : 5 + video.shape[1]] = video
    return embeddings


def test_loss_is_the_mean_over_its_labels_or_over_the_steps(student: Student) -> None:
    batch = inputs(student)
    labels = int((batch["labels"][:, 1:] != -100).sum())
    mean = student(**batch).loss
    torch.testing.assert_close(student(**batch, label_count=4.0 * labels).loss, mean / 4)


def test_backward_reaches_every_part(student: Student) -> None:
    output = student(**inputs(student))
    (output.loss + output.hidden.sum()).backward()
    for part in (student.vision_tower, student.projector, student.llm):
        assert all(p.grad is not None for p in part.parameters())
    student.zero_grad()


def test_frozen_parts_get_no_gradient() -> None:
    student, _ = build_student(ModelConfig())
    student(**inputs(student)).loss.backward()
    assert all(p.grad is None for p in student.vision_tower.parameters())
    assert all(p.grad is not None for p in student.projector.parameters())


def test_text_alone_needs_no_video(student: Student) -> None:
    ids = torch.randint(3, 259, (2, 9))
    output = student(ids, torch.ones_like(ids), labels=ids)
    assert output.hidden is None
    assert output.loss.isfinite()


def test_a_wrong_number_of_video_tokens_is_refused(student: Student) -> None:
    batch = inputs(student)
    batch["input_ids"][0, 6] = 5
    with pytest.raises(ValueError, match="127 video tokens, but the frames give 128"):
        student(**batch)


def test_saved_students_answer_as_before(student: Student, tmp_path: Path) -> None:
    _, tokenizer = build_student(ModelConfig())
    student.save(tmp_path, tokenizer)
    loaded, loaded_tokenizer = Student.load(tmp_path)
    batch = inputs(student)
    torch.testing.assert_close(loaded(**batch).logits, student(**batch).logits)
    assert loaded_tokenizer("a<video>b").input_ids == tokenizer("a<video>b").input_ids
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


def test_saved_parts_load_with_transformers_alone(student: Student, tmp_path: Path) -> None:
    _, tokenizer = build_student(ModelConfig())
    student.save(tmp_path, tokenizer)
    assert SiglipVisionModel.from_pretrained(tmp_path / "vision_tower").config.image_size == 96
    assert Qwen2ForCausalLM.from_pretrained(tmp_path / "llm").config.hidden_size == 128
    assert AutoTokenizer.from_pretrained(tmp_path / "tokenizer").convert_tokens_to_ids("<video>") == student.video_token_id
