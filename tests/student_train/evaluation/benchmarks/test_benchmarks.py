"""Every benchmark against items whose prompts, readings and scores were worked out by hand.

`items` has whole records in their published layout, each with its prompt and some responses. `tables` has rows, each with the
trap that it is about: what a change of a record comes to, how a response is read and scored, and means. Together about a
hundred a benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from schemas.errors import BadInput
from schemas.evaluation import OPTION_LETTERS, Answer
from student_train.evaluation.answers import DRAWN, scored, summary
from student_train.evaluation.benchmarks.item import Item, ItemError
from student_train.evaluation.benchmarks.protocol import Benchmark, Read, read
from student_train.evaluation.benchmarks.registry import BENCHMARKS, benchmark_of
from teacher_cache.io.places import Roots

ITEMS = Path(__file__).parent / "items"
TABLES = Path(__file__).parent / "tables"
NAMES = sorted(path.stem for path in ITEMS.glob("*.json"))
TABLED = sorted(path.stem for path in TABLES.glob("*.yaml"))


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ITEMS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def record_of(case: dict[str, Any]) -> dict[str, Any]:
    """The record, with the text of image files as bytes, which JSON does not have."""
    images = {k: [one.encode() for one in case["record"][k]] for k in ("image_bytes", "images") if k in case["record"]}
    return case["record"] | images


def asked(name: str) -> Iterator[tuple[dict[str, Any], Item]]:
    """Each case with its item; the second of a pair with what differs for it."""
    for index, case in enumerate(cases(name)):
        items = list(BENCHMARKS[name].items(record_of(case), index))
        yield case, items[0]
        if "second" in case:
            yield {**case, **case["second"]}, items[1]


def test_every_published_benchmark_has_items_worked_out_by_hand() -> None:
    assert set(NAMES) == set(BENCHMARKS) - {"questions"}
    assert set(TABLED) == set(NAMES) - {"timebench"}, "which nobody published, and is read as `questions` are"


@pytest.mark.parametrize("name", NAMES)
def test_items_and_prompts_are_as_worked_out(name: str) -> None:
    for case, item in asked(name):
        assert BENCHMARKS[name].prompt(item, 2.0) == case["prompt"], case["trap"]
        assert (item.task, list(item.groups), len(item.images)) == (case["task"], case["groups"], case["images"])
        assert (item.fault, item.pair) == (case.get("fault"), case.get("pair"))
        if "videos" in case:
            shown = [
                [f.path, None if f.segment is None else [f.segment.start_seconds, f.segment.end_seconds]] for f in item.videos
            ]
            assert [path for path, _ in shown] == [path for path, _ in case["videos"]]
            for (_, segment), (_, wanted) in zip(shown, case["videos"], strict=True):
                assert segment == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize("name", NAMES)
def test_responses_are_read_and_scored_as_worked_out(name: str) -> None:
    benchmark = BENCHMARKS[name]
    for case, item in asked(name):
        for response, parsed, official, lenient, *below in case["responses"]:
            said = f"{name}, {item.id}, {response!r}: {case['trap']}"
            answer = scored(benchmark, item, response)
            assert answer.lenient == pytest.approx(lenient), said
            if parsed == DRAWN:
                assert answer.rule == DRAWN, said
                assert answer.parsed in OPTION_LETTERS[: len(item.options)], said
                assert answer.official == float(answer.parsed == answer.expected), said
            else:
                assert (answer.parsed, answer.rule != DRAWN) == (parsed, True), said
            assert official is None or answer.official == pytest.approx(official), said
            assert (answer.below is None) == bool(item.options), said
            assert not below or answer.below == pytest.approx(below[0]), said


# --- tables of traps ---


def table(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def changed(found: dict[str, Any], record: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A table's record with changes; ``(absent)`` takes a field away. Texts of image files become bytes."""
    whole = {key: value for key, value in (found["records"][record] | changes).items() if value != "(absent)"}
    return whole | {key: _files(whole[key]) for key in ("image_bytes", "images") if key in whole}


def _files(images: Any) -> Any:
    if isinstance(images, list):
        return [_files(image) for image in images]
    if isinstance(images, dict):
        return {key: _files(value) if key == "bytes" else value for key, value in images.items()}
    return images.encode() if isinstance(images, str) else images


def item_of(name: str, record: dict[str, Any], *, second: bool = False) -> Item:
    return list(BENCHMARKS[name].items(record, 0))[second]


@pytest.mark.parametrize("name", TABLED)
def test_there_are_about_a_hundred_none_twice(name: str) -> None:
    found = table(name)
    rows = [*found["items"], *found["refused"], *found["means"]]
    rows += [[record, row[1]] for record, of_record in found["read"].items() for row in of_record]
    assert len(rows) + sum(len(case["responses"]) for case, _ in asked(name)) >= 94
    assert len(rows) == len({json.dumps(row) for row in rows})


@pytest.mark.parametrize("name", TABLED)
def test_records_become_the_items_worked_out(name: str) -> None:
    found = table(name)
    for trap, record, changes, wanted in found["items"]:
        item = item_of(name, changed(found, record, changes), second=wanted.pop("second", False))
        prompt = BENCHMARKS[name].prompt(item, None)
        assert prompt.startswith(wanted.pop("begins", "")), trap
        assert prompt.endswith(wanted.pop("ends", "")), trap
        shown = [[f.path, None if f.segment is None else [f.segment.start_seconds, f.segment.end_seconds]] for f in item.videos]
        for (path, segment), (other, times) in zip(shown, wanted.pop("videos", shown), strict=True):
            assert (path, segment) == (other, None if times is None else pytest.approx(times)), trap
        is_as = {"prompt": prompt, "images": len(item.images), "options": list(item.options), "groups": list(item.groups)}
        is_as |= {key: getattr(item, key) for key in ("id", "task", "question", "expected", "fault", "pair")}
        is_as["shown"] = list(item.images)
        assert {key: is_as[key] for key in wanted} == wanted, trap


@pytest.mark.parametrize("name", TABLED)
def test_records_that_cannot_be_asked_are_refused_with_the_reason(name: str) -> None:
    found = table(name)
    for trap, record, changes, reason in found["refused"]:
        with pytest.raises(ItemError) as refused:
            item_of(name, changed(found, record, changes))
        assert reason in str(refused.value), trap


@pytest.mark.parametrize("wrong", [{"answer": 10**400}, {"video": "a\0.mp4"}, {"question": "\ud83d"}])
def test_what_no_number_path_or_text_is_costs_its_record(wrong: dict[str, Any]) -> None:
    sound = {"id": "1", "video": "a.mp4", "question": "How far?", "answer": 3, "task": "Counting", "benchmark": "sti"}
    assert len(list(BENCHMARKS["timebench"].items(sound, 0))) == 1
    with pytest.raises(ItemError, match="|".join(f"`{name}`" for name in wrong)):
        list(BENCHMARKS["timebench"].items(sound | wrong, 0))


@pytest.mark.parametrize("field", ["source", "benchmark", "som_image", "clip_id"])
def test_half_a_character_in_any_field_costs_its_record(field: str, tmp_path: Path) -> None:
    sound = {"id": "1", "video": "a.mp4", "question": "How far?", "answer": 3, "task": "Counting"}
    (tmp_path / "questions.json").write_text(json.dumps([sound, sound | {field: "\ud83d"}, {"id": "\ud83d"}]))
    found = read(BENCHMARKS["questions"], tmp_path)
    assert [item.id for item in found.items] == ["1"]
    assert [one.id for one in found.unread] == ["1", "'\\ud83d'"]
    assert all(one.model_dump_json() for one in found.unread)
    with pytest.raises(BadInput, match="half a character"):
        Roots((str(tmp_path),), "--root").find("\ud83d.mp4")


@pytest.mark.parametrize("name", TABLED)
def test_responses_are_read_as_the_tables_say(name: str) -> None:
    found, benchmark = table(name), BENCHMARKS[name]
    for record, rows in found["read"].items():
        item = item_of(name, changed(found, record, {}))
        for row in rows:
            _check(scored(benchmark, item, row[1]), item, row)


def _check(answer: Answer, item: Item, row: list[Any]) -> None:
    trap, response, parsed, official, leniently, *below = row
    if parsed == DRAWN:
        assert (answer.rule, official) == (DRAWN, None), (trap, response)
    else:
        assert (answer.parsed, answer.rule != DRAWN) == (parsed, True), (trap, response)
        assert answer.official == pytest.approx(official), (trap, response)
    assert answer.lenient == pytest.approx(leniently), (trap, response)
    assert len(below) == (not item.options), trap
    assert [answer.below] == pytest.approx(below) if below else answer.below is None, (trap, response)


@pytest.mark.parametrize("name", TABLED)
def test_means_are_those_worked_out(name: str) -> None:
    found, benchmark = table(name), BENCHMARKS[name]
    for trap, asked_of, wanted in found["means"]:
        answers = []
        for number, (record, changes, responses) in enumerate(asked_of):
            items = list(benchmark.items(changed(found, record, changes), number))
            said = responses if isinstance(responses, list) else [responses]
            answers += [scored(benchmark, item, one) for item, one in zip(items, said, strict=True)]
        report = summary(benchmark, Read("", (), ()), answers, frames=16)
        assert report.micro is not None
        assert report.macro is not None
        means = {"overall": report.overall, "micro": report.micro.official, "macro": report.macro.official}
        means |= {key: getattr(report.micro, key) for key in ("lenient", "chance", "drawn", "unparsed", "questions")}
        means |= {part: score.official for part, score in (report.groups | report.tasks).items()}
        means["faults"] = len(report.faults)
        assert {key: means[key] for key in wanted} == pytest.approx(wanted, abs=1e-4), trap


def test_random_letters_are_the_same_again_differ_by_seed_and_are_counted() -> None:
    benchmark = BENCHMARKS["r4d"]
    (_, first), *_ = asked("r4d")
    items = [Item(id=str(n), task="Counting", question="?", options=first.options, right=1) for n in range(400)]
    answers = [scored(benchmark, item, "no idea") for item in items]
    assert answers == [scored(benchmark, item, "no idea") for item in items]
    assert answers != [scored(benchmark, item, "no idea", seed=1) for item in items]
    found = summary(benchmark, Read("test.json", tuple(items), ()), answers, frames=16)
    assert found.micro is not None
    assert (found.micro.drawn, found.micro.unparsed, found.micro.lenient) == (400, 400, 0)
    assert found.micro.official == pytest.approx(1 / 5, abs=4 * 0.02)  # four standard errors


# --- folders as they are downloaded ---


def written(folder: Path, name: str) -> Path:
    """A benchmark's folder with the records of the cases, in its published layout."""
    benchmark: Benchmark = BENCHMARKS[name]
    records = [record_of(case) for case in cases(name)]
    path = folder / benchmark.files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    for media in benchmark.media[:1]:
        (folder / media).mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        if name == "stibench":
            records = [
                r | {"Candidates": r["Candidates"] if isinstance(r["Candidates"], str) else json.dumps(r["Candidates"])}
                for r in records
            ]
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text(json.dumps(records), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_in_the_published_layout_is_read(tmp_path: Path, name: str) -> None:
    found = read(benchmark_of(name), written(tmp_path, name))
    assert [item.question for item in found.items][:1] == [next(asked(name))[1].question]
    assert len({item.id for item in found.items}) == len(found.items) == len(cases(name)) * (2 if name == "sat" else 1)
    assert found.unread == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_folder_says_what_is_there_and_what_is_needed(tmp_path: Path, name: str) -> None:
    (tmp_path / "holiday.txt").touch()
    with pytest.raises(BadInput) as refused:
        read(benchmark_of(name), tmp_path)
    for said in ("holiday.txt", BENCHMARKS[name].files[0], BENCHMARKS[name].origin, BENCHMARKS[name].title):
        assert said in str(refused.value)
    with pytest.raises(BadInput, match="there is no folder"):
        read(benchmark_of(name), tmp_path / "nowhere")
    with pytest.raises(BadInput, match="is a file, not a folder"):
        read(benchmark_of(name), tmp_path / "holiday.txt")


def test_a_folder_without_its_videos_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "r4d")
    (tmp_path / "videos").rmdir()
    with pytest.raises(
        BadInput, match=r"found test\.json; its videos or images are missing; needed test\.json, and the folder videos/"
    ):
        read(benchmark_of("r4d"), tmp_path)


def test_an_unknown_benchmark_is_told_those_there_are() -> None:
    with pytest.raises(BadInput, match="there is no benchmark 'r5d'; there are r4d, stibench"):
        benchmark_of("r5d")


def test_items_of_one_id_are_kept_apart(tmp_path: Path) -> None:
    record = record_of(cases("r4d")[0])
    (tmp_path / "q.json").write_text(json.dumps([record, record]), encoding="utf-8")
    assert [item.id for item in read(BENCHMARKS["r4d"], tmp_path, tmp_path / "q.json").items] == ["907", "907 (item 1)"]
