"""Qwen2's own tokenizer with a vocabulary of a few hundred: bytes, and pieces of the words that scenes' questions are made of.

For models too small for Qwen2's 150 thousand. Any text can be written in it; that of `teacher-cache scenes` takes a third of
its bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, in which Qwen2 was taught to talk."""
_MERGES = Path(__file__).parent / "merges.txt"
_LEAST = 50
"""How often a pair must stand in the text to become a piece."""

Merge = tuple[str, str]


def tiny_tokenizer(words: Sequence[str]) -> Qwen2Tokenizer:
    """256 bytes, the packaged merges, ChatML's marks and the given words; an answer ends with ``<|im_end|>``."""
    return _tokenizer([_pair(line) for line in _MERGES.read_text(encoding="utf-8").splitlines()], words)


def learn_merges(texts: Iterable[str]) -> list[Merge]:
    """Pairs of pieces that become one, the first one first: byte-pair encoding (arXiv 1508.07909) within Qwen2's words."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = _tokenizer([], []).backend_tokenizer.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=2**16, min_frequency=_LEAST, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def _tokenizer(merges: Sequence[Merge], words: Sequence[str]) -> Qwen2Tokenizer:
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


def main(conversations: str) -> None:
    """Learn the packaged merges again, from the conversations.json that `teacher-cache scenes DIR --videos 384` writes."""
    from student_train.conversations import read_conversations  # noqa: PLC0415

    found = learn_merges(turn.text for c in read_conversations([conversations]) for turn in c.turns)
    _MERGES.write_text("".join(f"{left} {right}\n" for left, right in found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
