"""Turns become tokens by the student's own chat template, the same at training, at evaluation and after an export."""

from __future__ import annotations

import copy
import pickle

import pytest

from schemas.errors import BadInput
from schemas.train import BackboneName, ModelConfig
from student_train.data.chat import IGNORED_LABEL, prompt, tokenize
from student_train.data.conversations import Turn, turn
from student_train.models.backbone import Processor

# As Qwen2's own: a system turn with a default sentence comes first.
WITH_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' -%}{{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else -%}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif -%}"
    "{%- for message in messages if message['role'] != 'system' -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
FORGETFUL = (
    "{% for message in messages %}{% if message['role'] != 'assistant' or loop.last %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
SECONDS = [0.0, 0.5]


@pytest.fixture(scope="module", params=["4d-rgpt", "qwen2.5-vl", "qwen3-vl"])
def processor(request: pytest.FixtureRequest) -> Processor:
    from student_train.models.build import build_student

    name: BackboneName = request.param
    return build_student(ModelConfig(backbone=name)).processor


def with_template(processor: Processor, template: str) -> Processor:
    changed = copy.copy(processor)
    changed.tokenizer = copy.copy(processor.tokenizer)
    changed.tokenizer.chat_template = template
    return changed


def learnt(processor: Processor, turns: tuple[Turn, ...]) -> str:
    ids, labels = tokenize(turns, processor, SECONDS)
    assert all(label in {IGNORED_LABEL, token} for token, label in zip(ids, labels, strict=True))
    return str(processor.tokenizer.decode([label for label in labels if label != IGNORED_LABEL]))


TALK = (
    turn("user", "Look: <video> And <image>?"),
    Turn("assistant", ("A bäll.",)),
    turn("user", "Sure?"),
    Turn("assistant", ("Yes.\n",)),
)


@pytest.mark.parametrize("template", [None, WITH_SYSTEM], ids=["own", "with a system turn"])
@pytest.mark.parametrize("system", [(), (turn("system", "Be brief."),)], ids=["no system", "own system"])
def test_only_answers_are_learnt_and_each_is_what_is_asked_for(
    processor: Processor, template: str | None, system: tuple[Turn, ...]
) -> None:
    student = processor if template is None else with_template(processor, template)
    turns = (*system, *TALK)
    assert learnt(student, turns) == "A bäll.<|im_end|>Yes.\n<|im_end|>"
    ids, labels = tokenize(turns, student, SECONDS)
    for count in (len(system) + 1, len(system) + 3):
        asked = prompt(turns[:count], student, SECONDS)
        assert ids[: len(asked)] == asked
        assert labels[len(asked) - 1] == IGNORED_LABEL != labels[len(asked)]


@pytest.mark.parametrize("template", [None, WITH_SYSTEM], ids=["own", "with a system turn"])
def test_the_ids_are_those_that_transformers_gives(processor: Processor, template: str | None) -> None:
    """Of the text with the processor's tokens in their places."""
    student = processor if template is None else with_template(processor, template)
    tokenizer = student.tokenizer
    messages = [{"role": one.role, "content": one.text} for one in TALK]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    before, rest = text.split("<video>")
    between, after = rest.split("<image>")
    parts = (tokenizer(part, add_special_tokens=False).input_ids for part in (before, between, after))
    expected = [*next(parts), *student.video_ids(SECONDS), *next(parts), *student.image_ids(), *next(parts)]
    assert tokenize(TALK, student, SECONDS)[0] == expected


def test_a_placeholder_s_own_text_in_a_turn_is_text(processor: Processor) -> None:
    tokenizer = processor.tokenizer
    words = tokenizer.convert_ids_to_tokens([processor.video_token_id, processor.image_token_id])
    said = f"In HTML, {words[0]}{words[1]} and <video> <image>."
    ids, _ = tokenize((turn("user", "<image> What?"), Turn("assistant", (said,))), processor)
    assert ids.count(processor.video_token_id) == 0
    assert ids.count(processor.image_token_id) == processor.image_ids().count(processor.image_token_id)
    assert said in tokenizer.decode(ids)


def test_an_answer_alone_is_learnt_without_its_heading(processor: Processor) -> None:
    assert learnt(with_template(processor, WITH_SYSTEM), (Turn("assistant", ("Hello.",)),)) == "Hello.<|im_end|>"


def test_templates_that_cannot_be_learnt_from_are_refused(processor: Processor) -> None:
    with pytest.raises(BadInput, match="writes earlier turns in another way"):
        tokenize(TALK, with_template(processor, FORGETFUL), SECONDS)
    with pytest.raises(BadInput, match=r"does not take these turns: .*no system turn"):
        tokenize((turn("system", "Look."), *TALK), with_template(processor, STRICT), SECONDS)
    with pytest.raises(BadInput, match="does not take these turns"):
        prompt(TALK[:1], with_template(processor, "{{ 1 / 0 }}"), SECONDS)


def test_a_processor_with_its_template_crosses_a_process_boundary(processor: Processor) -> None:
    student = with_template(processor, WITH_SYSTEM)
    assert tokenize(TALK, pickle.loads(pickle.dumps(student)), SECONDS) == tokenize(TALK, student, SECONDS)
