"""Questions that name objects and a store of regions go in; a folder of questions about marks, as R4D-Bench's, comes out."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image

from schemas.base import Frozen
from schemas.errors import BadInput, VideoError
from schemas.regionize import (
    Confidence,
    DroppedQuestion,
    KeptQuestion,
    LinkedPhrase,
    MarkedObject,
    RegionizeReport,
)
from schemas.report import MarkStyle
from student_train.data.conversations import Conversation
from student_train.data.samples import ClipIndex, NoTargetsError
from student_train.evaluation.benchmarks.item import Footage
from student_train.evaluation.generating import some
from student_train.regions.asked import Asked, dropped, record_of, written
from student_train.regions.linking import Linked, Linker, Refused, ToLink
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.io.output_folder import file_name, written_whole
from teacher_cache.io.places import Roots, inside, local_path
from teacher_cache.io.remote import filesystem
from teacher_cache.reader.marked import RegionFrame, RegionFrames, RegionTargets, require_regions
from teacher_cache.regions.links import Link, rewritten
from teacher_cache.regions.marks import boxes_of

KEPT, DROPPED, REPORT = "kept.jsonl", "dropped.jsonl", "report.json"
_COLUMNS = ["clip_id", "video", "status", "reason", "detail", "segment_start", "segment_end", "flipped"]
_ALIKE_SECONDS = 1e-3
QUESTIONS, CONVERSATIONS = "test.json", "conversations.jsonl"


@dataclass(frozen=True)
class Wanted:
    """How questions are rewritten."""

    least: float = 0.0
    """What each step must be sure of, 0 to 1; a step that does not say how sure it is passes."""
    whole: bool = False
    """Whether to keep only questions all of whose phrases are linked."""
    style: MarkStyle = "box"
    size: FrameSize = FrameSize(448, "own")  # noqa: RUF009  # immutable
    """Of the pictures."""


@dataclass(frozen=True, eq=False)
class _Found:
    """A question and its clip."""

    asked: Asked
    place: Footage | None
    """The one of its video's places by which the clip was found; None for a clip's id."""
    clip_id: str
    video: str
    """Where its video is read from."""


def regionize(
    questions: Iterable[Asked | DroppedQuestion],
    cache: RegionTargets,
    out: Path,
    *,
    roots: Roots,
    linker: Linker,
    wanted: Wanted,
    overwrite: bool = False,
    advance: Any = lambda _: None,
) -> RegionizeReport:
    """Write the questions whose objects the store has, with marks in the place of their names, and say why others are dropped.

    ``out`` gets ``test.json``, as R4D-Bench lays it out, or ``conversations.jsonl``; the marked pictures in ``images/``, the
    videos in ``videos/``, by hard links where that is possible; and all that is known of each question in ``kept.jsonl`` and
    ``dropped.jsonl``. Clips are read one after another, each once, whatever the order of the questions. ``overwrite``: replace
    the questions in the folder, once the new ones are read. Raises `SignalMissing`, and `BadInput` if the folder holds
    questions or cannot be written.
    """
    require_regions(cache)
    if (out / KEPT).exists() and not overwrite:
        raise BadInput(f"{out} holds questions already; give another --out, or --overwrite to replace them")
    counts = _Counts()
    with ExitStack() as held:
        frames = held.enter_context(RegionFrames(cache, roots, wanted.size))
        work = _Work(cache, frames, out, roots=roots, linker=linker, wanted=wanted)
        ready, without = work.clips_of(questions)
        files = held.enter_context(_files(out))
        for one in chain(without, work.questions_of(ready)):
            counts.add(one)
            files.add(one)
            advance(1)
    return finished(out, counts.report(str(out), cache.url, wanted.style, linker.name))


def _clear(out: Path) -> None:
    """Remove the questions in a folder, their pictures and their videos."""
    for name in ("images", "videos"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (KEPT, DROPPED, REPORT, QUESTIONS, CONVERSATIONS):
        (out / name).unlink(missing_ok=True)


def finished(out: Path, report: RegionizeReport) -> RegionizeReport:
    """Write what readers take, from ``kept.jsonl``, and the report."""
    write_records(out, kept_in(out))
    _write(out / REPORT, report.model_dump_json(indent=1) + "\n")
    return report


def kept_in(out: Path) -> Iterator[KeptQuestion]:
    """What `regionize` kept. Raises `BadInput` if the folder is none of its."""
    try:
        with (out / KEPT).open(encoding="utf-8") as lines:
            for line in lines:
                yield KeptQuestion.model_validate_json(line)
    except FileNotFoundError:
        raise BadInput(f"{out} has no {KEPT}; needed a folder that `student-train data regionize` wrote") from None
    except ValueError as error:
        raise BadInput(f"{out / KEPT} is damaged: {str(error).splitlines()[0]}; write the folder again") from None


def write_records(out: Path, kept: Iterable[KeptQuestion]) -> None:
    """Write ``test.json``, or ``conversations.jsonl`` for conversations, as readers take them."""
    questions: list[str] = []
    conversations: list[str] = []
    for one in kept:
        (conversations if "roles" in one.record else questions).append(json.dumps(written(one), ensure_ascii=False))
    joined = ",\n".join(questions)
    _write(out / QUESTIONS, f"[\n{joined}\n]\n" if questions else "")
    _write(out / CONVERSATIONS, "".join(f"{line}\n" for line in conversations))


def _write(path: Path, text: str) -> None:
    """A file of nothing is not there."""
    if not text:
        path.unlink(missing_ok=True)
        return
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


class _Work:
    """The steps from a question to what became of it."""

    def __init__(
        self, cache: RegionTargets, frames: RegionFrames, out: Path, *, roots: Roots, linker: Linker, wanted: Wanted
    ) -> None:
        self._cache, self._out, self._roots, self._linker, self._wanted = cache, out, roots, linker, wanted
        self._frames = frames
        self._index = ClipIndex(cache.clips.select(_COLUMNS).to_pylist())
        self._last: RegionFrame | None = None
        self._drawn: tuple[str, frozenset[int], str] | None = None

    def clips_of(self, questions: Iterable[Asked | DroppedQuestion]) -> tuple[list[_Found], list[DroppedQuestion]]:
        """(the questions with their clips, those of one clip together; those that are dropped)."""
        found: dict[str, list[_Found]] = {}
        without: list[DroppedQuestion] = []
        for one in questions:
            if isinstance(one, DroppedQuestion):
                without.append(one)
                continue
            try:
                clip = self._clip(one)
                found.setdefault(clip.clip_id, []).append(clip)
            except NoTargetsError as error:
                without.append(dropped(one.id, one.video, one.texts, "no_clip", str(error)))
            except BadInput as error:
                without.append(dropped(one.id, one.video, one.texts, "no_video", str(error)))
        return list(chain.from_iterable(found.values())), without

    def _clip(self, one: Asked) -> _Found:
        """The clip of the first of its places that has one, and the video to read: there, or else where the catalog says."""
        error: Exception = NoTargetsError(f"the store holds no clip of {one.video!r}")
        for place in one.footage or (None,):
            about = Conversation(one.id, (), None if place is None else place.path, one.clip_id)
            try:
                row = self._index.find(about, self._roots.roots, partial(_is_of, one.seconds(place)))
            except (NoTargetsError, BadInput) as found:
                error = NoTargetsError(str(found))
                continue
            if row["flipped"]:
                error = NoTargetsError(f"clip {row['clip_id']!r} is of mirrored frames, and the question's video is not")
                continue
            path = None if place is None else local_path(self._roots.find(place.path))
            video = str(path) if path is not None and path.is_file() else self._roots.find(str(row["video"]))
            return _Found(one, place, str(row["clip_id"]), video)
        raise error

    def questions_of(self, found: Sequence[_Found]) -> Iterator[KeptQuestion | DroppedQuestion]:
        """What became of each."""
        for of_clip, questions in groupby(found, key=lambda one: one.clip_id):
            objects = self._cache.objects([of_clip])[0]
            for together in some(questions, self._linker.at_once):
                to_link = [ToLink(one.asked, objects, partial(self._frame, one)) for one in together]
                yield from self._told(together, to_link)

    def _told(self, together: Sequence[_Found], to_link: Sequence[ToLink]) -> Iterator[KeptQuestion | DroppedQuestion]:
        try:
            linked: Sequence[Linked | Refused] = self._linker(to_link)
        except (VideoError, BadInput) as error:
            yield from (self._without(one, error) for one in together)
            return
        for one, to, what in zip(together, to_link, linked, strict=True):
            if isinstance(what, Refused):
                yield self._drop(one, "refused", what.detail)
                continue
            try:
                yield self._kept(one, to, what)
            except (VideoError, BadInput) as error:
                yield self._without(one, error)

    def _kept(self, one: _Found, to: ToLink, what: Linked) -> KeptQuestion | DroppedQuestion:
        links = tuple(chain.from_iterable(what.links))
        meant = [link for link in links if link.numbers]
        if not meant:
            return self._drop(one, *_why_none(links))
        if self._wanted.whole and len(meant) < len(links):
            stays = ", ".join(f"{link.phrase.text!r} ({link.reason})" for link in links if not link.numbers)
            return self._drop(one, "partly", f"not linked: {stays}")
        numbers = frozenset(chain.from_iterable(link.numbers for link in meant))
        sure = _confidence(meant, [part for part in to.objects if part.number in numbers], what.parse)
        if low := [(name, value) for name, value in sure if value is not None and value < self._wanted.least]:
            return self._drop(one, "unsure", f"{low[0][0]} {low[0][1]:.2f}, and {self._wanted.least:g} is the least")
        frame = to.frame()
        boxes = boxes_of(frame.labels)
        if absent := sorted(numbers - boxes.keys()):
            return self._drop(
                one, "not_in_frame", f"the label map has no pixel of object {absent[0]}, which its table says it has"
            )
        benchmark = file_name(one.asked.benchmark, "")
        return KeptQuestion(
            id=one.asked.id,
            clip_id=one.clip_id,
            video=self._video(one, benchmark),
            picture=self._picture(one, frame, numbers, benchmark),
            before=one.asked.texts,
            after=tuple(rewritten(text, of_text) for text, of_text in zip(one.asked.texts, what.links, strict=True)),
            objects=tuple(
                MarkedObject(number=part.number, phrase=part.phrase, box=boxes[part.number], score=part.score)
                for part in to.objects
                if part.number in numbers
            ),
            phrases=tuple(LinkedPhrase(text=x.phrase.text, numbers=x.numbers, reason=x.reason) for x in links),
            confidence=sure,
            record=record_of(one.asked, one.place),
        )

    def _frame(self, one: _Found) -> RegionFrame:
        """The clip's first frame, which is read once for all questions about it."""
        if self._last is None or self._last.clip_id != one.clip_id:
            self._last = self._frames(one.clip_id, one.video)
        return self._last

    def _picture(self, one: _Found, frame: RegionFrame, numbers: frozenset[int], benchmark: str) -> str:
        """A question's picture; questions about the same objects of a clip share its bytes."""
        name = f"images/{benchmark}/{file_name(one.asked.id, '.png')}"
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._drawn is not None and self._drawn[:2] == (one.clip_id, numbers):
            _put(self._out / self._drawn[2], path)
            return name
        with written_whole(path) as draft:
            Image.fromarray(frame.marked(numbers, self._wanted.style)).save(draft, "PNG")
        self._drawn = one.clip_id, numbers, name
        return name

    def _video(self, one: _Found, benchmark: str) -> str:
        if inside(one.video) is not None:
            raise VideoError("not_a_file", f"{one.video} is no file of its own, so it cannot lie beside the questions")
        suffix = PurePosixPath(one.video).suffix
        name = f"videos/{benchmark}/{file_name(one.clip_id.removesuffix(suffix), suffix)}"
        path = self._out / name
        if path.exists():
            return name
        path.parent.mkdir(parents=True, exist_ok=True)
        if (local := local_path(one.video)) is not None:
            _put(local, path)
            return name
        fs, remote = filesystem(one.video)
        with written_whole(path) as draft:
            try:
                fs.get_file(remote, str(draft))
            except FileNotFoundError:
                raise VideoError("video_missing", f"there is no {one.video}") from None
        return name

    def _without(self, one: _Found, error: VideoError | BadInput) -> DroppedQuestion:
        said = f"{error.reason}: {error.detail}" if isinstance(error, VideoError) else str(error)
        return self._drop(one, "no_frame", said)

    def _drop(self, one: _Found, reason: Any, detail: str) -> DroppedQuestion:
        return dropped(one.asked.id, one.asked.video, one.asked.texts, reason, detail)


def _is_of(seconds: tuple[float, float] | None, row: Mapping[str, Any]) -> bool:
    """Whether a clip is of that part of its video, to a millisecond; of the whole for None."""
    start, end = row["segment_start"], row["segment_end"]
    if seconds is None or start is None or end is None:
        return seconds is None and start is None
    return bool(max(abs(start - seconds[0]), abs(end - seconds[1])) < _ALIKE_SECONDS)


_REASONS = ("ambiguous", "not_in_frame", "not_found", "no_object")
"""The first of these that a phrase has is a question's: how near it came to a mark."""


def _why_none(links: Sequence[Link]) -> tuple[str, str]:
    if not links:
        return "names_none", "no phrase in it names an object"
    reason = min((str(link.reason) for link in links), key=_REASONS.index)
    return reason, ", ".join(f"{link.phrase.text!r}: {link.reason}" for link in links)


def _confidence(meant: Sequence[Link], objects: Sequence[Any], parse: float | None) -> Confidence:
    said = [link.confidence for link in meant if link.confidence is not None]
    return Confidence(parse=parse, find=min(part.score for part in objects), link=min(said) if said else None)


def _put(file: Path, target: Path) -> None:
    """A hard link, since readers follow no other out of a folder; a copy where there can be none."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


class _Counts:
    def __init__(self) -> None:
        self.kept = self.partly = 0
        self.dropped: Counter[Any] = Counter()

    def add(self, one: KeptQuestion | DroppedQuestion) -> None:
        if isinstance(one, DroppedQuestion):
            self.dropped[one.reason] += 1
            return
        self.kept += 1
        self.partly += not one.is_whole

    def report(self, out: str, store: str, style: MarkStyle, linked_by: str) -> RegionizeReport:
        return RegionizeReport(
            out=out,
            store=store,
            style=style,
            linked_by=linked_by,
            read=self.kept + self.dropped.total(),
            kept=self.kept,
            partly=self.partly,
            dropped=dict(self.dropped.most_common()),
        )


class _Files:
    def __init__(self, kept: IO[str], left_out: IO[str]) -> None:
        self._kept, self._dropped = kept, left_out

    def add(self, one: Frozen) -> None:
        file = self._dropped if isinstance(one, DroppedQuestion) else self._kept
        file.write(one.model_dump_json() + "\n")


@contextmanager
def _files(out: Path) -> Iterator[_Files]:
    """``kept.jsonl`` and ``dropped.jsonl``, there once all is written; what was there before is gone. Raises `BadInput`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        _clear(out)
        with (
            written_whole(out / KEPT) as kept,
            written_whole(out / DROPPED) as left_out,
            kept.open("w", encoding="utf-8") as first,
            left_out.open("w", encoding="utf-8") as second,
        ):
            yield _Files(first, second)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror or error}; give another --out") from None
