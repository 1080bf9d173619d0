"""Turns go in; token ids and labels come out, by the chat template of the student's own tokenizer.

The same ids at training, at evaluation and with transformers after an export: whatever the template adds, such as a system
turn, is there each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from schemas.errors import BadInput, first_line
from student_train.data.conversations import Place, Turn
from student_train.models.backbone import IGNORED_LABEL, beginning, pieces, takes_pieces

if TYPE_CHECKING:
    from student_train.models.backbone import Processor

Tokens = tuple[list[int], list[int]]
"""(input ids, labels)."""


def tokenize(turns: Sequence[Turn], processor: Processor, seconds: Sequence[float] = ()) -> Tokens:
    """(input ids, labels) of one conversation. Only answers and what ends them have labels.

    Places become the processor's placeholder tokens. ``seconds``: times of the video's frames. Raises `BadInput` if the
    template refuses the turns, or rewrites earlier ones when later ones come.
    """
    chat = _Chat(turns, processor, seconds)
    ids: list[int] = []
    labels: list[int] = []
    for text, is_learnt in chat.spans():
        new = chat.encode(text)
        ids += new
        labels += new if is_learnt else [IGNORED_LABEL] * len(new)
    return ids, labels


def prompt(turns: Sequence[Turn], processor: Processor, seconds: Sequence[float] = ()) -> list[int]:
    """Input ids of the turns, ending where the assistant's answer begins."""
    chat = _Chat(turns, processor, seconds)
    return chat.encode(chat.rendered(len(turns), asks=True))


class _Chat:
    """A conversation under a template. Places are marks in its text: characters that no turn has."""

    def __init__(self, turns: Sequence[Turn], processor: Processor, seconds: Sequence[float]) -> None:
        self._turns, self._processor, self._seconds = turns, processor, seconds
        self._tokenizer = processor.tokenizer
        said = set(chain.from_iterable(piece for turn in turns for piece in turn.content if isinstance(piece, str)))
        private = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in said)
        self._marks = {place: next(private) for place in Place}
        self._split = re.compile(f"([{''.join(self._marks.values())}])")
        self._takes_pieces, self._begin = takes_pieces(self._tokenizer), beginning(self._tokenizer)
        placeholders = [token for token in (processor.video_token_id, processor.image_token_id) if token >= 0]
        shown = self._tokenizer.convert_ids_to_tokens(placeholders)
        # A placeholder's own text within a turn is text: it is cut, so that the tokenizer does not take it for the token.
        self._words = re.compile("|".join(f"(?<={re.escape(word[0])})(?={re.escape(word[1:])})" for word in shown))

    def spans(self) -> Iterator[tuple[str, bool]]:
        """The rendered conversation in spans, and whether each is learnt: answers up to the end token that follows them."""
        whole, done = self.rendered(len(self._turns)), 0
        for number, turn in enumerate(self._turns):
            if turn.role != "assistant":
                continue
            begin = len(self._start_of(whole, number, asks=True)) if number else max(0, whole.find(turn.text))
            end = len(self._start_of(whole, number + 1, asks=False))
            end = begin + len(whole[begin:end].rstrip())  # the line break after the end token belongs to the next turn
            yield whole[done:begin], False
            yield whole[begin:end], True
            done = end
        yield whole[done:], False

    def _start_of(self, whole: str, count: int, *, asks: bool) -> str:
        start = self.rendered(count, asks=asks)
        if not whole.startswith(start):
            raise BadInput(
                "the chat template of the student's tokenizer writes earlier turns in another way when later ones follow, so "
                "what it is to learn is not what it would be asked; give the tokenizer a template that only adds"
            )
        return start

    def rendered(self, count: int, *, asks: bool = False) -> str:
        """The first ``count`` turns as the template writes them; ``asks``: up to where the assistant's answer begins."""
        said = [(turn.role, "".join(map(self._mark, turn.content))) for turn in self._turns[:count]]
        messages = [{"role": role, "content": pieces(text) if self._takes_pieces else text} for role, text in said]
        if not messages:
            return ""
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        except Exception as error:  # noqa: BLE001  # a template is anyone's, and may fail in any way
            reason = first_line(error)
            raise BadInput(f"the chat template of the student's tokenizer does not take these turns: {reason}") from None
        return self._begin + text

    def _mark(self, piece: str | Place) -> str:
        return self._marks[piece] if isinstance(piece, Place) else piece

    def encode(self, text: str) -> list[int]:
        """The tokens of rendered text, with the processor's for its marks."""
        ids: list[int] = []
        for piece in filter(None, self._split.split(text)):
            if piece == self._marks[Place.VIDEO]:
                ids += self._processor.video_ids(self._seconds)
            elif piece == self._marks[Place.IMAGE]:
                ids += self._processor.image_ids()
            else:
                for part in self._words.split(piece):
                    ids += self._tokenizer(part, add_special_tokens=False).input_ids
        return ids
