"""Qwen2's own tokenizer over single bytes, for models too small for a vocabulary of words."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, in which Qwen2 was taught to talk."""


def byte_tokenizer(words: Sequence[str]) -> Qwen2Tokenizer:
    """256 bytes, ChatML's marks and the given words; an answer ends with ``<|im_end|>``."""
    vocabulary = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary | {"<|endoftext|>": len(vocabulary)},
        merges=[],
        eos_token="<|im_end|>",  # noqa: S106  # a word, not a secret
        additional_special_tokens=["<|im_start|>", *words],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
