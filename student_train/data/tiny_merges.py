"""Questions about rendered scenes go in; the tiny tokenizer's merges come out.

Run as ``python -m student_train.data.tiny_merges FILE``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from student_train.data.conversations import read_conversations
from student_train.models.tiny_tokenizer import MERGES_FILE, Merge, tokenizer_of

_LEAST = 50
"""How often a pair must occur to be merged."""


def learn_merges(texts: Iterable[str]) -> list[Merge]:
    """Merges in order of priority: byte-pair encoding (arXiv 1508.07909) after Qwen2's split into words."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = tokenizer_of([], []).backend_tokenizer.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=2**16, min_frequency=_LEAST, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def main(conversations: str) -> None:
    """Write the packaged merges anew, from the conversations.json that ``teacher-cache scenes DIR --videos 384`` writes."""
    found = learn_merges(turn.text for c in read_conversations([conversations]) for turn in c.turns)
    MERGES_FILE.write_text("".join(f"{left} {right}\n" for left, right in found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
