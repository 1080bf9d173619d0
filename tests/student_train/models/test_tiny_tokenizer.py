"""The tiny students' vocabulary writes any text, and questions about scenes in few tokens."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.evaluation import multiple_choice
from student_train.data.tiny_merges import learn_merges
from student_train.models.tiny_tokenizer import tiny_tokenizer
from teacher_cache.scenes import frame_times, random_scene, render_scene
from teacher_cache.scenes.questions import mark_objects, scene_questions

TOKENIZER = tiny_tokenizer(["<video>"])


@given(st.text())
@example("\ufb2a")  # normalising takes it apart
def test_any_text_comes_back_in_normal_form_c(text: str) -> None:
    """Qwen2's tokenizer normalises before it splits."""
    assert TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False).input_ids) == unicodedata.normalize("NFC", text)


def test_words_and_marks_are_single_tokens() -> None:
    for word in ("<video>", "<|im_start|>", "<|im_end|>", "A", " camera", " left"):
        (token,) = TOKENIZER(word, add_special_tokens=False).input_ids
        assert TOKENIZER.decode([token]) == word
    assert max(TOKENIZER.get_vocab().values()) == len(TOKENIZER) - 1


def test_questions_about_scenes_take_a_third_of_their_bytes() -> None:
    """Else the packaged merges were learnt from other questions: learn them again."""
    scene = random_scene(10)
    truth = render_scene(scene, frame_times(8, 4.0), height=56, width=56)
    texts = [multiple_choice(q.text, q.options) for q in scene_questions(scene, truth, mark_objects(truth, 10))]
    assert len(texts) >= 5
    tokens = sum(len(TOKENIZER(text).input_ids) for text in texts)
    assert tokens < 0.37 * sum(len(text.encode()) for text in texts)


def test_what_is_frequent_becomes_one_piece_whatever_the_order() -> None:
    texts = ["the cat", "the hat"] * 60 + ["rare"]
    merges = learn_merges(texts)
    assert merges == learn_merges(reversed(texts))
    pieces = {left + right for left, right in merges}
    assert {"the", "Ġcat", "Ġhat"} <= pieces
    assert not any(piece in {"ra", "ar", "re"} for piece in pieces)


@pytest.mark.parametrize("words", [[], ["<video>", "<image>"]])
def test_the_given_words_come_last(words: list[str]) -> None:
    tokenizer = tiny_tokenizer(words)
    assert [tokenizer.convert_ids_to_tokens(len(tokenizer) - len(words) + i) for i in range(len(words))] == words
