"""A record of a published training set in; records in LLaVA's shape out: a question, the answer, and what they are about.

Sets of LLaVA's own shape, such as RoboFAC's and VLM-3R's training files, pass as they are. Others have a question and an
answer in fields of their own, and are asked in the words in which the set's benchmark asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.errors import BadInput
from schemas.evaluation import OPTION_LETTERS, multiple_choice

Record = Mapping[str, Any]

_TOLD = ("conversations", "messages")
_MEDIA = ("id", "video", "videos", "clip_id", "image", "images")
_ANSWERS = ("correct_answer", "mc_answer", "ground_truth", "answer")
_OPTIONS = ("options", "answers", "choices")


def in_llava_shape(record: Record) -> Iterator[Record]:
    """The record's conversations. Raises `BadInput` that says what it has and what was needed, but not where it is."""
    if any(isinstance(record.get(name), list) for name in _TOLD):
        yield record
    elif isinstance(record.get("annos"), Mapping):
        yield from _annotated(record)
    elif record.get("question") is not None:
        yield _conversation(record, *_asked(record))
    elif record.get("caption") is not None:
        raise BadInput(
            "has a caption and no question with its answer. Give the question that captions answer: "
            "`student-train data convert … --ask 'Describe this video.'`"
        )
    else:
        raise BadInput(
            'needed an object with a list "conversations" or "messages", or with a "question" and its answer; found the fields '
            f"{', '.join(map(str, record)) or 'none'}"
        )


def captioned(record: Record, question: str) -> Record:
    """The record with the question, if it has a caption and no question: a caption answers no other that it does not name."""
    is_alone = record.get("question") is None and not any(name in record for name in _TOLD)
    return {**record, "question": question, "answer": record["caption"]} if is_alone and record.get("caption") else record


def _annotated(record: Record) -> Iterator[Record]:
    """RoboFAC's test files: a video, and by kind a list of a question and its answer, or of several such pairs."""
    for kind, told in record["annos"].items():
        pairs = told if isinstance(told, list) and told and all(isinstance(one, list) for one in told) else [told]
        for pair in pairs:
            values = [one.get("value") for one in pair if isinstance(one, Mapping)] if isinstance(pair, list) else []
            if len(values) < 2 or len(values) % 2 or not all(isinstance(value, str) for value in values):
                raise BadInput(
                    f"`annos` has for {kind!r} {str(told)[:80]}; needed a question and its answer, each with a `value`"
                )
            turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
            yield {**_about(record), "conversations": turns}


def _conversation(record: Record, question: str, answer: str) -> Record:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**_about(record), "conversations": turns}


def _about(record: Record) -> dict[str, Any]:
    found = {name: record[name] for name in _MEDIA if record.get(name) is not None}
    if "video_path" in record and not {"video", "videos"} & found.keys():
        found["video"] = record["video_path"]
    return found


def _asked(record: Record) -> tuple[str, str]:
    """(question with its options, answer), as the record's kind of set has them."""
    asked, options = record["question"], _options(record)
    if not isinstance(asked, str) or not (question := asked.strip()):
        raise BadInput(f"`question` is {str(asked)[:80]!r}; needed a text")
    name = next((name for name in _ANSWERS if record.get(name) is not None and record[name] != ""), None)
    if name is None:
        raise BadInput(f"has a question and no answer; needed one of the fields {', '.join(_ANSWERS)}")
    answer = record[name]
    if not isinstance(answer, str | int | float) or isinstance(answer, bool) or answer != answer:  # noqa: PLR0124  # NaN
        raise BadInput(f"`{name}` is {str(answer)[:80]!r}; needed a text or a number")
    said = str(answer).strip()
    if name == "correct_answer" and options:
        return _of_sat(question, options), _option(said, options)
    if name in {"mc_answer", "ground_truth"}:
        return _of_vsti(question, options), _letter(said, options) if options else said
    return (multiple_choice(question, options), _letter(said, options)) if options else (question, said)


def _options(record: Record) -> list[str]:
    name = next((name for name in _OPTIONS if record.get(name)), None)
    if name is None:
        return []
    held = record[name]
    held = [held[letter] for letter in sorted(held)] if isinstance(held, Mapping) else held
    if not isinstance(held, list) or not 2 <= len(held) <= len(OPTION_LETTERS):
        raise BadInput(f"`{name}` is {str(held)[:80]}; needed a list of 2 to {len(OPTION_LETTERS)} options")
    if any(isinstance(one, list | Mapping) for one in held):
        raise BadInput(f"`{name}` is {str(held)[:80]}; needed a list of texts or numbers")
    return [("" if one is None else str(one)).strip() for one in held]


def _of_sat(question: str, options: Sequence[str]) -> str:
    """As SAT's benchmark asks (arXiv 2412.07755): the answer is the option's text."""
    either = " or ".join(f'"{option}"' for option in options)
    return (
        f"Answer in natural language. {question} Answer the question using a single word or phrase. "
        f"Choose between the following options: {either}."
    )


def _of_vsti(question: str, options: Sequence[str]) -> str:
    """As VSTI-Bench asks (arXiv 2505.20279): the answer is a letter, or a number."""
    lines = ["These are frames of a video.", question]
    if not options:
        return "\n".join([*lines, "Please answer the question using a single word or phrase."])
    lettered = [f"{letter}. {_bare(option, letter)}" for letter, option in zip(OPTION_LETTERS, options, strict=False)]
    return "\n".join([*lines, "Options:", *lettered, "Answer with the option's letter from the given choices directly."])


def _bare(option: str, letter: str) -> str:
    return option.removeprefix(f"{letter}.").strip()


def _option(said: str, options: Sequence[str]) -> str:
    if said not in options:
        raise BadInput(f"the answer {said!r} is none of the options {', '.join(options)}")
    return said


def _letter(said: str, options: Sequence[str]) -> str:
    """The letter of the option that is the answer's text, or that it names."""
    bare = [_bare(option, letter) for letter, option in zip(OPTION_LETTERS, options, strict=False)]
    for texts in (options, bare):
        if said in texts:
            return OPTION_LETTERS[texts.index(said)]
    if said in OPTION_LETTERS[: len(options)] and len(said) == 1:
        return said
    raise BadInput(f"the answer {said!r} is neither an option nor its letter; the options are {', '.join(options)}")
