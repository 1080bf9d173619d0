"""Questions in; a list of their videos, each with the phrases that name its objects, for a job that finds them, out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import BadInput, VideoError
from schemas.prompt import LONGEST_PHRASE, MOST_PHRASES
from schemas.regionize import DroppedQuestion, PhrasesReport
from student_train.evaluation.benchmarks.item import segment_of
from student_train.evaluation.generating import some
from student_train.regions.asked import Asked
from student_train.regions.checked import Says, parsed
from student_train.regions.linking import Refused
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.io.output_folder import require_writable, written_whole
from teacher_cache.io.places import Roots, local_path
from teacher_cache.regions.marks import Frame
from teacher_cache.regions.phrases import Phrase, phrases_in

COLUMN = "phrases"
"""The list's column of phrases."""
_SIZE = FrameSize(448, "own")


def write_phrases(
    questions: Iterable[Asked | DroppedQuestion],
    out: Path,
    *,
    roots: Roots,
    says: Says | None = None,
    tries: int = 3,
    at_once: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> PhrasesReport:
    """Write a line of JSON for each video: ``video``, where it is, and ``phrases``, what its questions name, each once.

    Questions about a part of a video have a line of their own, with its ``start`` and ``end`` in seconds. By rules, or by
    what a model says of each question and its video's first frame. A video whose questions name nothing has no line. Raises
    `BadInput` if nothing is named, or the file cannot be written.
    """
    require_writable(out)
    listed = _List(roots)
    with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder:
        for together in some(listed.readable(questions, advance), at_once):
            for (one, part), phrases in zip(together, _phrases(together, decoder, says, tries), strict=True):
                listed.add(one, part, phrases)
    rows = listed.rows()
    if not rows:
        raise BadInput("\n".join(["no question names an object in a video:", *listed.left_out[:20]]))
    with written_whole(out) as draft:
        draft.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return PhrasesReport(
        out=str(out),
        questions=listed.count,
        videos=len(rows),
        phrases=sum(len(row[COLUMN]) for row in rows),
        left_out=tuple(listed.left_out),
    )


class _List:
    """The list of videos while it is made."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._found: dict[_Part, dict[str, None]] = {}
        self.left_out: list[str] = []
        self.count = 0

    def readable(
        self, questions: Iterable[Asked | DroppedQuestion], advance: Callable[[int], None]
    ) -> Iterator[tuple[Asked, _Part]]:
        """The questions whose video is there; the others are left out."""
        for one in questions:
            self.count += 1
            advance(1)
            if isinstance(one, DroppedQuestion):
                self.left_out.append(f"{one.id}: {one.detail}")
                continue
            try:
                yield one, _part(one, self._roots)
            except BadInput as error:
                self.left_out.append(f"{one.id}: {error}")

    def add(self, one: Asked, part: _Part, phrases: tuple[Phrase, ...] | Refused) -> None:
        """What a question names. A phrase that is too long for a list is none of an object."""
        if isinstance(phrases, Refused):
            self.left_out.append(f"{one.id}: {phrases.detail}")
            return
        names = (phrase.name for phrase in phrases if len(phrase.name) <= LONGEST_PHRASE and phrase.name.isprintable())
        self._found.setdefault(part, {}).update(dict.fromkeys(names))

    def rows(self) -> list[dict[str, Any]]:
        """One for each video of which something is named, with as many phrases as a clip can have."""
        for part, names in self._found.items():
            if (more := len(names) - MOST_PHRASES) > 0:
                self.left_out.append(f"{part.video}: {more} phrases more than the {MOST_PHRASES} that a clip can have")
        return [part.row | {COLUMN: list(names)[:MOST_PHRASES]} for part, names in self._found.items() if names]


class _Part(NamedTuple):
    """A video, or a part of it."""

    video: str
    seconds: tuple[float, float] | None

    @property
    def row(self) -> dict[str, object]:
        return {"video": self.video} | ({} if self.seconds is None else dict(zip(("start", "end"), self.seconds, strict=True)))


def _part(one: Asked, roots: Roots) -> _Part:
    """What it is about: of its video's places, the first that is there; a URL is not looked up."""
    places = [(roots.find(place.path), place) for place in one.footage]
    for found, place in places:
        if (path := local_path(found)) is None or path.is_file():
            return _Part(found, one.seconds(place))
    raise BadInput(f"there is no video {places[0][0] if places else one.clip_id}")


def _phrases(
    together: Sequence[tuple[Asked, _Part]], decoder: Decoder, says: Says | None, tries: int
) -> Iterator[tuple[Phrase, ...] | Refused]:
    if says is None:
        yield from (tuple(chain.from_iterable(map(phrases_in, one.texts))) for one, _ in together)
        return
    frames = [_first(decoder, part) for _, part in together]
    asked: list[tuple[str, Frame]] = []
    for (one, _), frame in zip(together, frames, strict=True):
        if not isinstance(frame, Refused):
            asked.append(("\n".join(one.texts), frame))
    answers = iter(parsed(says, asked, tries))
    yield from (frame if isinstance(frame, Refused) else next(answers) for frame in frames)


def _first(decoder: Decoder, part: _Part) -> Frame | Refused:
    """The first frame of a video, or of a part of it."""
    segment = None if part.seconds is None else segment_of(*part.seconds)
    try:
        frame: Frame = decoder.frames(part.video, 1, _SIZE, segment).frames[0]
    except VideoError as error:
        return Refused(f"{part.video}: {error}")
    return frame
