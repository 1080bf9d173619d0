"""Questions in; a list of their videos, each with the phrases that name its objects, for a job that finds them, out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from schemas.errors import BadInput, VideoError
from schemas.regionize import DroppedQuestion, PhrasesReport
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

    By rules, or by what a model says of each question and its video's first frame. A video whose questions name nothing has no
    line. Raises `BadInput` if nothing is named, or the file cannot be written.
    """
    require_writable(out)
    found: dict[str, dict[str, None]] = {}
    left_out: list[str] = []
    count = 0

    def readable() -> Iterator[tuple[Asked, str]]:
        nonlocal count
        for one in questions:
            count += 1
            advance(1)
            if isinstance(one, DroppedQuestion):
                left_out.append(f"{one.id}: {one.detail}")
                continue
            try:
                yield one, _video(one, roots)
            except BadInput as error:
                left_out.append(f"{one.id}: {error}")

    with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder:
        for together in some(readable(), at_once):
            for (one, video), phrases in zip(together, _phrases(together, decoder, says, tries), strict=True):
                if isinstance(phrases, Refused):
                    left_out.append(f"{one.id}: {phrases.detail}")
                else:
                    found.setdefault(video, {}).update(dict.fromkeys(phrase.name for phrase in phrases))
    named = {video: list(phrases) for video, phrases in found.items() if phrases}
    if not named:
        raise BadInput("\n".join(["no question names an object in a video:", *left_out[:20]]))
    with written_whole(out) as draft:
        lines = (json.dumps({"video": video, COLUMN: phrases}, ensure_ascii=False) for video, phrases in named.items())
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return PhrasesReport(
        out=str(out), questions=count, videos=len(named), phrases=sum(map(len, named.values())), left_out=tuple(left_out)
    )


def _video(one: Asked, roots: Roots) -> str:
    """Where its video is: of its places, the first that is there; a URL is not looked up."""
    places = [roots.find(place.path) for place in one.footage]
    there = (place for place in places if (path := local_path(place)) is None or path.is_file())
    if (found := next(there, None)) is None:
        raise BadInput(f"there is no video {places[0] if places else one.clip_id}")
    return found


def _phrases(
    together: Sequence[tuple[Asked, str]], decoder: Decoder, says: Says | None, tries: int
) -> Iterator[tuple[Phrase, ...] | Refused]:
    if says is None:
        yield from (tuple(chain.from_iterable(map(phrases_in, one.texts))) for one, _ in together)
        return
    frames = [_first(decoder, one, video) for one, video in together]
    asked: list[tuple[str, Frame]] = []
    for (one, _), frame in zip(together, frames, strict=True):
        if not isinstance(frame, Refused):
            asked.append(("\n".join(one.texts), frame))
    answers = iter(parsed(says, asked, tries))
    yield from (frame if isinstance(frame, Refused) else next(answers) for frame in frames)


def _first(decoder: Decoder, one: Asked, video: str) -> Frame | Refused:
    """The first frame of its video, or of the part that the question is about."""
    try:
        frame: Frame = decoder.frames(video, 1, _SIZE, one.footage[0].segment).frames[0]
    except VideoError as error:
        return Refused(f"{video}: {error}")
    return frame
