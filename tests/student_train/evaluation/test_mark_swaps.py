"""The swap test of marks, on students whose answers are known: one reads the mark exactly, one does not look at it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, regions_job
from region_scenes import write_region_scenes
from torch import nn

from schemas.errors import SignalMissing
from schemas.job import Job
from schemas.mark_swaps import MarkAnswer, MarksShown, MarkSwapReport, Share
from schemas.regions import Box, RegionObject
from schemas.train import ModelConfig
from student_train.evaluation import mark_swaps
from student_train.evaluation.benchmarks.item import Footage, Item
from student_train.evaluation.mark_swaps import (
    ask_with_swaps,
    on_background,
    summary_of,
    swap_marks,
    swap_questions,
    swapped,
)
from student_train.models import nvila
from student_train.models.build import build_student
from teacher_cache import open_cache
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.geometry.boxes import box_of
from teacher_cache.io.places import Roots
from teacher_cache.jobs.run import run_job
from teacher_cache.reader.marked import RegionFrames
from teacher_cache.regions.marks import color_of

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
IDS = [f"scene-{seed}.mp4" for seed in range(4)]
Know = Callable[[str, int | None, str], str]
"""(clip, the object under the mark, question) → letter."""


def shown_objects(regions_store: Path) -> dict[str, dict[int, RegionObject]]:
    """Objects of the clips with a box in the first frame, and marks of different colours."""
    cache = open_cache(str(regions_store))
    found = {
        clip_id: {one.number: one for one in objects if one.box is not None and 0 in one.frames}
        for clip_id, objects in zip(IDS, cache.objects(IDS), strict=True)
    }
    return {clip_id: objects for clip_id, objects in found.items() if max(objects) <= 7}


def colour_items(objects: Mapping[str, Mapping[int, RegionObject]]) -> list[tuple[str, Item]]:
    return [
        (clip_id, colour_item(clip_id, number, one.phrase)) for clip_id, held in objects.items() for number, one in held.items()
    ]


def colour_item(clip_id: str, number: int, phrase: str) -> Item:
    right = COLOURS.index(phrase.split(maxsplit=1)[0])
    question = f"What colour is <obj_{number}>?"
    return Item(f"{clip_id}-{number}", "colour", question, COLOURS, right, videos=(Footage(clip_id),))


class HandMade(nn.Module):
    """A student that sees under which object's box the asked mark is, in the first frame, and says what ``know`` tells."""

    def __init__(self, objects: Mapping[str, Mapping[int, RegionObject]], know: Know) -> None:
        super().__init__()
        self.processor = nvila.tiny("none").processor
        self.weight = nn.Parameter(torch.zeros(1))
        self._objects, self._know = objects, know
        self.clip_ids: list[str] = []
        """The clip of each prompt to come, in order."""

    def generate(self, ids: torch.Tensor, _mask: torch.Tensor, *, visual: Any, max_new_tokens: int) -> torch.Tensor:
        pictures = visual["images"] if "images" in visual else visual["frames"][:, 0]
        said = []
        for row, picture in zip(ids, pictures, strict=True):
            text = self.processor.tokenizer.decode(row)
            question = re.search(r"[^\n>]*<obj_\d+>[^\n]*\?", text)
            assert question is not None
            clip_id, number = self.clip_ids.pop(0), int(re.findall(r"<obj_(\d+)>", question[0])[0])
            under = self._under(picture.numpy(), number, self._objects[clip_id])
            said.append(self.processor.tokenizer.encode(self._know(clip_id, under, question[0])))
        assert max(map(len, said)) <= max_new_tokens
        return torch.tensor(said)

    def _under(self, picture: np.ndarray[Any, Any], number: int, objects: Mapping[int, RegionObject]) -> int | None:
        drawn = (picture == color_of(number)).all(-1)
        shares = {one: outline(drawn, held.box) for one, held in objects.items() if held.box is not None}
        best = max(shares, key=lambda one: shares[one])
        return best if shares[best] > 0.6 else None


def outline(drawn: np.ndarray[Any, Any], box: Box) -> float:
    """The share of the line around a box that has the mark's colour."""
    height, width = drawn.shape
    left, top = round(box.left * width) - 1, round(box.top * height) - 1
    right, bottom = round(box.right * width), round(box.bottom * height)
    rows, columns = range(max(0, top), min(height, bottom + 1)), range(max(0, left), min(width, right + 1))
    line = [(y, x) for y in (top, bottom) if 0 <= y < height for x in columns]
    line += [(y, x) for x in (left, right) if 0 <= x < width for y in rows]
    return float(np.mean([drawn[at] for at in line]))


def summary(
    regions_store: Path, videos: Path, items: list[tuple[str, Item]], know: Know, shown: MarksShown = "first"
) -> dict[str, Share]:
    objects = shown_objects(regions_store)
    student: Any = HandMade(objects, know)
    questions, left_out = swap_questions(items)
    assert len(questions) > 8
    assert not left_out
    student.clip_ids = [question.clip_id for question in questions for _ in range(4)]
    # Prompts of one length are asked in their order; those of a batch are sorted by it.
    cache, roots = open_cache(str(regions_store)), Roots((str(videos),), "--video-root")
    answers = list(ask_with_swaps(student, questions, cache, roots, shown=shown, batch=1))
    return summary_of([answer for answer in answers if isinstance(answer, MarkAnswer)])


@pytest.mark.parametrize("shown", ["picture", "first", "all"])
def test_a_student_that_reads_the_mark_follows_it(regions_store: Path, videos: Path, shown: MarksShown) -> None:
    objects = shown_objects(regions_store)

    def reads(clip_id: str, under: int | None, _question: str) -> str:
        return "?" if under is None else letter(objects[clip_id][under])

    found = summary(regions_store, videos, colour_items(objects), reads, shown)
    assert {name: found[name].share for name in ("right", "follow", "right_follow", "stay", "neither", "unchanged")} == {
        "right": 1, "follow": 1, "right_follow": 1, "stay": 0, "neither": 0, "unchanged": 0,
    }  # fmt: skip
    assert (found["right_background"].share, found["right_nowhere"].share) == (0, 0)
    assert found["wrong_region"] == Share(share=None, of=0)


def test_a_student_that_ignores_the_mark_stays(regions_store: Path, videos: Path) -> None:
    objects = shown_objects(regions_store)

    def knows(clip_id: str, _under: int | None, question: str) -> str:
        return letter(objects[clip_id][int(re.findall(r"\d+", question)[0])])

    found = summary(regions_store, videos, colour_items(objects), knows)
    for name in ("right", "right_background", "right_nowhere", "stay", "right_stay", "unchanged"):
        assert found[name].share == 1
    assert (found["follow"].share, found["neither"].share) == (0, 0)


def test_a_student_that_looks_at_another_object_is_told_from_one_that_guesses(regions_store: Path, videos: Path) -> None:
    objects = shown_objects(regions_store)

    def reads_the_next(clip_id: str, under: int | None, _question: str) -> str:
        numbers = sorted(objects[clip_id])
        return "?" if under is None else letter(objects[clip_id][numbers[(numbers.index(under) + 1) % len(numbers)]])

    def names_an_absent_colour(clip_id: str, _under: int | None, _question: str) -> str:
        held = {one.phrase.split()[0] for one in objects[clip_id].values()}
        return "ABCDEFGH"[next(n for n, colour in enumerate(COLOURS) if colour not in held)]

    found = summary(regions_store, videos, colour_items(objects), reads_the_next)
    assert (found["right"].share, found["wrong_region"].share) == (0, 1)
    assert found["right_follow"] == Share(share=None, of=0)
    absent = summary(regions_store, videos, colour_items(objects), names_an_absent_colour)
    assert (absent["right"].share, absent["wrong_region"].share, absent["neither"].share) == (0, 0, 1)
    by_chance = absent["wrong_region_by_chance"].share
    others = [len(held) - 1 for held in objects.values() for _ in held]
    assert by_chance == pytest.approx(np.mean(others) / 7)


def letter(one: RegionObject) -> str:
    return "ABCDEFGH"[COLOURS.index(one.phrase.split()[0])]


def test_what_a_swap_makes_right_is_known_of_two_kinds_of_questions() -> None:
    def item(name: str, question: str, options: tuple[str, ...], right: int | None) -> tuple[str, Item]:
        return "clip", Item(name, "", question, options, right)

    shapes, two = ("a ball", "a box"), ("<obj_1>", "<obj_3>")
    found, left_out = swap_questions(
        [
            item("1", "Is <obj_1> a ball or a box?", shapes, 0),
            item("2", "Is <obj_2> a ball or a box?", shapes, 0),
            item("3", "Is <obj_3> a ball or a box?", shapes, 1),
            item("moves", "Does <obj_1> move?", ("yes", "no"), 0),
            item("nearer", "Which is nearer: <obj_1> or <obj_3>?", two, 1),
            item("of two", "Is <obj_1> nearer than <obj_2>?", ("yes", "no"), 0),
            item("of a third", "Which is nearer to <obj_2>?", two, 0),
            item("none", "How many objects move?", ("1", "2"), 0),
            item("number", "How far is <obj_1>?", (), None),
        ]
    )
    assert [(one.item.id, one.swapped, one.right, one.right_swapped) for one in found] == [
        ("1", (1, 3), 0, 1),
        ("2", (2, 3), 0, 1),
        ("3", (3, 1), 1, 0),
        ("nearer", (3, 1), 1, 0),
    ]
    assert left_out == {"no_other_object": 1, "unknown_after_swap": 2, "no_marks": 1, "no_right_option": 1}


def test_marks_are_swapped_and_moved_in_every_frame(regions_store: Path) -> None:
    cache = open_cache(str(regions_store))
    labels, objects = cache.read(["regions"], [IDS[1]])["regions"][0], cache.objects([IDS[1]])[0]
    maps, held = swapped((labels, objects), 1, 2)
    np.testing.assert_array_equal(maps == 1, labels == 2)
    np.testing.assert_array_equal(maps == 3, labels == 3)
    assert {one.number: one.phrase for one in held}[1] == objects[1].phrase
    moved, after = on_background((labels, objects), [1, 2])
    for number in (1, 2):
        np.testing.assert_array_equal((moved == number).any((1, 2)), (labels == number).any((1, 2)))
        assert {one.number: one.box for one in after}[number] == box_of(moved[0] == number)
    assert (labels[np.isin(moved, [1, 2])] == 0).all()


def test_where_there_is_no_room_no_mark_hides_another() -> None:
    labels = np.zeros((1, 10, 10), np.uint8)
    labels[0, :, :7], labels[0, 4:6, 7:9] = 1, 2
    objects = tuple(
        RegionObject(number=n, phrase="it", box=box_of(labels[0] == n), score=1, frames=(0,), reason=None) for n in (1, 2)
    )
    for numbers in ((1, 2), (2, 1)):
        moved, after = on_background((labels, objects), numbers)
        assert {one.number: one.box for one in after} == {n: box_of(moved[0] == n) for n in (1, 2)}
        assert (moved == 1).sum() >= 66
        assert (moved == 2).sum() == 4


def test_standard_errors_take_questions_of_one_clip_as_one_draw() -> None:
    def answer(clip_id: str, number: int, said: str) -> Any:
        question = mark_swaps.SwapQuestion(
            Item(f"{clip_id}-{number}", "", "<obj_1>?", ("a", "b"), 0), clip_id, (1, 2), 0, 1, frozenset({1})
        )
        return mark_swaps.answer_of(question, dict.fromkeys(mark_swaps._AT, "AB".index(said)))

    apart = summary_of([answer(str(n), 0, "AB"[n % 2]) for n in range(8)])["right"]
    together = summary_of([answer(str(n // 4), n, "AB"[n // 4]) for n in range(8)])["right"]
    assert (apart.share, together.share) == (0.5, 0.5)
    assert apart.standard_error == pytest.approx(np.std([0, 1] * 4, ddof=1) / 8**0.5)
    assert together.standard_error == pytest.approx(np.std([0, 1], ddof=1) / 2**0.5)


@pytest.fixture(scope="module")
def asked(regions_store: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [
        {"id": one.id, "task": one.task, "video": str(videos / clip_id), "question": one.question, "options": list(COLOURS),
         "answer": COLOURS[one.right or 0]}
        for clip_id, one in colour_items(shown_objects(regions_store))
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("asked") / "questions.json"
    unseen = {"id": "unseen", "question": "Which is larger: <obj_1> or <obj_250>?", "options": ["<obj_1>", "<obj_250>"]}
    others = {"id": "elsewhere", "video": "elsewhere.mp4"}, unseen | {"answer": "<obj_1>"}
    path.write_text(json.dumps([*records, *(records[0] | other for other in others)]))
    return path


def test_the_command_asks_a_student_of_ours(
    asked: Path, regions_store: Path, videos: Path, tmp_path: Path, student_train_command: Command
) -> None:
    build_student(ModelConfig()).save(tmp_path / "student")
    out = tmp_path / "report.json"
    run = ("swap-marks", tmp_path / "student", asked, "--regions", regions_store, "--out", out, "--video-root", videos)
    done = student_train_command(*run)
    assert done.status == 0, done.err
    assert "follow the mark" in done.out
    assert "left out: 1 mark_not_shown, 1 no_clip" in done.out
    report = MarkSwapReport.model_validate_json(out.read_text())
    assert (report.shown, report.left_out) == ("picture", {"no_clip": 1, "mark_not_shown": 1})
    assert report.asked == len(report.answers) == report.right.of
    assert report.follow.share is not None
    assert sum(getattr(report, name).share for name in ("follow", "stay", "neither")) == pytest.approx(1)


def test_one_unreadable_video_costs_its_own_questions(
    asked: Path, regions_store: Path, videos: Path, tmp_path: Path, student_train_command: Command
) -> None:
    build_student(ModelConfig()).save(tmp_path / "student")
    folder, out = tmp_path / "videos", tmp_path / "report.json"
    folder.mkdir()
    records = [record for record in json.loads(asked.read_text()) if record["id"] not in {"unseen", "elsewhere"}]
    for record in records:
        record["video"] = Path(record["video"]).name
        shutil.copy(videos / record["video"], folder)
    damaged, linked = records[0]["video"], records[-1]["video"]
    assert len({damaged, linked} | {record["video"] for record in records}) > 2
    (folder / damaged).write_bytes(b"no video")
    (folder / linked).unlink()
    (folder / linked).symlink_to(videos / linked)
    good = next(record for record in records if record["video"] not in {damaged, linked})
    # Of a clip by its id, whose video lies elsewhere by this question alone.
    records.insert(0, good | {"id": "elsewhere", "clip_id": good["video"], "video": "/elsewhere/video.mp4"})
    (folder / "questions.json").write_text(json.dumps(records))
    run = ("swap-marks", tmp_path / "student", folder / "questions.json", "--regions", regions_store, "--out", out)
    done = student_train_command(*run)
    assert done.status == 1, done.err
    report = MarkSwapReport.model_validate_json(out.read_text())
    why = {record["id"]: "not_a_video" for record in records if record["video"] == damaged}
    why |= {one["id"]: "not_under_video_root" for one in records if one["video"] == linked or "clip_id" in one}
    assert {one.id: one.reason for one in report.unevaluated} == why
    assert {one.id for one in report.answers} == {record["id"] for record in records} - why.keys()
    assert report.asked == report.right.of == len(report.answers)
    assert f"questions without a score: {len(why)}" in done.err
    assert f"  {records[1]['id']}: not_a_video (" in done.err

    before = out.read_bytes()
    done = student_train_command(*run)
    assert (done.status, out.read_bytes()) == (2, before)
    assert "report.json is there already; give another --out, or --overwrite to replace it" in done.err


def test_marks_of_a_mirrored_clip_are_asked_about_on_mirrored_frames(truth_masks: Path, videos: Path, tmp_path: Path) -> None:
    job = regions_job(tmp_path, truth_masks, tmp_path / "store", clips={"views": ["plain", "flipped"]})
    assert run_job(Job.model_validate(job)).clips.committed == 8
    cache, roots = open_cache(str(tmp_path / "store")), Roots((str(videos),), "--video-root")
    with RegionFrames(cache, roots, FrameSize(112)) as frames:
        for clip_id in IDS:
            plain, mirrored = (frames(one, str(videos / clip_id)) for one in (clip_id, f"{clip_id}~flipped"))
            np.testing.assert_array_equal(mirrored.frame, plain.frame[:, ::-1])
            assert (mirrored.labels == plain.labels[:, ::-1]).mean() > 0.99

    class Sees(HandMade):
        def generate(self, ids: torch.Tensor, _mask: torch.Tensor, *, visual: Any, **_: Any) -> torch.Tensor:
            self.seen = visual["frames"].numpy()  # of the four places, the last is without marks
            return torch.stack([ids[0, :1]] * len(ids))

    seen = []
    for clip_id in (IDS[0], f"{IDS[0]}~flipped"):
        student: Any = Sees({}, lambda *_: "A")
        item = Item("1", "", "Is <obj_1> red?", ("yes", "no"), 0, videos=(Footage(IDS[0]),))
        question = mark_swaps.SwapQuestion(item, clip_id, (1, 2), 0, 1, frozenset({1}))
        assert len(list(ask_with_swaps(student, [question], cache, roots, shown="first"))) == 1
        seen.append(student.seen[-1])
    np.testing.assert_array_equal(seen[1], seen[0][:, :, ::-1])


def test_an_object_without_a_mask_has_no_mark(tmp_path: Path) -> None:
    store = write_region_scenes(tmp_path, range(1), frames=3)
    one, other = [one for one in store.scenes[0].objects if one.box is not None][:2]
    boxed = replace(store.scenes[0], objects=(one.model_copy(update={"frames": ()}), other))
    cache: Any = replace(store, scenes=(boxed,))
    item = Item("1", "", f"Is <obj_{one.number}> red?", ("yes", "no"), 0)
    asked = [mark_swaps.SwapQuestion(item, boxed.clip_id, (one.number, other.number), 0, 1, frozenset({1}))]
    for shown in ("picture", "first", "all"):
        assert mark_swaps._with_marks(asked, store, shown) == asked  # type: ignore[arg-type]
        assert mark_swaps._with_marks(asked, cache, shown) == []  # type: ignore[arg-type]


def test_what_cannot_be_asked_is_named(
    asked: Path, regions_store: Path, tiny_store: Path, tmp_path: Path, student_train_command: Command
) -> None:
    (tmp_path / "none.json").write_text(json.dumps([json.loads(asked.read_text())[0] | {"question": "What colour is it?"}]))
    build_student(ModelConfig()).save(tmp_path / "student")
    done = student_train_command("swap-marks", tmp_path / "student", tmp_path / "none.json", "--regions", regions_store)
    assert done.status == 2
    assert "tells what a swap of marks makes right: 1 no_marks" in done.err
    with pytest.raises(SignalMissing, match="regions and objects are needed for marks"):
        swap_marks(tmp_path, asked, str(tiny_store), tmp_path / "out.json")
