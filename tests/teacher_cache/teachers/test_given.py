"""Truth masks of a set as the signals ``regions`` and ``objects``: exact on rendered scenes, and rows that say why not."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import CLOCKS, Command, regions_job
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from schemas.errors import BadInput, StoreDamaged, VideoError
from schemas.job import Job, TeacherJob
from schemas.prompt import Prompt
from teacher_cache import join_caches, open_cache
from teacher_cache.clips.prompts import prompt_in, prompt_of, with_digests
from teacher_cache.encodings.objects import objects_shape, packed_objects, unpacked_objects
from teacher_cache.io.remote import filesystem
from teacher_cache.jobs.audit import reteach
from teacher_cache.jobs.run import run_job
from teacher_cache.scenes import frame_times, random_scene, render_scene
from teacher_cache.store.chunk import clip_buffer, decode_chunks, encode_chunks
from teacher_cache.store.layout import stored_arrays
from teacher_cache.store.shard import pack_clips, unpack_clips
from teacher_cache.teachers.given import FAMILY
from teacher_cache.teachers.masks import decoded_rle, label_maps

JOB = TeacherJob(family="given", preset="px112", options={"objects": 12})
IDS = [f"scene-{seed}.mp4" for seed in range(4)]


def run(job: Mapping[str, Any], **how: Any) -> Any:
    return run_job(Job.model_validate(job), **how)


def rows_of(truth: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (truth / "list.jsonl").read_text().splitlines()]
    return [row | {"masks": str(truth / row["masks"])} for row in rows]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_masks_are_exact_at_the_clips_frames_and_the_teachers_size(regions_store: Path) -> None:
    read = open_cache(str(regions_store)).read(["regions", "frame_index"], IDS)
    assert read["regions"].dtype == np.uint8
    for seed, (frames, fps) in enumerate(CLOCKS):
        truth = render_scene(random_scene(seed), frame_times(frames, fps), height=64, width=96).instance + 1
        squashed = [
            np.asarray(Image.fromarray(truth[n].astype(np.uint8)).resize((112, 112), Image.Resampling.NEAREST))
            for n in read["frame_index"][seed]
        ]
        np.testing.assert_array_equal(read["regions"][seed], np.stack(squashed))
        assert read["regions"][seed].max() > 1


def test_objects_are_read_without_label_maps_and_one_that_is_never_seen_has_a_reason(regions_store: Path) -> None:
    cache = open_cache(str(regions_store))
    labels = cache.read(["regions"], IDS[::-1])["regions"]
    for seed, maps, objects in zip((3, 2, 1, 0), labels, cache.objects(IDS[::-1]), strict=True):
        assert [one.number for one in objects] == list(range(1, len(objects) + 1))
        assert [one.phrase for one in objects] == [*(thing.name for thing in random_scene(seed).objects), "a unicorn"]
        assert objects[-1].model_dump() | {"number": 0} == {
            "number": 0, "phrase": "a unicorn", "box": None, "score": 0.0, "frames": (), "reason": "no_box",
        }  # fmt: skip
        for one in objects:
            shown = tuple(np.flatnonzero((maps == one.number).any((1, 2))).tolist())
            assert one.frames == shown
            assert (one.reason is None) == bool(shown)
            if one.box is not None and shown[:1] == (0,):
                rows, columns = np.nonzero(maps[0] == one.number)
                box = np.array([one.box.top, one.box.left, one.box.bottom, one.box.right])
                found = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]) / 112
                assert np.abs(box - found).max() < 2 / 64


def test_joined_with_maps_of_another_store_it_tells_the_same_objects(tiny_store: Path, regions_store: Path) -> None:
    joined = join_caches({"maps": open_cache(str(tiny_store)), "masks": open_cache(str(regions_store))})
    assert joined.objects(IDS) == open_cache(str(regions_store)).objects(IDS)


def test_an_audit_finds_the_masks_as_they_are_kept(regions_store: Path) -> None:
    retaught, findings = reteach(str(regions_store), 4, videos=("/",))
    assert findings == ()
    assert {name: value for one in retaught for name, value in one.drift.items()} == {"regions": 0.0, "objects": 0.0}


def test_other_phrases_or_masks_are_another_row_and_the_rest_stays(truth_masks: Path, tmp_path: Path) -> None:
    shutil.copytree(truth_masks / "masks", tmp_path / "masks")
    rows = [row | {"masks": f"masks/{Path(row['id']).stem}"} for row in rows_of(truth_masks)]
    job = regions_job(
        tmp_path, truth_masks, tmp_path / "store", videos={"manifest": str(write_rows(tmp_path / "list.jsonl", rows))}
    )
    run(job)
    before = open_cache(str(tmp_path / "store"))
    was = {name: before.clip(name).row for name in IDS}
    rows[1]["phrases"] = "a left shoe; a right shoe"
    write_rows(tmp_path / "list.jsonl", rows)
    first = tmp_path / "masks" / "scene-2" / "00000.png"
    Image.fromarray(np.zeros((64, 96), np.uint8)).convert("P").save(first)
    (tmp_path / "masks" / "scene-3").rename(tmp_path / "gone")
    run(job)
    now = open_cache(str(tmp_path / "store"))
    moved = {name for name in IDS if now.clip(name).row != was[name]}
    assert moved == {"scene-1.mp4", "scene-2.mp4"}  # what is gone now may be as it was
    assert [one.phrase for one in now.objects(["scene-1.mp4"])[0][:2]] == ["a left shoe", "a right shoe"]
    assert all(0 not in one.frames for one in now.objects(["scene-2.mp4"])[0])
    assert before.objects(["scene-1.mp4"]) != now.objects(["scene-1.mp4"])
    assert open_cache(str(tmp_path / "store"), version=before.version).objects(IDS) == before.objects(IDS)


def test_what_an_earlier_attempt_left_is_taken_over_where_its_labels_are_the_same(
    regions_store: Path, truth_masks: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(regions_store, tmp_path / "store"))
    committed = sorted((store / "log").iterdir())
    for record in committed:
        if b"unit_committed" in record.read_bytes():
            record.unlink()
    for record in committed:
        if "checkpoint" in str(record):
            shutil.rmtree(record) if record.is_dir() else record.unlink()
    array = {a.name: a for a in stored_arrays(open_cache(str(regions_store)).recipe, "regions", FAMILY.identify(JOB).shapes)}[
        "regions"
    ]
    shard = store / "regions/c/0/0/0/0"
    clips = unpack_clips(shard.read_bytes(), array, 2)
    labels = clip_buffer(array, 1)[0]
    decode_chunks(clips[1], array, labels)
    labels[:, :, :40] = 0  # an object's pixels are lost
    shard.write_bytes(pack_clips({0: list(map(bytes, clips[0])), 1: encode_chunks(labels, array)}, array, 2))
    report = run(regions_job(tmp_path, truth_masks, store))
    found = open_cache(str(store)).clips.to_pylist()
    assert {clip["clip_id"]: clip["reason"] for clip in found if clip["reason"]} == {"scene-1.mp4": "missing_in_shard"}, report
    assert run(regions_job(tmp_path, truth_masks, store)).clips.committed == 4
    assert open_cache(str(store)).objects(IDS) == open_cache(str(regions_store)).objects(IDS)


def test_a_file_of_phrases_goes_before_the_list(truth_masks: Path, tmp_path: Path) -> None:
    phrases = write_rows(
        tmp_path / "phrases.jsonl", [{"id": "scene-1.mp4", "phrases": ["A  Cup", "a cup", "dog"]}, {"id": "x", "phrases": []}]
    )
    videos = {"manifest": str(truth_masks / "list.jsonl"), "phrases": str(phrases)}
    run(regions_job(tmp_path, truth_masks, tmp_path / "store", videos=videos))
    found = open_cache(str(tmp_path / "store")).objects(["scene-1.mp4", "scene-0.mp4"])
    assert [one.phrase for one in found[0][:2]] == ["A Cup", "dog"]
    assert found[1][-1].phrase == "a unicorn"


ODD = {
    "one object in white": (np.full((64, 96), 255, np.uint8), None),
    "colours": (np.zeros((64, 96, 3), np.uint8), "prompt_unusable"),
    "an object beyond the store's": (np.full((64, 96), 200, np.uint8), "prompt_unusable"),
    "16 bits": (np.full((64, 96), 3, np.uint16), None),
    "16 bits, of which more than 8 are used": (np.full((64, 96), 3 + 256, np.uint16), "prompt_unusable"),
}


def test_masks_that_cannot_be_used_cost_their_own_row(
    truth_masks: Path, tmp_path: Path, teacher_cache_command: Command
) -> None:
    rows = rows_of(truth_masks)[:1]
    for name, (picture, _) in ODD.items():
        folder = tmp_path / name
        folder.mkdir()
        for number in range(20):
            Image.fromarray(picture).save(folder / f"{number}.png")
        rows.append(rows[0] | {"id": name, "masks": str(folder)})
    few = tmp_path / "few"
    few.mkdir()
    Image.fromarray(ODD["one object in white"][0]).save(few / "0.png")
    (tmp_path / "bad.json").write_text('{"annotations": 3}')
    rows += [rows[0] | {"id": name, "masks": str(tmp_path / name)} for name in ("few", "bad.json", "none")]
    rows.append({key: value for key, value in rows[0].items() if key != "masks"} | {"id": "no masks"})
    wanted = {name: reason for name, (_, reason) in ODD.items()} | {
        "scene-0.mp4": None, "few": "prompt_unusable", "bad.json": "prompt_unusable", "none": "prompt_missing",
        "no masks": "prompt_missing",
    }  # fmt: skip
    videos = {"manifest": str(write_rows(tmp_path / "list.jsonl", rows))}
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(regions_job(tmp_path, truth_masks, str(tmp_path / "store"), videos=videos)))
    done = teacher_cache_command("run", path)
    assert done.status == 1, done.err
    cache = open_cache(str(tmp_path / "store"))
    clips = cache.clips.to_pylist()
    assert {clip["clip_id"]: clip["reason"] or None for clip in clips} == wanted
    said = {clip["clip_id"]: clip["detail"] for clip in clips}
    assert "frames 0 to 0" in said["few"]
    assert "options.objects" in said["an object beyond the store's"]
    assert f"the masks {tmp_path / 'colours'}: 0.png: its pixels are of the kind RGB" in said["colours"]
    assert "a pixel has the number 259; objects have 1 to 254" in said["16 bits, of which more than 8 are used"]
    for name, number in (("one object in white", 1), ("16 bits", 3)):
        assert (cache.read(["regions"], [name])["regions"] == number).all()


CODE = "`9e0900]OH`08300000000000000000000000000000000X9"
"""A mask of 30 × 40 pixels as pycocotools 2.0.11 writes it: rows 4 to 25 and columns 10 to 30, without the pixel (6, 12)."""


def test_annotations_of_a_json_are_drawn_and_the_nearest_frame_counts(tmp_path: Path) -> None:
    square = np.zeros((6, 8), bool)
    square[1:3, 2:5] = True
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], square.T.ravel(), [0]])) != 0), prepend=0).tolist()
    counts = [*runs, square.size - sum(runs)]
    rle = {"size": [6, 8], "counts": counts}
    np.testing.assert_array_equal(decoded_rle(rle, 6, 8), square)
    holed = np.zeros((30, 40), bool)
    holed[4:25, 10:30] = True
    holed[6:7, 12:13] = False
    np.testing.assert_array_equal(decoded_rle({"size": [30, 40], "counts": CODE}, 30, 40), holed)
    about = {"height": 6, "width": 8, "frames": [0, 5, 10], "annotations": [
        {"segmentations": [rle, None, rle]}, {"bboxes": [None, [0, 0, 2, 3], None]},
    ]}  # fmt: skip
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(about))
    found = label_maps(str(path), None, [0, 2, 3, 9])
    np.testing.assert_array_equal(found[0], square)
    np.testing.assert_array_equal(found[1], square)
    assert (found[2][:3, :2] == 2).all()
    assert found[2].sum() == 12
    np.testing.assert_array_equal(found[3], square)
    with pytest.raises(VideoError, match="frames 0 to 10, one every 5 or less; the clip shows frame 15"):
        label_maps(str(path), None, [15])


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([-9, 1, 4, 2], slice(0), slice(0)),  # wholly left of the picture, above it, right of it and below
        ([1, -9, 2, 4], slice(0), slice(0)),
        ([9, 1, 4, 2], slice(0), slice(0)),
        ([1, 9, 2, 4], slice(0), slice(0)),
        ([-2, -1, 4, 3], slice(2), slice(2)),  # over two of its sides
        ([6, 4, 9, 9], slice(4, 6), slice(6, 8)),
    ],
)
def test_a_box_beyond_the_picture_marks_what_of_it_is_inside(
    tmp_path: Path, box: list[int], rows: slice, columns: slice
) -> None:
    """As trackers write them for what leaves the picture."""
    about = {"height": 6, "width": 8, "frames": [0], "annotations": [{"bboxes": [box]}]}
    (tmp_path / "masks.json").write_text(json.dumps(about))
    (found,) = label_maps(str(tmp_path / "masks.json"), None, [0])
    expected = np.zeros((6, 8), np.uint8)
    expected[rows, columns] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("counts", [[1, 2], [-1, 49], "zzzz~~~~~~~~~~~~~~~~~~~~", "é"])
def test_runs_that_are_none_are_refused(counts: Any) -> None:
    with pytest.raises(ValueError, match=r"runs of|no end|ordinal"):
        decoded_rle({"size": [6, 8], "counts": counts}, 6, 8)


def test_a_clip_s_objects_come_back_as_they_were(regions_store: Path) -> None:
    (objects,) = open_cache(str(regions_store)).objects(["scene-0.mp4"])
    phrases = [one.phrase for one in objects]
    for frames in (16, 40):
        late = [one.model_copy(update={"frames": (*one.frames, *((frames - 1,) * (frames > 16)))}) for one in objects]
        values = packed_objects(list(enumerate(late)), objects_shape(12, frames))
        boxes = [None if one.box is None else one.box.left for one in late]
        back = unpacked_objects(values, phrases)
        assert [(one.number, one.phrase, one.frames, one.reason) for one in back] == [
            (one.number, one.phrase, one.frames, one.reason) for one in late
        ]
        assert [None if one.box is None else one.box.left for one in back] == pytest.approx(boxes)


def test_bad_jobs_and_lists_are_named(truth_masks: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`objects`: Input should be less than or equal to 255"):
        FAMILY.identify(TeacherJob(family="given", preset="px112", options={"objects": 300}))
    with pytest.raises(BadInput, match=r"takes masks with frames, and the glob .* has none"):
        run(regions_job(tmp_path, truth_masks, tmp_path / "store", videos={"glob": f"{videos}/*.mp4"}))
    for phrases, said in ((3, "a list of texts"), (["a" * 201], "201 letters"), ([str(n) for n in range(256)], "256 phrases")):
        rows = [rows_of(truth_masks)[0] | {"phrases": phrases}]
        manifest = {"manifest": str(write_rows(tmp_path / "list.jsonl", rows))}
        with pytest.raises(BadInput, match=f"line 1: .*{said}"):
            run(regions_job(tmp_path, truth_masks, tmp_path / "store", videos=manifest))
    assert not (tmp_path / "store").exists()


def test_masks_in_a_bucket_are_those_on_a_disk_and_one_that_changed_is_noticed(s3: str, truth_masks: Path) -> None:
    fs, _ = filesystem(s3)
    fs.put(str(truth_masks / "masks" / "scene-0") + "/", "bucket/m/scene-0/", recursive=True)
    place = prompt_of({"masks": "m/scene-0"}, s3).masks
    local = prompt_of({"masks": "masks/scene-0"}, str(truth_masks)).masks
    assert place is not None
    assert local is not None
    for one, other in zip(label_maps(place, None, [0, 7, 19]), label_maps(local, None, [0, 7, 19]), strict=True):
        np.testing.assert_array_equal(one, other)

    def digests() -> list[str | None]:
        prompts = [Prompt(masks=place).text, Prompt(phrases=("a",)).text, Prompt(masks=f"{s3}/none.json").text]
        return with_digests(pa.chunked_array([prompts]), "listed").to_pylist()

    before = digests()
    assert before[1:] == [None, None]
    fs.pipe("bucket/m/scene-0/00007.png", (truth_masks / "masks/scene-0/00008.png").read_bytes())
    assert digests()[0] != before[0] is not None


def test_a_flipped_clip_has_its_masks_and_boxes_mirrored(truth_masks: Path, tmp_path: Path) -> None:
    run(regions_job(tmp_path, truth_masks, tmp_path / "store", clips={"views": ["plain", "flipped"]}))
    cache = open_cache(str(tmp_path / "store"))
    flipped = [f"{clip_id}~flipped" for clip_id in IDS]
    plain, mirrored = (cache.read(["regions"], ids)["regions"] for ids in (IDS, flipped))
    assert (plain[..., ::-1] == mirrored).mean() > 0.98  # nearest pixels are not mirrored exactly
    assert (plain != mirrored).any()
    for one, other in zip(*map(cache.objects, (IDS, flipped)), strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a.number, a.phrase, a.frames, a.reason) == (b.number, b.phrase, b.frames, b.reason)
            if a.box is not None and b.box is not None:
                assert (a.box.left + b.box.right, a.box.top, a.box.bottom) == pytest.approx((1, b.box.top, b.box.bottom))


@given(arrays(np.float32, (3, 8), elements=st.floats(width=32) | st.integers(-2, 9).map(float)))
@example(np.array([[0.0] * 7 + [2.0**63]], np.float32))  # frames that no integer holds
def test_objects_that_someone_forged_are_read_or_refused(values: np.ndarray) -> None:
    with contextlib.suppress(StoreDamaged):
        for one in unpacked_objects(values, ("a cup",)):
            assert 1 <= one.number <= 3


@pytest.mark.parametrize("text", ["", "{", '{"phrases": 3}', '{"phrases": ["a"], "others": 1}', "[]"])
def test_a_prompt_that_someone_forged_is_refused(text: str) -> None:
    with pytest.raises(StoreDamaged, match=r"has the prompt .*, which is none"):
        prompt_in(text)
