"""A model, questions about marked objects and a store of regions in; whether answers follow the marks when these move, out.

Set-of-Mark's authors and 4D-RGPT's (arXiv 2512.17012) leave open what a model does when a region prompt points elsewhere. So
each question is asked with the marks as they are, with two of them swapped, on the background, and without any.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from schemas.errors import BadInput, CouldNotRun, Unreachable
from schemas.evaluation import OPTION_LETTERS, Unevaluated
from schemas.mark_swaps import MarkAnswer, MarksAt, MarksShown, MarkSwapReport, Share
from schemas.regions import RegionObject
from schemas.train import Dtype
from student_train.data.chat import prompt
from student_train.data.conversations import Conversation, Place, Turn
from student_train.data.frames import StudentFrames, Watched
from student_train.data.marks import Drawn, in_all, in_first
from student_train.data.samples import ClipIndex, NoTargetsError
from student_train.evaluation.benchmarks.item import Item
from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.r4d import QUESTIONS, R4D
from student_train.evaluation.generating import Prompt, responses, some
from student_train.evaluation.models import device, open_model
from student_train.models.backbone import Backbone
from teacher_cache import Cache, open_cache
from teacher_cache.geometry.boxes import box_of
from teacher_cache.io.console import progress_bar
from teacher_cache.io.output_folder import require_writable
from teacher_cache.io.places import Roots
from teacher_cache.reader.marked import flipped_clips, require_regions
from teacher_cache.regions.marks import draw_marks
from teacher_cache.regions.phrases import MARK

Labels = NDArray[np.uint8]
"""A clip's label maps, uint8 (frame, y, x)."""
Marked = tuple[Labels, tuple[RegionObject, ...]]
"""Where a clip's marks are drawn: its label maps, and its objects with their boxes in the first frame."""
_AT: tuple[MarksAt, ...] = get_args(MarksAt)
_BATCH = 8


@dataclass(frozen=True)
class SwapQuestion:
    """A question, the two marks that are swapped, and what is then right."""

    item: Item
    clip_id: str
    swapped: tuple[int, int]
    right: int
    """Index of the right option."""
    right_swapped: int
    """Index of the option that is right once the two marks are swapped."""
    others: frozenset[int]
    """Indices of options that are right for other objects of the clip, as the marks are."""

    @property
    def asked(self) -> frozenset[int]:
        """The numbers of the marks that it names."""
        return frozenset(_numbers(self.item.question, *self.item.options))


def swap_questions(items: Sequence[tuple[str, Item]]) -> tuple[list[SwapQuestion], Counter[str]]:
    """The questions of which it is known what a swap makes right, of items with their clips' ids; and why others are left out.

    Two kinds are. One about a single mark, where the same is asked about another object of the clip and has another answer:
    that answer. One that chooses between marks, as *which is nearer*: the same object, which now has the other mark.
    """
    alike: defaultdict[tuple[str, str, tuple[str, ...]], dict[int, int]] = defaultdict(dict)
    for clip_id, item in items:
        if item.right is not None and (number := _only(item)) is not None:
            alike[clip_id, MARK.sub("<obj>", item.question), item.options][number] = item.right
    found, left_out = list[SwapQuestion](), Counter[str]()
    for clip_id, item in items:
        if not item.options or item.right is None:
            left_out["no_right_option"] += 1
        elif not _numbers(item.question, *item.options):
            left_out["no_marks"] += 1
        elif (number := _only(item)) is not None:
            answers = alike[clip_id, MARK.sub("<obj>", item.question), item.options]
            partner = next((other for other, right in sorted(answers.items()) if right != item.right), None)
            if partner is None:
                left_out["no_other_object"] += 1
                continue
            others = frozenset(answers.values()) - {item.right}
            found.append(SwapQuestion(item, clip_id, (number, partner), item.right, answers[partner], others))
        elif (marks := _choice(item)) is not None:
            other = next(number for number in marks if number != marks[item.right])
            right = marks.index(other)
            found.append(SwapQuestion(item, clip_id, (marks[item.right], other), item.right, right, frozenset({right})))
        else:
            left_out["unknown_after_swap"] += 1
    return found, left_out


def _numbers(*texts: str) -> list[int]:
    return [int(number) for text in texts for number in MARK.findall(text)]


def _only(item: Item) -> int | None:
    """The mark of a question that names one, and whose options name none."""
    numbers = set(_numbers(item.question))
    return numbers.pop() if len(numbers) == 1 and not _numbers(*item.options) else None


def _choice(item: Item) -> list[int] | None:
    """The options' marks, if the question is which of them: each option is a mark alone, and the text names no other."""
    marks = [_numbers(option) for option in item.options]
    is_alone = all(MARK.fullmatch(option.strip()) for option in item.options)
    numbers = [of[0] for of in marks] if is_alone else []
    return numbers if len(set(numbers)) > 1 and set(_numbers(item.question)) <= set(numbers) else None


def swapped(marked: Marked, one: int, other: int) -> Marked:
    """The same with the numbers of two objects exchanged: each mark is drawn where the other was."""
    labels, objects = marked
    table = np.arange(256, dtype=np.uint8)
    table[one], table[other] = other, one
    return table[labels], tuple(o.model_copy(update={"number": int(table[o.number])}) for o in objects)


def on_background(marked: Marked, numbers: Sequence[int]) -> Marked:
    """The same with marks of these numbers around places without an object: boxes of their sizes, in every frame that has them.

    A place is that with the fewest objects' pixels in it, and of several, the one farthest from where the mark was.
    """
    labels, objects = marked[0].copy(), {one.number: one for one in marked[1]}
    labels[np.isin(labels, numbers)] = 0
    for before, frame in zip(marked[0], labels, strict=True):
        taken = before > 0
        places = []
        for number in numbers:
            if (box := box_of(before == number)) is None:
                continue
            height, width = frame.shape
            size = round((box.bottom - box.top) * height), round((box.right - box.left) * width)
            top, left = _emptiest(taken, size, (round(box.top * height), round(box.left * width)))
            places.append((number, slice(top, top + size[0]), slice(left, left + size[1])))
            taken[places[-1][1:]] = True
        # The largest first: where there is no room for all, none of them hides another.
        for number, *place in sorted(places, key=lambda one: -frame[one[1:]].size):
            frame[tuple(place)] = number
    for number in numbers:
        objects[number] = objects[number].model_copy(update={"box": box_of(labels[0] == number)})
    return labels, tuple(objects.values())


def _emptiest(taken: NDArray[np.bool_], size: tuple[int, int], was: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the window of that size with the fewest pixels taken."""
    rows = sliding_window_view(taken, size[0], axis=0).sum(-1)
    counts = sliding_window_view(rows, size[1], axis=1).sum(-1)  # (top, left)
    top, left = np.nonzero(counts == counts.min())
    farthest = int(np.argmax((top - was[0]) ** 2 + (left - was[1]) ** 2))
    return int(top[farthest]), int(left[farthest])


def marked_at(marked: Marked, question: SwapQuestion) -> dict[MarksAt, Marked]:
    """Where the marks are drawn each time that the question is asked."""
    labels, _ = marked
    return {
        "place": marked,
        "swapped": swapped(marked, *question.swapped),
        "background": on_background(marked, sorted(question.asked)),
        "nowhere": (np.zeros_like(labels), ()),
    }


def ask_with_swaps(
    student: Backbone,
    questions: Sequence[SwapQuestion],
    regions: Cache,
    roots: Roots,
    *,
    shown: MarksShown,
    batch: int = _BATCH,
) -> Iterator[MarkAnswer | Unevaluated]:
    """Yields the student's answers to each question, with the marks in four places, by greedy decoding.

    A question whose video is not under ``roots``, or cannot be read, has none.
    """
    frames_of = StudentFrames(student.processor.image_size, 64 * 2**20)
    where = next(student.parameters()).device
    benchmark = R4D if shown == "picture" else QUESTIONS
    flipped = flipped_clips(regions.clips)
    unread: dict[tuple[str, str], Unevaluated] = {}  # by clip and video: one that times out would do so for each question
    for some_questions in some(questions, batch):
        prompts, asked = list[Prompt](), list[SwapQuestion]()
        for question in some_questions:
            item = replace(question.item, images=("marks",) if shown == "picture" else ())
            held = regions.read(["regions", "frame_index", "timestamps"], [question.clip_id])
            seconds = held["timestamps"][0]
            video = item.videos[-1].path  # the whole, not a part
            key = question.clip_id, video
            try:
                if key not in unread:
                    frames = frames_of(roots.find(video), held["frame_index"][0])
                    frames = frames[:, :, ::-1] if question.clip_id in flipped else frames
            except Unreachable:
                raise
            except BadInput as error:
                unread[key] = Unevaluated(id="", video=video, reason="not_under_video_root", detail=str(error))
            except CouldNotRun as error:
                unread[key] = Unevaluated.because(error, id="", video=video)
            if key in unread:
                yield unread[key].model_copy(update={"id": item.id})
                continue
            asked.append(question)
            objects = tuple(one for one in regions.objects([question.clip_id])[0] if one.frames)
            text = benchmark.prompt(item, None)
            for places in marked_at((held["regions"][0], objects), question).values():
                picture, marked = _shown(frames, places, shown)
                watched = Watched(marked, seconds, float(seconds[-1] - seconds[0]))
                images: tuple[str | Place, ...] = (Place.IMAGE, "\n") if picture else ()
                turn = Turn("user", (*images, Place.VIDEO, "\n", text))
                prompts.append(Prompt(prompt([turn], student.processor, seconds.tolist()), watched, picture))
        said = responses(student, prompts, batch=batch, device=where, new_tokens=benchmark.new_tokens)
        for question, texts in zip(asked, some(said, len(_AT)), strict=True):
            parsed = (benchmark.parse(text, question.item) for text in texts)
            choices = {at: None if p is None else p.choice for at, p in zip(_AT, parsed, strict=True)}
            yield answer_of(question, choices)


def _shown(frames: NDArray[np.uint8], places: Marked, shown: MarksShown) -> tuple[tuple[NDArray[np.uint8], ...], Any]:
    """(the picture before the video, if there is one, the video's frames)."""
    labels, objects = places
    if shown == "picture":
        return (draw_marks(frames[0], objects),), frames
    draw: Drawn = in_all if shown == "all" else in_first
    return (), draw(frames, labels, objects)


def answer_of(question: SwapQuestion, choices: Mapping[MarksAt, int | None]) -> MarkAnswer:
    """What was said, as letters. ``choices``: index of the option that was said, or None for none."""
    return MarkAnswer(
        id=question.item.id,
        clip_id=question.clip_id,
        task=question.item.task,
        swapped=question.swapped,
        options=len(question.item.options),
        right=OPTION_LETTERS[question.right],
        right_swapped=OPTION_LETTERS[question.right_swapped],
        others=tuple(OPTION_LETTERS[index] for index in sorted(question.others)),
        said={at: None if (choice := choices[at]) is None else OPTION_LETTERS[choice] for at in _AT},
    )


def summary_of(answers: Sequence[MarkAnswer]) -> dict[str, Share]:
    """The shares of `MarkSwapReport`, by their names there."""
    at = {place: {one.id: one.said[place] for one in answers} for place in _AT}
    right = [one for one in answers if at["place"][one.id] == one.right]
    wrong = [one for one in answers if at["place"][one.id] != one.right]
    shares = {
        "right": _share(answers, lambda one: one.said["place"] == one.right),
        "right_background": _share(answers, lambda one: one.said["background"] == one.right),
        "right_nowhere": _share(answers, lambda one: one.said["nowhere"] == one.right),
        "follow": _share(answers, lambda one: one.said["swapped"] == one.right_swapped),
        "stay": _share(answers, lambda one: one.said["swapped"] == one.right),
        "neither": _share(answers, lambda one: one.said["swapped"] not in {one.right, one.right_swapped}),
        "right_follow": _share(right, lambda one: one.said["swapped"] == one.right_swapped),
        "right_stay": _share(right, lambda one: one.said["swapped"] == one.right),
        "right_neither": _share(right, lambda one: one.said["swapped"] not in {one.right, one.right_swapped}),
        "unchanged": _share(answers, lambda one: len({one.said[place] for place in _AT}) == 1),
        "wrong_region": _share(wrong, lambda one: one.said["place"] in one.others),
        "unreadable": _share(answers, lambda one: one.said["place"] is None),
    }
    by_chance = [len(one.others) / (one.options - 1) for one in wrong]
    return shares | {"wrong_region_by_chance": Share(share=statistics.fmean(by_chance) if by_chance else None, of=len(wrong))}


def _share(answers: Sequence[MarkAnswer], holds: Callable[[MarkAnswer], bool]) -> Share:
    """The share of answers of which it holds. Its standard error takes those about one clip as one draw."""
    if not answers:
        return Share(share=None, of=0)
    share = statistics.fmean(holds(one) for one in answers)
    of_clip: defaultdict[str, float] = defaultdict(float)
    for one in answers:
        of_clip[one.clip_id] += holds(one) - share
    clips = len(of_clip)
    if clips < 2:
        return Share(share=share, of=len(answers))
    error = math.sqrt(clips / (clips - 1) * sum(rest**2 for rest in of_clip.values())) / len(answers)
    return Share(share=share, of=len(answers), standard_error=error)


def swap_marks(
    model: Path,
    questions: Path,
    regions: str,
    out: Path,
    *,
    shown: MarksShown | None = None,
    video_root: str | None = None,
    dtype: Dtype | None = None,
    batch: int = _BATCH,
    overwrite: bool = False,
) -> MarkSwapReport:
    """Ask a model each question with its marks in four places, and write the report and all answers, as one JSON file.

    ``shown``: where the model sees marks; as the run was trained, or as R4D-Bench shows them when None. Raises `BadInput` if no
    question can be asked, or there is a report already that may not be overwritten, and `SignalMissing` if the store has no
    regions. A question whose video cannot be read does not stop the others: it is in the report with its reason.
    """
    if out.exists() and not overwrite:
        raise BadInput(f"{out} is there already; give another --out, or --overwrite to replace it")
    require_writable(out)
    cache = open_cache(regions)
    require_regions(cache)
    items, left_out = _with_clips(read(QUESTIONS, questions.parent, questions).items, cache)
    asked, others = swap_questions(items)
    opened = open_model(model, dtype)
    if shown is None:
        trained = None if opened.config is None else opened.config.regions
        shown = "picture" if trained is None or trained.marks == "none" else trained.marks
    found = _with_marks(asked, cache, shown)
    left_out += others + Counter({"mark_not_shown": len(asked) - len(found)})
    asked = found
    if not asked:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        raise BadInput(f"no question of {questions} tells what a swap of marks makes right: {why}")
    opened.student.to(device()).eval()
    roots = Roots((video_root or str(questions.parent),), "--video-root")
    answers, unevaluated = list[MarkAnswer](), list[Unevaluated]()
    with progress_bar("answers", len(asked), "questions") as advance:
        for answer in ask_with_swaps(opened.student, asked, cache, roots, shown=shown, batch=batch):
            if isinstance(answer, Unevaluated):
                unevaluated.append(answer)
            else:
                answers.append(answer)
            advance(1)
    report = MarkSwapReport(
        model=str(model),
        questions=str(questions),
        regions=regions,
        shown=shown,
        asked=len(answers),
        clips=len({one.clip_id for one in answers}),
        left_out={reason: count for reason, count in left_out.items() if count},
        answers=tuple(answers),
        unevaluated=tuple(unevaluated),
        **summary_of(answers),
    )
    try:
        out.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CouldNotRun(f"cannot write {out}: {error.strerror}") from None
    return report


def _with_clips(items: Sequence[Item], cache: Cache) -> tuple[list[tuple[str, Item]], Counter[str]]:
    """The items with their clips' ids, and why others have none."""
    index, found, left_out = ClipIndex.of(cache), list[tuple[str, Item]](), Counter[str]()
    for item in items:
        if not item.videos:
            left_out["no_clip"] += 1
            continue
        try:
            row = index.find(Conversation(item.id, (), item.videos[-1].path, item.clip_id), ())
        except (NoTargetsError, BadInput):  # none, or several
            left_out["no_clip"] += 1
            continue
        found.append((str(row["clip_id"]), item))
    return found, left_out


def _with_marks(questions: Sequence[SwapQuestion], cache: Cache, shown: MarksShown) -> list[SwapQuestion]:
    """The questions whose marks, and those that are swapped, are drawn."""
    clip_ids = list(dict.fromkeys(question.clip_id for question in questions))
    drawn = {
        clip_id: {one.number for one in objects if one.frames and (shown == "all" or one.box)}
        for clip_id, objects in zip(clip_ids, cache.objects(clip_ids) if clip_ids else (), strict=True)
    }
    return [question for question in questions if question.asked.union(question.swapped) <= drawn[question.clip_id]]
