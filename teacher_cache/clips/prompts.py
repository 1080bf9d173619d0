"""What lists and files of phrases say in; each row's `Prompt`, what a teacher is told beside frames, out.

A row keeps it as one JSON text. So phrases lie in the tables of rows, and a row with other phrases is another row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from schemas.errors import BadInput, StoreDamaged
from schemas.job import VideoIdentity
from schemas.prompt import LONGEST_PHRASE, MOST_PHRASES, Prompt, PromptName
from teacher_cache.clips.identity import identities_of
from teacher_cache.clips.tables import Keys, indices_among, keys_of
from teacher_cache.io.places import Pictures, require_openable

_BETWEEN = re.compile(r"[;\n]|\.(?=\s|$)")
"""What parts the phrases of a text: ``a cup; a dog`` or, as grounding models are asked, ``a cup . a dog .``"""
_RATE = 1.0
"""Of a folder of masks, whose pictures are told by their numbers: any would do."""


def prompt_of(given: Mapping[PromptName, Any], root: str) -> Prompt:
    """The prompt of a list's row, from its values of what the teacher takes. Raises `BadInput`."""
    return Prompt(phrases=phrases_of(given.get("phrases")), masks=_masks(given.get("masks"), root))


def prompt_in(text: str) -> Prompt:
    """The prompt that a store's row keeps. Raises `StoreDamaged` if it is none."""
    try:
        return Prompt.model_validate_json(text)
    except ValidationError:
        raise StoreDamaged(f"a row of the catalog has the prompt {ascii(text)[:80]}, which is none") from None


def phrases_of(value: Any) -> tuple[str, ...]:
    """Phrases from a list of texts, or from one text with ``;``, new lines or full stops between them; each once, in order.

    Raises `BadInput` for anything else, for too many, and for one that is too long.
    """
    texts = [] if value is None else _BETWEEN.split(value) if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadInput(f"needed `phrases` as a list of texts, or a text with ; between them; found {str(value)[:80]!r}")
    distinct: dict[str, str] = {}
    for text in (" ".join(text.split()) for text in texts):
        if len(text) > LONGEST_PHRASE or not text.isprintable():
            raise BadInput(
                f"the phrase {ascii(text)[:80]} has {len(text)} letters; needed a printable text of at most {LONGEST_PHRASE}"
            )
        if text:
            distinct.setdefault(text.casefold(), text)
    if len(distinct) > MOST_PHRASES:
        raise BadInput(f"{len(distinct)} phrases; a clip has at most {MOST_PHRASES} objects")
    return tuple(distinct.values())


def _masks(value: Any, root: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise BadInput(f"needed `masks` as the path of a JSON file or of a folder of pictures; found {str(value)[:80]!r}")
    place = value if "://" in value or value.startswith("/") else f"{root}/{value}"
    if not place.isprintable():
        raise BadInput(f"`masks` is {ascii(value)[:80]}, which is no path")
    require_openable(place)
    return place if place.endswith(".json") else Pictures(f"{place.rstrip('/')}/", _RATE).uri


def phrases_by_id(name: str, records: Iterable[Mapping[str, Any]]) -> tuple[Keys, pa.Array]:
    """The keys of ids, ascending, and the prompt of each, of the records of a file of phrases. Raises `BadInput`."""
    ids, prompts = list[str](), list[str]()
    for number, record in enumerate(records, start=1):
        about = record.get("id")
        if not isinstance(about, str) or "phrases" not in record:
            raise BadInput(f'{name}, record {number}: needed {{"id": …, "phrases": […]}}; found {str(dict(record))[:80]!r}')
        try:
            prompts.append(Prompt(phrases=phrases_of(record["phrases"])).text)
        except BadInput as error:
            raise BadInput(f"{name}, record {number}: {error}") from None
        ids.append(about)
    keys = keys_of(ids)
    order = np.argsort(keys, kind="stable")
    keys, found = keys[order], pa.array(prompts, pa.string()).take(pa.array(order))
    is_again = (keys[1:] == keys[:-1]) & pc.not_equal(found[1:], found[:-1]).to_numpy(zero_copy_only=False)
    for at in np.flatnonzero(is_again)[:1].tolist():
        raise BadInput(
            f"{name} gives {ids[order[at]]!r} twice, with other phrases: {found[at]} and {found[at + 1]}; put all in one record"
        )
    return keys, found


def with_phrases(prompts: pa.ChunkedArray, keys: Keys, known: Keys, found: pa.Array) -> pa.ChunkedArray:
    """The rows' prompts, by the keys of their ids, with the phrases that a file has for them."""
    index = indices_among(keys, known)
    new = found.take(pa.array(index, mask=index < 0))
    if pc.any(pc.match_substring(prompts, '"masks"')).as_py():
        new = pa.array(map(_merged, prompts.to_pylist(), new.to_pylist()), pa.string())
    return pa.chunked_array([pc.coalesce(new, prompts.combine_chunks())])


def _merged(prompt: str, phrases: str | None) -> str:
    if phrases is None:
        return prompt
    return Prompt.model_validate_json(prompt).model_copy(update={"phrases": Prompt.model_validate_json(phrases).phrases}).text


def with_digests(
    prompts: pa.ChunkedArray, kind: VideoIdentity, advance: Callable[[int], None] = lambda _: None
) -> pa.ChunkedArray:
    """The prompts with what tells that their masks changed; null where these are not there. Raises `Unreachable`."""
    given = [Prompt.model_validate_json(text) for text in prompts.to_pylist()]
    places = pa.chunked_array([[prompt.masks for prompt in given]], pa.string())
    digests = iter(identities_of(places.drop_null(), kind, advance).to_pylist())
    texts = []
    for prompt in given:
        digest = next(digests) if prompt.masks is not None else None
        texts.append(None if digest is None else prompt.model_copy(update={"masks_digest": digest}).text)
    return pa.chunked_array([texts], pa.string())
