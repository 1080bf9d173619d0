"""Extra tokens go in; Qwen2's tokenizer comes out with a few hundred tokens instead of 150 thousand, for tiny models.

The vocabulary is all bytes, so that it can encode any text, and merges learnt from the questions about rendered scenes. A text
of `teacher-cache scenes` takes a third as many tokens as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, Qwen2's chat format."""
MERGES_FILE = Path(__file__).parent / "merges.txt"

Merge = tuple[str, str]


def tiny_tokenizer(words: Sequence[str]) -> Qwen2Tokenizer:
    """The tokenizer with the packaged merges; ``words`` become special tokens. An answer ends with ``<|im_end|>``."""
    return tokenizer_of([_pair(line) for line in MERGES_FILE.read_text(encoding="utf-8").splitlines()], words)


def tokenizer_of(merges: Sequence[Merge], words: Sequence[str]) -> Qwen2Tokenizer:
    """A tokenizer of 256 bytes, ``merges``, ChatML's special tokens and ``words`` as further special tokens."""
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


def tiny_qwen2(tokenizer: Qwen2Tokenizer, hidden_size: int, **settings: Any) -> Qwen2Config:
    """A language model of two layers for that tokenizer; ``settings``: others of `Qwen2Config`."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **settings,
    )
