"""Questions in; a list of their videos, each with the phrases that name its objects, for a job that finds them, out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from schemas.errors import BadInput, VideoError
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
    found: dict[_Part, dict[str, None]] = {}
    left_out: list[str] = []
    count = 0

    def readable() -> Iterator[tuple[Asked, _Part]]:
        nonlocal count
        for one in questions:
            count += 1
            advance(1)
            if isinstance(one, DroppedQuestion):
                left_out.append(f"{one.id}: {one.detail}")
                continue
            try:
                yield one, _part(one, roots)
            except BadInput as error:
                left_out.append(f"{one.id}: {error}")

    with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder:
        for together in some(readable(), at_once):
            for (one, part), phrases in zip(together, _phrases(together, decoder, says, tries), strict=True):
                if isinstance(phrases, Refused):
                    left_out.append(f"{one.id}: {phrases.detail}")
                else:
                    found.setdefault(part, {}).update(dict.fromkeys(phrase.name for phrase in phrases))
    named = {part: list(phrases) for part, phrases in found.items() if phrases}
    if not named:
        raise BadInput("\n".join(["no question names an object in a video:", *left_out[:20]]))
    with written_whole(out) as draft:
        lines = (json.dumps(part.row | {COLUMN: phrases}, ensure_ascii=False) for part, phrases in named.items())
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return PhrasesReport(
        out=str(out), questions=count, videos=len(named), phrases=sum(map(len, named.values())), left_out=tuple(left_out)
    )


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
