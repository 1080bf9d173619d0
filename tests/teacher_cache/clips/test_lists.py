"""Lists of videos in every format: the same rows out, and clear words for what is none."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import BadInput
from schemas.job import VideoSource
from schemas.prompt import PromptName
from teacher_cache.clips import extra, list_formats, lists
from teacher_cache.clips.extra import LONGEST_EXTRA, MOST_COLUMNS, Dropped, packed, unpacked
from teacher_cache.clips.sources import list_videos

ROWS: list[dict[str, Any]] = [
    {"uri": "v/a b#1?%.mp4", "id": "a", "caption": "one\u2028two\u0085 «three», \"four\"\nfive", "split": "train", "fps": 25},
    {"uri": "/abs/ü.mp4", "start": 1.5, "end": 3, "split": "val", "fps": 29.97, "is_good": True, "zip": "007"},
    {"uri": "s3://bucket/c.mp4", "start": 2, "split": "train"},
]  # fmt: skip
MARK = b"\xef\xbb\xbf"


def as_csv(separator: str) -> bytes:
    names = list(dict.fromkeys(name for row in ROWS for name in row))
    quoted = [[str(row.get(name, "")).replace('"', '""') for name in names] for row in ROWS]
    return "\r\n".join(separator.join(f'"{value}"' for value in row) for row in [names, *quoted]).encode()


def as_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([{name: row.get(name) for row_ in ROWS for name in row_} for row in ROWS])
    pq.write_table(table, sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


FORMS = {
    "lines.jsonl": lines(*ROWS),
    "lines.json": b"\n" + lines(*ROWS),
    "marked.jsonl": MARK + lines(*ROWS),
    "windows.jsonl": lines(*ROWS).replace(b"\n", b"\r\n").rstrip(),
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": MARK + json.dumps(ROWS, ensure_ascii=False).encode(),
    "table.csv": MARK + as_csv(","),
    "table.tsv": as_csv("\t"),
    "table.parquet": as_parquet(),
    "parquet-by-its-bytes": as_parquet(),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("at_once", [None, 7])
def test_every_format_gives_the_same_rows(
    name: str, at_once: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is read a few bytes, and two rows, at a time."""
    if at_once:
        monkeypatch.setattr(list_formats, "_BYTES", max(at_once, 4))
        for module in (list_formats, lists):
            monkeypatch.setattr(module, "ROWS", 2)
    (tmp_path / name).write_bytes(FORMS[name])
    forced = {"format": "json"} if at_once and name == "array.json" else {}  # seven bytes do not tell an array of what
    videos = list_videos(VideoSource(manifest=str(tmp_path / name), **forced))
    assert videos.table().select(["id", "uri", "segment_start", "segment_end"]).to_pylist() == [
        {"id": "a", "uri": f"{tmp_path}/v/a b#1?%.mp4", "segment_start": None, "segment_end": None},
        {"id": "/abs/ü.mp4@1.5-3", "uri": "/abs/ü.mp4", "segment_start": 1.5, "segment_end": 3},
        {"id": "s3://bucket/c.mp4@2-", "uri": "s3://bucket/c.mp4", "segment_start": 2, "segment_end": None},
    ]
    columns = {name: values.to_pylist() for name, values in unpacked(videos["extra"], {"fps"}).items()}
    assert columns == {
        "caption": [ROWS[0]["caption"], None, None], "split": ["train", "val", "train"], "fps_": [25, 29.97, None],
        "is_good": [None, True, None], "zip": [None, "007", None],
    }  # fmt: skip


def test_the_guide_s_examples_are_lists(tmp_path: Path) -> None:
    """Each as it stands in the page, by itself."""
    guide = Path(__file__).parents[3] / "docs" / "guides" / "precompute.md"
    found = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', guide.read_text(), re.MULTILINE | re.DOTALL))
    listed = {}
    for name, text in found.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        videos = list_videos(VideoSource(manifest=f"{tmp_path}/dataset" if "/" in name else str(path)))
        listed[name] = dict(zip(videos["id"].to_pylist(), videos["extra"].to_pylist(), strict=True))
    dog = "raw/dog.mp4@3-7.5"
    assert listed == {
        "videos.jsonl": {
            "raw/cat.mp4": '{"caption":"A cat jumps.","split":"train"}', dog: '{"caption":"A dog sleeps.","split":"train"}',
            "raw/dog.mp4@12-": '{"caption":"It barks.","split":"val"}', "fox": None,
        },
        "videos.json": {"raw/cat.mp4": None, dog: None},
        "videos.csv": {"raw/cat.mp4": '{"caption":"A cat jumps."}', dog: '{"caption":"A dog sleeps, or seems to."}'},
        "train.json": {"raw/cat.mp4": None},
        "dataset/train/metadata.csv": {"train/0001.mp4": '{"text":"A cat jumps."}'},
    }  # fmt: skip


def test_conversations_are_a_list_of_their_videos(tmp_path: Path) -> None:
    """Each once, however many conversations it has; those about images or nothing list none."""
    talk = [{"from": "human", "value": "<video>\nQ"}, {"from": "gpt", "value": "A"}]
    samples = [
        {"id": 1, "video": "long.mp4", "conversations": talk}, {"id": 2, "image": "a.png", "conversations": talk},
        {"id": 3, "video": "long.mp4", "conversations": talk}, {"id": 4, "conversations": talk},
        {"id": 5, "videos": ["b.mp4", "c.mp4"], "conversations": talk},
        {"id": 6, "video": "d.mp4", "clip_id": "named", "conversations": talk},
    ]  # fmt: skip
    for name, data in (("train.json", json.dumps(samples).encode()), ("train.jsonl", lines(*samples))):
        (tmp_path / name).write_bytes(data)
        assert list_videos(VideoSource(manifest=str(tmp_path / name)))["id"].to_pylist() == [
            "long.mp4", "b.mp4", "c.mp4", "named",
        ]  # fmt: skip
    (tmp_path / "bad.json").write_text(json.dumps([*samples, {"video": 7, "conversations": talk}]))
    with pytest.raises(BadInput, match=r"bad.json, conversation 7: `video` is '7'; needed a path, or a list of paths"):
        list_videos(VideoSource(manifest=str(tmp_path / "bad.json")))


def test_a_hugging_face_dataset_s_folder_is_a_list(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "files" / split).mkdir(parents=True)
        (tmp_path / "files" / split / "metadata.csv").write_text("file_name,label\n0001.mp4,3\n")
    videos = list_videos(VideoSource(manifest=str(tmp_path / "files")))
    assert videos.table().select(["id", "uri", "extra"]).to_pylist() == [
        {"id": f"{split}/0001.mp4", "uri": f"{tmp_path}/files/{split}/0001.mp4", "extra": '{"label":3}'}
        for split in ("test", "train")
    ]
    video = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    (tmp_path / "table" / "data").mkdir(parents=True)
    shard = tmp_path / "table" / "data" / "train-00000-of-00001.parquet"
    for data, wanted in ((None, ["data/x.mp4"]), (b"\0" * 100, None)):
        column = pa.array([{"bytes": data, "path": "x.mp4"}], video)
        pq.write_table(pa.table({"video": column, "tags": [["a"]], "split": pa.array(["train"]).dictionary_encode()}), shard)
        source, notes = VideoSource(manifest=str(tmp_path / "table")), list[str]()
        if wanted is None:
            with pytest.raises(BadInput, match=r"'video' holds the videos themselves, and only paths are read"):
                list_videos(source)
            continue
        videos = list_videos(source, notes.append)
        assert (videos["id"].to_pylist(), videos["extra"].to_pylist()) == (wanted, ['{"split":"train"}'])
        assert notes == [
            f"{tmp_path}/table: 1 values of the column 'tags' are not kept: only texts, numbers and truth values are"
        ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty has none of metadata.jsonl, metadata.csv, metadata.parquet and no .parquet"):
        list_videos(VideoSource(manifest=str(tmp_path / "empty")))


def test_a_list_may_name_its_columns_otherwise(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("videoid,contentUrl,t0,t1,start\n7,a.mp4,1,2.5,noon\n")
    columns = {"uri": "contentUrl", "id": "videoid", "start": "t0", "end": "t1"}
    (row,) = list_videos(VideoSource(manifest=str(tmp_path / "clips.csv"), columns=columns)).table().to_pylist()
    assert (row["id"], row["segment_start"], row["segment_end"], row["extra"]) == ("7", 1, 2.5, '{"start":"noon"}')
    for wrong in ({"glob": "*.mp4", "columns": columns}, {"glob": "*", "format": "csv"}, {"glob": []}):
        with pytest.raises(ValueError, match=r"`format` and `columns` describe a `manifest`|`glob` is an empty list"):
            VideoSource.model_validate(wrong)


def told(folder: Path, text: str, takes: tuple[PromptName, ...] = (), **source: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of such a list, and what is said of it."""
    path, notes = folder / ("list.jsonl" if text.startswith("{") else "list.csv"), list[str]()
    path.write_text(text)
    rows = list_videos(VideoSource(manifest=str(path), **source), notes.append, takes).table().to_pylist()
    return rows, [note.removeprefix(f"{path}: ") for note in notes]


@pytest.mark.parametrize(
    ("name", "values"),
    [("phrases", ('["the red car"]', '["the dog"]')), ("masks", ('"a"', '"b"')), ("phrases", ('["the dog"]', "null"))],
)
def test_rows_of_one_id_with_other_phrases_or_masks_are_refused(
    name: PromptName, values: tuple[str, str], tmp_path: Path
) -> None:
    rows = [f'{{"uri": "a.mp4", "{name}": {value}}}' for value in values]
    for one, other in (rows, rows[::-1]):
        with pytest.raises(
            BadInput, match=r"two rows have different phrases or masks for the id 'a.mp4': .*give all of them in one"
        ):
            told(tmp_path, f"{one}\n{other}\n", (name,))
    named = f'{rows[1].removesuffix("}")}, "id": "other"}}'
    assert len(told(tmp_path, f"{rows[0]}\n{named}\n", (name,))[0]) == 2
    same, notes = told(tmp_path, f"{rows[0]}\n{rows[0]}\n", (name,))
    assert (len(same), len(notes)) == (1, 1)
    assert len(told(tmp_path, f"{rows[0]}\n{rows[1]}\n")[0]) == 1  # which say nothing to a teacher that takes frames alone


def test_a_file_with_other_phrases_for_one_id_is_refused(tmp_path: Path) -> None:
    (tmp_path / "phrases.jsonl").write_text('{"id": "a.mp4", "phrases": "car"}\n{"id": "a.mp4", "phrases": "dog"}\n')
    with pytest.raises(BadInput, match=r"gives 'a.mp4' twice, with other phrases: .*car.* and .*dog.*; put all in one record"):
        told(tmp_path, '{"uri": "a.mp4"}', ("phrases",), phrases=str(tmp_path / "phrases.jsonl"))


def test_rows_that_are_left_out_are_counted(tmp_path: Path) -> None:
    rows, notes = told(tmp_path, "uri,caption\na.mp4,one\nb.mp4,two\na.mp4,three\na.mp4,four\n")
    assert [row["extra"] for row in rows] == ['{"caption":"one"}', '{"caption":"two"}']
    said = (
        "2 rows list a video or segment that a row before them lists, "
        "such as 'a.mp4'; they are left out, with what else they say"
    )
    assert notes == [said]
    conversations = [{"video": "a.mp4", "conversations": []}] * 3
    (tmp_path / "all.json").write_text(json.dumps(conversations))
    found = list[str]()
    assert list_videos(VideoSource(manifest=str(tmp_path / "all.json")), found.append).num_rows == 1
    assert not found  # of which a video has any number


def test_blanks_in_a_header_are_no_part_of_its_names(tmp_path: Path) -> None:
    rows, notes = told(tmp_path, "id, uri, start ,end , caption\n x, v.mp4, 0 ,1, a b\ny, v.mp4, 1, 2,\n")
    assert [(row["id"], row["uri"], row["segment_start"], row["segment_end"], row["extra"]) for row in rows] == [
        (" x", f"{tmp_path}/v.mp4", 0, 1, '{"caption":"a b"}'), ("y", f"{tmp_path}/v.mp4", 1, 2, None),
    ]  # fmt: skip
    assert not notes


@pytest.mark.parametrize("names", ["Start,End", "start_time,end_time", "clip_start,clip_end", "t0,t1", "START (s),stop"])
def test_columns_that_are_likely_times_and_cut_nothing_are_told(names: str, tmp_path: Path) -> None:
    text = f"uri,{names},restart,end_user\na.mp4,0,1,2,3\nb.mp4,1,2,3,4\n"
    start, end = names.split(",")
    _, notes = told(tmp_path, text)
    named = ", ".join(map(repr, sorted((start, end))))
    said = (
        f"whole videos are taught, and its columns {named} are only kept for reading. If they are times of segments, in "
        "seconds, say so: `videos.columns: {start: …, end: …}`"
    )
    assert notes == [said]
    rows, notes = told(tmp_path, text, columns={"start": start, "end": end})
    assert ([row["segment_end"] for row in rows], notes) == ([1, 2], [])
    assert told(tmp_path, text, columns={"start": "from"})[1][0] == (
        "no row has a time in 'from', which `videos.columns` says is the start"
    )


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"uri": "a"}\n\n{"uri": \xff}\n', "line 3: it is not UTF-8 (invalid start byte at its byte 8)"),
        (
            "a.json",
            b'[{"uri": "a"},\n {"uri": "b"},\n oops]',
            "line 3: needed item 3 of a JSON array, or its end; found 'oops]'",
        ),
        ("a.json", b'[{"uri": "a"},\n {"uri": "b"}', "line 2: needed item 3 of a JSON array, or its end; found the file's end"),
        ("a.json", b'[{"uri": "a"}, "b.mp4"]', "item 2: needed one JSON object"),
        ("a.json", b'{\n  "a": {"uri": "a"}\n}', "line 1: needed one JSON object"),
        ("a.csv", b"uri,caption\na.mp4,x,y\n", "line 2: 3 values; the header names 2 columns"),
        ("a.csv", b'uri,caption\na.mp4,"x\n', "line 2: it is not CSV in UTF-8 (unexpected end of data)"),
        ("a.csv", b"name\na.mp4\n", 'line 2: needed an object with a text "uri" (or file_name, video, video_path, path)'),
        ("a.parquet", b"PAR1 and no more", "as Parquet: "),
        ("a.jsonl", b'{"uri": "a", "end": 1' + b"0" * 400 + b"}", 'needed "end" in seconds, at least 0; found'),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "it is packed by gzip"),
        ("a.txt", b"a.mp4\nb.mp4\n", "begins with 'a.mp4\\nb.mp4\\n', which is neither JSON nor Parquet"),
    ],
)
def test_what_is_no_list_is_named_with_its_place(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput) as caught:
        list_videos(VideoSource(manifest=str(tmp_path / name)))
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_what_a_store_does_not_keep_is_counted_and_fails_no_run() -> None:
    dropped = Dropped()
    record = {
        "ok": 1, "none": None, "nested": {"a": 1}, "nan": float("nan"), "big": 2**63, "half": "\ud800", "": 1, "x" * 65: 1,
        "signed": "https://h/a.mp4?X-Amz-Signature=5eCr3t", "long": "ü" * LONGEST_EXTRA,
    }  # fmt: skip
    assert packed(record, dropped) == '{"ok":1}'
    assert len(dropped.notes()) == 8
    assert not any("5eCr3t" in note for note in dropped.notes())
    many = [packed({f"{n}": n}, dropped) for n in range(1000)]
    assert [text is None for text in many] == [n >= MOST_COLUMNS - len(dropped.kept & record.keys()) for n in range(1000)]
    assert len(dropped.notes()) < 110


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_kept_columns_are_read_with_one_type_each(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "_AT_ONCE", at_once)
    texts = ['{"a":1,"b":true}', None, '{"a":"x","b":false}', '{"c":1,"d":true}', '{"c":2.5,"d":7}']
    assert {name: values.to_pylist() for name, values in unpacked(pa.chunked_array([texts])).items()} == {
        "a": ["1", None, "x", None, None], "b": [True, None, False, None, None], "c": [None, None, None, 1.0, 2.5],
        "d": [None, None, None, "true", "7"],
    }  # fmt: skip
    for wrong in ('{"a":[1]}', "7", '{"a":1', "[" * 100_000):
        with pytest.raises(ValueError, match=r"not as they are written|Expecting"):
            unpacked(pa.chunked_array([[wrong]]))
    others = pa.chunked_array([[f'{{"{n}":1}}' for n in range(300)]])  # of a store that someone else wrote
    assert len(unpacked(others)) == MOST_COLUMNS


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_list_is_never_held_as_objects(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow holds the rows, outside of Python's memory: ten times as many of them take no more of that."""
    monkeypatch.setattr(list_formats, "_BYTES", 1 << 16)
    for module in (list_formats, lists):
        monkeypatch.setattr(module, "ROWS", 256)
    peaks = []
    for count in (2_000, 20_000):
        rows = [{"uri": f"folder/video-{n:08d}.mp4", "caption": f"a person does the {n}th thing"} for n in range(count)]
        data = {"jsonl": lines(*rows), "json": json.dumps(rows).encode()}
        data["csv"] = b"uri,caption\n" + b"".join(f"{row['uri']},{row['caption']}\n".encode() for row in rows)
        path = tmp_path / f"{count}.{suffix}"
        path.write_bytes(data[suffix])
        del rows, data
        tracemalloc.start()
        assert sum(table.num_rows for table in lists.read_list(list_formats.ListFile(path, str(path)))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
