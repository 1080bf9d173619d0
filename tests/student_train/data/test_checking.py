"""What a fit would stumble over is found before it begins, kind by kind, and nothing in sound data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published_sets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Command, is_one_clear_error

from schemas.data import DOUBTS, FAULTS, CheckReport, ConvertReport
from schemas.train import TrainConfig
from student_train.data.checking import answer_kind, check, options_in
from student_train.data.samples import ClipIndex
from teacher_cache import open_cache
from teacher_cache.io.remote import filesystem

CHOICE = "<video>\nWhich way?\nOptions:\n(A) left\n(B) right\nAnswer with the option's letter."


def record(question: str = "<video>\nWhat moves?", answer: str = "A ball.", **about: Any) -> dict[str, Any]:
    told = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"video": "scene-0.mp4", "conversations": told} | about


SOUND = [
    record(),
    record("<video>\nHow many?", "Two"),
    record(CHOICE, "B"),
    record(CHOICE.replace("Which", "What"), "(A)"),
    record(CHOICE.replace("way", "side"), "B. right"),
]


def config(folder: Path, records: Any, **data: Any) -> TrainConfig:
    path = folder / "train.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    given = {"conversations": str(path), "video_root": str(folder), "image_root": str(folder)} | data
    return TrainConfig.model_validate({"store": "none", "output": "run", "data": given})


@pytest.fixture
def folder(tmp_path: Path, videos: Path) -> Path:
    """The tiny store's videos, two images, and an empty one."""
    for number in range(2):
        (tmp_path / f"scene-{number}.mp4").write_bytes((videos / f"scene-{number}.mp4").read_bytes())
        (tmp_path / f"{number}.png").write_bytes(published_sets.picture(number))
    (tmp_path / "empty.png").touch()
    return tmp_path


def test_nothing_is_found_in_sound_data(folder: Path) -> None:
    found = check(config(folder, SOUND), None)
    assert (found.faults, found.doubts, found.findings, found.is_sound) == ({}, {}, (), True)
    held = found.sets[""]
    assert (held.conversations, held.turns, held.videos, held.images, held.video_places) == (5, 10, 1, 0, 5)
    assert (held.by_letter, held.by_text, held.free) == (3, 0, 2)


LAMP = "Choose between the following options: 'lamp' or 'bed'."
WRONG = {
    "unreadable": ({"video": "scene-0.mp4"}, "[0]: needed an object with a list"),
    "misplaced": (record("<video><video>\nWhat?"), "[0]: has 2 <video> placeholders"),
    "outside_roots": (record(video="/etc/passwd"), "is not under the folders"),
    "missing_file": (record("<image>\nWhat?", video=None, image="empty.png"), "empty.png is empty"),
    "no_option": (record(f"What is nearer? {LAMP}", "sofa", video=None), "the answer 'sofa' is none of lamp, bed"),
    "duplicate": (record("<video>\n what  MOVES?", "a ball."), "[1] asks and answers what"),
    "contradiction": (record(answer="A cat."), "and has another answer"),
    "mixed_answers": (record(f"What is nearer? {LAMP}", "lamp", video=None), "3 by letter, 1 by text"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_kind_is_found_and_named(folder: Path, kind: str) -> None:
    wrong, said = WRONG[kind]
    found = check(config(folder, [wrong, *SOUND]), None)
    assert {**found.faults, **found.doubts} == {kind: 1}
    (finding,) = found.findings
    assert (finding.kind, finding.conversations) == (kind, 4 if kind == "mixed_answers" else 1)
    assert said in finding.detail
    assert found.is_sound == (kind in DOUBTS)


def test_videos_are_looked_up_in_the_store(folder: Path, tiny_store: Path) -> None:
    (folder / "other.mp4").write_bytes(b"some bytes")
    records = [
        *SOUND,
        record(video="other.mp4"),
        record("<video>\nWho?", video="other.mp4"),
        record(video=None, clip_id="gone"),
    ]
    index = ClipIndex.of(open_cache(str(tiny_store)))
    found = check(config(folder, records), index)
    assert found.faults == {"without_targets": 2}  # two videos
    assert sorted(one.conversations for one in found.findings) == [1, 2]
    assert found.sets[""].without_targets == 3
    tolerant = check(config(folder, records, without_targets="sft"), index)
    assert (tolerant.faults, tolerant.sets[""].without_targets) == ({}, 3)


def test_a_set_with_fewer_than_a_fit_needs_is_told(folder: Path, tiny_store: Path) -> None:
    assert check(config(folder, []), None).faults == {"too_few": 1}
    few = {"conversations": str(folder / "few.json"), "video_root": str(folder), "count": 2}
    (folder / "few.json").write_text(json.dumps([record(), record(video="other.mp4")]), encoding="utf-8")
    (folder / "other.mp4").write_bytes(b"some bytes")
    mixed = config(folder, [], conversations=(), mixture={"sets": {"few": few}}, without_targets="drop")
    assert check(mixed, None).faults == {}
    found = check(mixed, ClipIndex.of(open_cache(str(tiny_store))))
    assert found.faults == {"too_few": 1}
    assert found.findings[0].detail.endswith("few.json: 1 conversations to train on; needed 2, by its `count`")


def test_different_videos_of_one_name_are_told_before_a_teacher_refuses_them(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "b" / "scene-0.mp4").write_bytes(b"another video")
    (folder / "few.json").write_text(json.dumps([record()]), encoding="utf-8")
    a, b = ({"conversations": str(folder / "few.json"), "video_root": str(root)} for root in (folder, folder / "b"))
    assert check(config(folder, [], conversations=(), mixture={"sets": {"a": a, "c": a}}), None).faults == {}
    found = check(config(folder, [], conversations=(), mixture={"sets": {"a": a, "b": b}}), None)
    assert (found.faults, found.findings[0].set) == ({"same_name": 1}, "b")


def test_a_file_that_is_missing_is_told_once_and_one_set_s_fault_hides_no_other_s(folder: Path) -> None:
    published_sets.vsti(folder)
    sets = {
        "vsti": {"conversations": f"{folder}/vstibench_train/qa_*.json", "video_root": str(folder)},
        "gone": {"conversations": str(folder / "gone.json")},
        "robofac": {"conversations": str(published_sets.robofac(folder, "scene-1.mp4"))},
    }
    mixed = config(folder, [], conversations=(), mixture={"sets": sets})
    found = check(mixed, None)
    assert found.faults == {"unreadable": 1, "missing_file": 1}
    assert [(one.set, one.conversations) for one in found.findings] == [("gone", 1), ("vsti", 3)]
    left_out = sets["vsti"] | {"leave_out": f"{folder}/vstibench_train/erratum_dropped_items.json"}
    found = check(config(folder, [], conversations=(), mixture={"sets": sets | {"vsti": left_out}}), None)
    assert (found.sets["vsti"].conversations, found.sets["vsti"].left_out) == (2, 1)


def test_files_in_a_bucket_are_looked_for_there(s3: str, folder: Path) -> None:
    fs, _ = filesystem(s3)
    fs.pipe_file(f"{s3}/raw/there.mp4", b"some bytes")
    records = [record(video="there.mp4"), record("<video>\nWho?", video="gone.mp4")]
    found = check(config(folder, records, video_root=f"{s3}/raw"), None)
    assert [one.detail for one in found.findings] == [f"{s3}/raw/gone.mp4 is not there"]


def test_a_video_of_the_validation_in_the_training_is_told(folder: Path) -> None:
    given = config(folder, SOUND)
    held = published_sets.written(folder / "held.json", [record("<video>\nWhere?", "There.")])
    given = TrainConfig.model_validate(given.model_dump() | {"validation": {"conversations": str(held)}})
    found = check(given, None)
    assert found.doubts == {"also_validation": 1}
    assert set(found.sets) == {"", "validation"}


def test_options_are_found_in_every_published_form() -> None:
    pair = {"A": "left", "B": "right"}
    for question in (
        "Which?\nA. left\nB. right",
        "Which?\nA: left \nB: right ",
        "Which?\nOptions:\n(A) left\n(B) right\nAnswer.",
        'Which? Choose between the following options: "left" or "right".',
        "Which? ['left', 'right']",
    ):
        assert options_in(question) == pair
        assert [answer_kind(question, said) for said in ("B", "Left.", "up", "C")] == [
            "by_letter", "by_text", "no_option", "no_option",
        ]  # fmt: skip
    assert options_in("What is in room A. or B?") == {}
    assert answer_kind("How far?", "1.6") == "free"


def test_every_kind_is_tested() -> None:
    others = {"too_few", "same_name", "without_targets", "ambiguous_clip", "also_validation"}
    assert set(WRONG) | others == {*FAULTS, *DOUBTS}


def test_an_ambiguous_video_is_told(folder: Path) -> None:
    rows = [{"clip_id": f"{n}/s.mp4", "video": f"/v/{n}/s.mp4", "status": "committed", "flipped": False} for n in "ab"]
    (folder / "s.mp4").write_bytes(b"some bytes")
    found = check(config(folder, [record(video="s.mp4")]), ClipIndex(rows))
    assert found.faults == {"ambiguous_clip": 1}
    assert "'s.mp4' matches several clips (a/s.mp4, b/s.mp4)" in found.findings[0].detail


def test_videos_whose_frames_are_in_the_store_need_not_be_there(folder: Path) -> None:
    rows = [{"clip_id": "s.mp4", "video": "/elsewhere/s.mp4", "status": "committed", "flipped": False}]
    asked = [record(video="s.mp4")]
    assert set(check(config(folder, asked), ClipIndex(rows)).faults) == {"missing_file"}
    assert check(config(folder, asked, frames="store"), ClipIndex(rows)).is_sound


def test_the_commands_convert_and_check(folder: Path, student_train_command: Command) -> None:
    sat, out = published_sets.sat(folder), folder / "sat"
    done = student_train_command("data", "convert", sat, "--out", out, "--json")
    report = ConvertReport.model_validate(done.json)
    assert (done.status, report.conversations, report.images, report.left_out) == (0, 2, 2, ())
    is_one_clear_error(student_train_command("data", "convert", sat, "--out", out), 2, "is there already", "--overwrite")

    train = folder / "train.yaml"
    data = {"conversations": report.out, "image_root": str(out)}
    train.write_text(yaml.safe_dump({"store": str(folder / "none"), "output": "run", "data": data}), encoding="utf-8")
    done = student_train_command("data", "check", train, "--no-store", "--json")
    held = CheckReport.model_validate(done.json).sets[""]
    assert (done.status, held.images, held.image_places, held.by_text) == (0, 2, 3, 2)
    is_one_clear_error(student_train_command("data", "check", train), 2, "there is no store")

    next((out / "images").rglob("*.png")).unlink()
    done = student_train_command("data", "check", train, "--no-store")
    assert done.status == 1
    assert "missing_file: 1" in done.out
    assert "1 faults, 0 doubts" in done.out


def test_captions_become_conversations_only_with_their_question(folder: Path, student_train_command: Command) -> None:
    path = published_sets.wolf(folder)
    done = student_train_command("data", "convert", path, "--out", folder / "a")
    assert (done.status, len((folder / "a" / "conversations.jsonl").read_text().splitlines())) == (1, 1)
    assert "--ask" in done.err
    done = student_train_command("data", "convert", path, "--out", folder / "b", "--ask", "Describe this video.")
    lines = [json.loads(line) for line in (folder / "b" / "conversations.jsonl").read_text().splitlines()]
    assert done.status == 0
    assert [one["conversations"][0]["value"] for one in lines] == ["Describe this video.", "Which way does the car turn?"]


def test_a_set_that_is_left_out_whole_is_told(folder: Path, student_train_command: Command) -> None:
    (folder / "few.json").write_text(json.dumps([record(id="a")]), encoding="utf-8")
    (folder / "ids.json").write_text('["a"]', encoding="utf-8")
    done = student_train_command(
        "data", "convert", folder / "few.json", "--leave-out", folder / "ids.json", "--out", folder / "o"
    )
    is_one_clear_error(done, 2, "no record is a conversation, but for 1 that --leave-out names")
    assert "[OPTIONS] FILE...\n" in student_train_command("data", "convert").err
    assert not (folder / "o").exists() or not list((folder / "o").iterdir())


def test_what_is_no_image_costs_its_record(folder: Path, student_train_command: Command) -> None:
    rows = [
        {"image": {"bytes": data, "path": None}, "question": "What?", "answer": "A bed"}
        for data in (b"no image", published_sets.picture(7))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "hf.parquet")
    done = student_train_command("data", "convert", folder / "hf.parquet", "--out", folder / "hf", "--json")
    assert (done.status, done.json["conversations"], done.json["left_out_count"]) == (1, 1, 1)
    assert "hf.parquet[0]: an image of 8 bytes is none that Pillow reads" in done.json["left_out"][0]
