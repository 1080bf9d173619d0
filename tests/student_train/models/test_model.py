"""The student: timestamps by their formula, tokens in their places, gradients through every part, and a round trip to disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from schemas.train import ModelConfig
from student_train.data.chat import prompt, tokenize
from student_train.data.conversations import turn
from student_train.models.build import build_student, load_student
from student_train.models.nvila import RgptBackbone
from student_train.models.rgpt import Projector, siglip_pixels, timestamp_encoding

SIZE, GRID = 96, 8
"""Of the tiny preset: pixels of a frame, and tokens along its side."""


def built(**model: Any) -> RgptBackbone:
    student = build_student(ModelConfig(**model))
    assert isinstance(student, RgptBackbone)
    return student


@pytest.fixture(scope="module")
def student() -> RgptBackbone:
    torch.manual_seed(0)
    return built(freeze=())


def inputs(student: RgptBackbone, clips: int = 2, frames: int = 4) -> dict[str, Any]:
    """A batch of `clips` samples, each with one video and a few words around it."""
    generator = torch.Generator().manual_seed(1)
    tokens = frames * GRID**2
    words = torch.randint(3, 259, (clips, 12), generator=generator)
    video = torch.full((clips, tokens), student.video_token_id)
    ids = torch.cat([words[:, :5], video, words[:, 5:]], dim=1)
    labels = torch.where(torch.arange(ids.shape[1]) >= 5 + tokens, ids, -100)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "visual": {
            "frames": torch.randint(0, 256, (clips, frames, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator),
            "timestamps": torch.linspace(0, 3, frames, dtype=torch.float64).expand(clips, -1),
        },
    }


def encode(student: RgptBackbone, batch: dict[str, Any], slower: float = 1) -> torch.Tensor:
    return student.model.encode(batch["visual"]["frames"], batch["visual"]["timestamps"] * slower)


def test_timestamp_encoding_is_the_papers_formula() -> None:
    seconds, dim = 3.7, 12
    expected = []
    for i in range(dim // 2):
        angle = seconds / 10000 ** (2 * i / dim)
        expected += [math.sin(angle), math.cos(angle)]
    encoding = timestamp_encoding(torch.tensor([0.0, seconds], dtype=torch.float64), dim)
    torch.testing.assert_close(encoding[1], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(encoding[0], torch.tensor([0.0, 1.0] * 6, dtype=torch.float64))


def test_timestamps_are_added_to_the_towers_features_before_the_projector(student: RgptBackbone) -> None:
    batch = inputs(student, clips=1, frames=2)
    model = student.model
    side, width = model.config.downsample * GRID, model.config.vision_config.hidden_size
    pixels = siglip_pixels(batch["visual"]["frames"][0])
    features = model.vision_tower(pixel_values=pixels).last_hidden_state  # (frame, patch, vision)
    features = features + timestamp_encoding(batch["visual"]["timestamps"][0], width)[:, None].float()
    torch.testing.assert_close(encode(student, batch)[0], model.projector(features.view(2, side, side, width)))


def test_real_time_changes_the_tokens(student: RgptBackbone) -> None:
    batch = inputs(student)
    assert not torch.allclose(encode(student, batch, slower=2), encode(student, batch))


def test_without_timestamps_time_changes_nothing() -> None:
    student = built(timestamps="none")
    batch = inputs(student)
    torch.testing.assert_close(encode(student, batch, slower=2), encode(student, batch))


def test_the_released_place_adds_time_to_the_language_models_tokens() -> None:
    torch.manual_seed(3)
    after = built(timestamps="after_projector")
    torch.manual_seed(3)
    without = built(timestamps="none")
    batch = inputs(after, clips=1, frames=2)
    added = encode(after, batch) - encode(without, batch)
    expected = timestamp_encoding(batch["visual"]["timestamps"], 128)[:, :, None, None].float().expand_as(added)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=0)


def test_projector_puts_neighbours_side_by_side() -> None:
    projector = Projector(5, downsample=3, layers=["norm", 11, "gelu", 7])
    features = torch.randn(2, 6, 9, 5)
    corner = features[1, 3:6, 0:3].reshape(1, -1)  # rows, then columns, then channels
    tokens = projector(features)
    assert tokens.shape == (2, 2, 3, 7)
    torch.testing.assert_close(tokens[1, 1, 0], projector.layers(corner)[0])


def test_forward_gives_logits_loss_and_the_video_tokens_hidden_states(student: RgptBackbone) -> None:
    batch = inputs(student)
    output = student(**batch)
    assert output.logits.shape == (int((batch["labels"][:, 1:] != -100).sum()), len(student.processor.tokenizer))
    assert output.hidden is not None
    assert output.hidden.shape == (2, 4, GRID, GRID, student.hidden_size)
    full = student.model.llm.model(
        inputs_embeds=_embeddings(student, batch), attention_mask=batch["attention_mask"]
    ).last_hidden_state  # (sample, token, hidden)
    torch.testing.assert_close(output.hidden.flatten(1, 3), full[:, 5 : 5 + 4 * GRID**2])
    shown = batch["visual"]
    own = student.model(**{name: value for name, value in batch.items() if name != "visual"}, **shown)
    torch.testing.assert_close(output.loss, own.loss)
    torch.testing.assert_close(student(**unlabelled(batch)).logits, own.logits)


def test_padding_at_the_end_changes_nothing_and_at_the_beginning_it_is_masked(student: RgptBackbone) -> None:
    """At the end it needs no mask, which is why none reaches attention; transformers' own pass with one says the same."""
    batch = inputs(student)
    alone = student(**batch)
    masked = {}
    for name, sides in (("end", (0, 3)), ("beginning", (3, 0))):
        padded = batch | {
            "input_ids": F.pad(batch["input_ids"], sides, value=9),
            "attention_mask": F.pad(batch["attention_mask"], sides),
            "labels": F.pad(batch["labels"], sides, value=-100),
        }
        masked[name] = student(**padded)
        torch.testing.assert_close(masked[name].hidden, alone.hidden)
        torch.testing.assert_close(masked[name].loss, alone.loss)
    torch.testing.assert_close(masked["end"].logits, alone.logits)


def unlabelled(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "labels"}


def _embeddings(student: RgptBackbone, batch: dict[str, Any]) -> torch.Tensor:
    embeddings = student.model.get_input_embeddings()(batch["input_ids"]).clone()
    video = encode(student, batch).flatten(1, 3)
    embeddings[:, 5 : 5 + video.shape[1]] = video
    return embeddings


def test_loss_is_the_mean_over_its_labels_or_over_the_steps(student: RgptBackbone) -> None:
    batch = inputs(student)
    labels = int((batch["labels"][:, 1:] != -100).sum())
    mean = student(**batch).loss
    torch.testing.assert_close(student(**batch, label_count=4.0 * labels).loss, mean / 4)


def test_backward_reaches_every_part(student: RgptBackbone) -> None:
    output = student(**inputs(student))
    (output.loss + output.hidden.sum()).backward()
    assert all(p.grad is not None for part in student.parts().values() for p in part.parameters())
    student.zero_grad()


def test_frozen_parts_get_no_gradient() -> None:
    student = built()
    student(**inputs(student)).loss.backward()
    assert all(p.grad is None for p in student.model.vision_tower.parameters())
    assert all(p.grad is not None for p in student.model.projector.parameters())


def test_text_alone_needs_no_video(student: RgptBackbone) -> None:
    ids = torch.randint(3, 259, (2, 9))
    output = student(ids, torch.ones_like(ids), labels=ids)
    assert output.hidden is None
    assert output.loss.isfinite()


def test_a_still_has_no_time_and_its_own_places(student: RgptBackbone) -> None:
    """An image reads as a one-frame video without a time, wherever its places are."""
    frame = inputs(student, clips=1, frames=1)["visual"]["frames"][0]
    image = torch.tensor([[7, *student.processor.image_ids(), 8]])
    output = student(image, torch.ones_like(image), visual={"images": frame})
    assert output.hidden is None
    video = torch.tensor([[7, *student.processor.video_ids([0.0]), 8]])
    untimed = built(timestamps="none", freeze=())
    untimed.load_state_dict(student.state_dict())
    as_video = untimed(
        video, torch.ones_like(video), visual={"frames": frame[None], "timestamps": torch.zeros(1, 1, dtype=torch.float64)}
    )
    torch.testing.assert_close(output.logits, as_video.logits)


def test_a_wrong_number_of_video_tokens_is_refused(student: RgptBackbone) -> None:
    batch = inputs(student)
    batch["input_ids"][0, 6] = 5
    with pytest.raises(ValueError, match="511 video tokens, but the frames give 512"):
        student(**batch)


def test_answers_are_the_likeliest_tokens_one_by_one(student: RgptBackbone) -> None:
    batch = inputs(student, clips=1)
    ids, visual = batch["input_ids"], batch["visual"]
    answer = student.generate(ids, batch["attention_mask"], visual=visual, max_new_tokens=3)
    assert answer.shape == (1, 3)
    for token in answer[0]:
        logits = student(ids, torch.ones_like(ids), visual=visual).logits
        assert token == logits[0, -1].argmax()
        ids = torch.cat([ids, token.view(1, 1)], dim=1)


def test_saved_students_answer_as_before(student: RgptBackbone, tmp_path: Path) -> None:
    student.save(tmp_path)
    loaded = load_student(tmp_path)
    batch = inputs(student)
    torch.testing.assert_close(loaded(**batch).logits, student(**batch).logits)
    tokenizers = loaded.processor.tokenizer, student.processor.tokenizer
    assert len({tuple(tokenizer("a<video>b").input_ids) for tokenizer in tokenizers}) == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


def test_saved_students_say_how_a_chat_is_written(student: RgptBackbone, tmp_path: Path) -> None:
    student.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    turns = (turn("user", "Hi?"), turn("assistant", "Hi."))
    messages = [{"role": one.role, "content": one.text} for one in turns]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == tokenize(turns, student.processor)[0]
    begun = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    assert begun == prompt(turns[:1], student.processor)
