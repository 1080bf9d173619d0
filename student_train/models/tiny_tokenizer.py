"""Qwen2's own tokenizer with a vocabulary of a few hundred: bytes, and pieces of the words that scenes' questions are made of.

For models too small for Qwen2's 150 thousand. Any text can be written in it; that of `teacher-cache scenes` takes a third of
its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, in which Qwen2 was taught to talk."""
MERGES_FILE = Path(__file__).parent / "merges.txt"

Merge = tuple[str, str]


def tiny_tokenizer(words: Sequence[str]) -> Qwen2Tokenizer:
    """256 bytes, the packaged merges, ChatML's marks and the given words; an answer ends with ``<|im_end|>``."""
    return tokenizer_of([_pair(line) for line in MERGES_FILE.read_text(encoding="utf-8").splitlines()], words)


def tokenizer_of(merges: Sequence[Merge], words: Sequence[str]) -> Qwen2Tokenizer:
    """256 bytes, pieces by ``merges``, ChatML's marks and the given words."""
    pieces = dict.fromkeys([*sorted(ByteLevel.alphabet()), *(left + right for left, right in merges), "<|endoftext|>"])
    tokenizer = Qwen2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=list(merges),
        eos_token="<|im_end|>",  # noqa: S106  # a word, not a secret
        additional_special_tokens=["<|im_start|>", *words],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _pair(line: str) -> Merge:
    left, right = line.split(" ")
    return left, right
