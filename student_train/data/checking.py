"""A training config in; what a fit of its data would stumble over, and what it would wrongly learn, out. Trains nothing.

Nothing is decoded: a video or an image counts as there if its file is.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from schemas.data import DOUBTS, FAULTS, CheckedSet, CheckReport, Doubt, Fault, Finding
from schemas.errors import BadInput
from schemas.evaluation import OPTION_LETTERS
from schemas.mixture import MixtureSet
from schemas.train import DataConfig, TrainConfig
from student_train.data.conversations import Conversation, Place, Turn, Unread, conversations_in, ids_in
from student_train.data.mixture import image_roots, sets_of, video_roots
from student_train.data.samples import ClipIndex, Join, NoTargetsError, of_set
from teacher_cache.clips.identity import identities_of
from teacher_cache.io.places import inside, local_path, member_named

VALIDATION = "validation"
"""The set of the validation conversations."""
_THREADS = 32


def check(
    config: TrainConfig,
    index: ClipIndex | None,
    *,
    store: str | None = None,
    most: int | None = 5,
    advance: Callable[[int], None] = lambda _: None,
) -> CheckReport:
    """Look at every conversation and every file of the config's data. Reads no video and no image.

    ``index``: the clips among which targets are looked for, of ``store``; without it, none are. ``most``: how many findings of
    a kind the report has, all if None. ``advance`` is called with numbers of conversations. Raises `BadInput` if there are no
    conversations, and `Unreachable`.
    """
    sets = _all_sets(config)
    found = _Found()
    looked = {name: _Looker(name, data, one, index, found) for name, (data, one) in sets.items()}
    for one in looked.values():
        one.look(advance)
    _look_for_files(looked.values(), found)
    _compare(looked, found, is_stopped=config.data.without_targets == "stop")
    return found.report(store, {n: one.counted() for n, one in looked.items()}, most)


def _all_sets(config: TrainConfig) -> dict[str, tuple[DataConfig, MixtureSet]]:
    """Set → the data config with its roots, and the set; those of the mixture, and the validation's."""
    data = config.data
    sets = {name: (of_set(data, one), one) for name, one in sets_of(data).items()}
    if config.validation is not None and config.validation.conversations:
        roots = {"video_root": video_roots(data), "image_root": image_roots(data)}
        given = MixtureSet(conversations=config.validation.conversations, **roots)
        sets[VALIDATION] = of_set(data, given), given
    if not sets:
        raise BadInput("the file names neither `data.conversations` nor `data.mixture`; there is nothing to check")
    return sets


class _Found:
    """All findings."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, kind: Fault | Doubt, name: str, detail: str, conversations: int = 1) -> None:
        self.findings.append(Finding(kind=kind, set=name, detail=detail, conversations=conversations))

    def report(self, store: str | None, sets: dict[str, CheckedSet], most: int | None) -> CheckReport:
        counts = Counter(one.kind for one in self.findings)
        by_kind: dict[str, list[Finding]] = defaultdict(list)
        for one in self.findings:
            by_kind[one.kind].append(one)
        return CheckReport(
            store=store,
            sets=sets,
            faults={kind: counts[kind] for kind in FAULTS if counts[kind]},
            doubts={kind: counts[kind] for kind in DOUBTS if counts[kind]},
            findings=tuple(one for kind in (*FAULTS, *DOUBTS) for one in by_kind[kind][:most]),
        )


@dataclass
class _Looker:
    """Looks at one set, conversation by conversation; keeps names and digests, not texts."""

    name: str
    data: DataConfig
    given: MixtureSet
    index: ClipIndex | None
    found: _Found
    counts: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    """Path or URL → how many conversations read it."""
    videos: set[str] = field(default_factory=set)
    """As the conversations name them, or by their clips' ids."""
    images: set[str] = field(default_factory=set)
    named: dict[str, str] = field(default_factory=dict)
    """Video as the conversations name it → where it is read."""
    lacking: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Video without targets → why, and how many conversations are about it."""
    asked: dict[bytes, list[tuple[bytes, str]]] = field(default_factory=lambda: defaultdict(list))
    """Digest of what is asked about what → digests of the answers, and their sources."""

    def __post_init__(self) -> None:
        # Roots alone decide where a video without a clip is read.
        self._alone = Join(ClipIndex([]), self.data.model_copy(update={"without_targets": "sft"}))
        self._opens = self.data.frames != "store"
        self._join = None if self.index is None else Join(self.index, self.data, opens_videos=self._opens)

    def look(self, advance: Callable[[int], None]) -> None:
        try:
            for read in conversations_in(self.given.conversations, ids_in(self.given.leave_out)):
                advance(1)
                if isinstance(read, Conversation):
                    self._look_at(read)
                elif isinstance(read, Unread):
                    self.found.add("misplaced" if read.is_misplaced else "unreadable", self.name, read.message)
                else:
                    self.counts["left_out"] += 1
        except BadInput as error:  # a whole file: what other sets have is still told
            self.found.add("unreadable", self.name, str(error))
        else:
            self._look_at_size()

    def _look_at_size(self) -> None:
        """Without a whole file that cannot be read, which says more."""
        held, wanted = self.counts["conversations"], self.given.count or 1
        if self.data.without_targets == "drop":
            held -= self.counts["without_targets"]
        if held < wanted:
            files, left_out = ", ".join(self.given.conversations), self.counts["left_out"]
            said = f"{files}: {held:,} conversations to train on" + (f", and {left_out:,} left out" if left_out else "")
            needed = "at least one" if self.given.count is None else f"{wanted:,}, by its `count`"
            self.found.add("too_few", self.name, f"{said}; needed {needed}", max(held, 1))

    def _look_at(self, one: Conversation) -> None:
        self.counts["conversations"] += 1
        self.counts["turns"] += len(one.turns)
        for place, name in ((Place.VIDEO, "video_places"), (Place.IMAGE, "image_places")):
            self.counts[name] += sum(turn.content.count(place) for turn in one.turns)
        self._look_at_files(one)
        self._look_at_answers(one)
        about = one.clip_id or one.video
        self.videos.update([about] if about else [])
        self.images.update(one.images)
        key, answer = _digest(about, one.images, _said(one, "user")), _digest(_said(one, "assistant"))
        self.asked[key].append((answer, one.source))

    def _look_at_files(self, one: Conversation) -> None:
        join: Join | None = self._alone
        if self.index is not None and (one.video or one.clip_id):
            try:
                self.index.find(one, self.data.video_root)
                join = self._join
            except NoTargetsError as error:
                about = str(one.clip_id or one.video)
                self.counts["without_targets"] += 1
                self.lacking[about] = str(error), self.lacking.get(about, ("", 0))[1] + 1
            except BadInput as error:
                self.found.add("ambiguous_clip", self.name, str(error))
        try:
            sample = join(one) if join is not None else None
        except NoTargetsError:  # only a clip's id, which the store lacks
            return
        except BadInput as error:
            self.found.add("outside_roots", self.name, str(error))
            return
        if sample is not None and sample.video and one.video:
            self.named[one.video] = sample.video
        if sample is not None:
            opened = [sample.video] if sample.video and (self._opens or sample.clip_id is None) else []
            self.files.update({*opened, *sample.images})

    def _look_at_answers(self, one: Conversation) -> None:
        question: Turn | None = None
        for turn in one.turns:
            if turn.role == "assistant" and question is not None:
                kind = answer_kind(question.text, turn.text)
                self.counts[kind] += 1
                if kind == "no_option":
                    options = ", ".join(options_in(question.text).values())
                    self.found.add(
                        "no_option", self.name, f"{one.source}: the answer {turn.text[:80]!r} is none of {options[:200]}"
                    )
            question = turn if turn.role == "user" else None

    def counted(self) -> CheckedSet:
        names = CheckedSet.model_fields.keys() - {"videos", "images"}
        return CheckedSet(
            videos=len(self.videos), images=len(self.images), **{name: self.counts[name] for name in sorted(names)}
        )


def _said(one: Conversation, role: str) -> str:
    """What a role says, without differences that no reader sees."""
    return "\0".join(" ".join(turn.text.split()).casefold() for turn in one.turns if turn.role == role)


def _digest(*texts: object) -> bytes:
    return hashlib.sha256(repr(texts).encode()).digest()[:16]


# --- answers and options ---

_LETTERED = re.compile(r"^[ \t]*(?:\(([A-J])\)|([A-J])[.:)])[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_TEXT = r"""(?:"[^"]+"|'[^']+')"""
_EITHER = re.compile(rf"options?:?\s*({_TEXT}(?:(?:\s*,\s*|\s+)(?:or\s+)?{_TEXT})+)")
_LISTED = re.compile(rf"\[\s*({_TEXT}(?:\s*,\s*{_TEXT})+)\s*\]")
_QUOTED = re.compile(r"\"([^\"]+)\"|'([^']+)'")
_LETTER = re.compile(r"\(?([A-J])\)?[.:]?")


def options_in(question: str) -> dict[str, str]:
    """Letter → option, as a question lists them: lettered lines from A on, quoted alternatives, or a Python list of texts."""
    lines = {one or other: text for one, other, text in _LETTERED.findall(question)}
    if len(lines) > 1 and "".join(lines) == OPTION_LETTERS[: len(lines)]:
        return lines
    found = _LISTED.search(question) or _EITHER.search(question)
    texts = [one or other for one, other in _QUOTED.findall(found[1])] if found else []
    return dict(zip(OPTION_LETTERS, texts, strict=False))


def answer_kind(question: str, answer: str) -> str:
    """``by_letter``, ``by_text``, ``no_option``, or ``free`` for a question without options."""
    options = options_in(question)
    if not options:
        return "free"
    said = answer.strip()
    folded = {text.casefold().strip(" .") for text in options.values()}
    if said.casefold().strip(" .") in folded:
        return "by_text"
    letter = _LETTER.match(said)
    if letter and letter[1] in options:
        rest = said[letter.end() :].casefold().strip(" .")
        if rest in {"", options[letter[1]].casefold().strip(" .")}:
            return "by_letter"
    return "no_option"


# --- files ---


def _look_for_files(looked: Iterable[_Looker], found: _Found) -> None:
    """One finding for each file of a set that is not there."""
    sets = list(looked)
    places = {file: _place_of(file) for one in sets for file in one.files}
    missing = missing_of(sorted(set(places.values())))
    for one in sets:
        for file, count in one.files.items():
            if (why := missing.get(places[file])) is not None:
                found.add("missing_file", one.name, f"{file} {why}", count)


def _place_of(file: str) -> str:
    """The file or folder that must be there: a member's tar, a folder of pictures."""
    if part := inside(file):
        return part.place
    named = member_named(file)
    return named[0] if named else file


def missing_of(places: Sequence[str]) -> dict[str, str]:
    """File or folder that is not there, or is empty → which of the two. Raises `Unreachable`."""
    here = [place for place in places if local_path(place) is not None]
    elsewhere = [place for place in places if local_path(place) is None]
    with ThreadPoolExecutor(_THREADS) as threads:
        found = {place: why for place, why in zip(here, threads.map(_why_missing, here), strict=True) if why}
    if elsewhere:
        known = identities_of(pa.chunked_array([pa.array(elsewhere, pa.string())]), "listed").to_pylist()
        found |= {place: "is not there" for place, identity in zip(elsewhere, known, strict=True) if identity is None}
    return found


def _why_missing(place: str) -> str | None:
    path = local_path(place)
    assert path is not None
    try:
        return None if path.is_dir() or path.stat().st_size else "is empty"
    except OSError:
        return "is not there"


# --- between conversations ---


def _compare(looked: dict[str, _Looker], found: _Found, *, is_stopped: bool) -> None:
    for one in looked.values():
        if is_stopped:
            for why, count in one.lacking.values():
                found.add("without_targets", one.name, why, count)
        _look_for_repeats(one, found)
    _look_for_mixed_answers(looked, found)
    _look_for_same_names({name: one for name, one in looked.items() if name != VALIDATION}, found)
    if VALIDATION in looked:
        held = looked[VALIDATION]
        for name, one in looked.items():
            for video in sorted(one.videos & held.videos) if name != VALIDATION else ():
                found.add("also_validation", name, f"{video} is in the validation conversations, too")


def _look_for_repeats(one: _Looker, found: _Found) -> None:
    for answers in one.asked.values():
        first, source = answers[0]
        for answer, other in answers[1:]:
            if answer == first:
                found.add("duplicate", one.name, f"{other} asks and answers what {source} does")
            else:
                found.add("contradiction", one.name, f"{other} asks what {source} does, and has another answer")


def _look_for_same_names(looked: dict[str, _Looker], found: _Found) -> None:
    first: dict[str, tuple[str, str]] = {}
    for name, one in looked.items():
        for video, file in one.named.items():
            other, place = first.setdefault(video, (name, file))
            if place != file:
                said = f"{video} is {file} here and {place} in {other}; give both one `video_root`, with a folder for each"
                found.add("same_name", name, said)


def _look_for_mixed_answers(looked: dict[str, _Looker], found: _Found) -> None:
    """A student that learns both forms answers either way, whatever a prompt asks for."""
    counts = {name: (one.counts["by_letter"], one.counts["by_text"]) for name, one in looked.items()}
    letters, texts = (sum(pair[number] for pair in counts.values()) for number in (0, 1))
    if letters and texts:
        shares = "; ".join(f"{name or 'the conversations'}: {a} by letter, {b} by text" for name, (a, b) in counts.items())
        found.add("mixed_answers", "", f"options are answered in two forms ({shares})", letters + texts)


def described(report: CheckReport) -> Iterator[str]:
    """A line for each kind of finding, and its examples, indented."""
    for kind, count in (*report.faults.items(), *report.doubts.items()):
        some = [one for one in report.findings if one.kind == kind]
        yield f"{kind}: {count:,}"
        for one in some:
            told = f" ({one.conversations:,} conversations)" if one.conversations > 1 else ""
            yield f"  {f'{one.set}: ' if one.set else ''}{one.detail}{told}"
        if count > len(some):
            yield f"  … and {count - len(some):,} more"
