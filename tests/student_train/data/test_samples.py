"""Conversations find their clips, frames are decoded once, and a batch carries what the student and P4D take."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import strange_videos
import torch
from decoding import decode_frames
from PIL import Image

from schemas.errors import BadInput, CouldNotRun
from schemas.train import DataConfig, ModelConfig
from student_train.data.conversations import Conversation
from student_train.data.frames import StudentFrames
from student_train.data.samples import ClipIndex, Collator, NoTargetsError, load_samples
from student_train.distill.targets import TargetReader
from teacher_cache import Cache, open_cache

VIDEO, IMAGE = 462, 463
"""The tiny preset's token ids."""
ROWS: list[dict[str, Any]] = [
    {"clip_id": "raw/a/1.mp4", "video": "s3://bucket/raw/a/1.mp4", "status": "committed", "reason": None, "detail": None},
    {"clip_id": "raw/b/1.mp4", "video": "s3://bucket/raw/b/1.mp4", "status": "committed", "reason": None, "detail": None},
    {"clip_id": "two", "video": "/data/2.mp4", "status": "failed", "reason": "video_empty", "detail": "zero bytes"},
    {"clip_id": "x", "video": "s3://b/raw/x.tar#7.mp4@512+9", "status": "committed", "reason": None, "detail": None},
    {"clip_id": "three", "video": "/data/3.mp4", "status": "pending", "reason": None, "detail": None},
    {"clip_id": "x~flipped", "video": "s3://b/raw/x.tar#7.mp4@512+9", "status": "committed", "reason": None, "detail": None},
]
for row in ROWS:
    row["flipped"] = str(row["clip_id"]).endswith("~flipped")


HERE = "/"
"""A root that lets the tests' own videos be read, wherever they are."""


def found(video: str | None = None, clip_id: str | None = None, root: str | None = None) -> str:
    roots = () if root is None else (root,)
    return str(ClipIndex(ROWS).find(Conversation("train.json[0]", (), video, clip_id), roots)["clip_id"])


@pytest.mark.parametrize(
    ("video", "root"),
    [
        ("raw/a/1.mp4", None),
        ("s3://bucket/raw/a/1.mp4", None),
        ("a/1.mp4", "s3://bucket/raw"),
        ("a/1.mp4", "s3://bucket/raw/"),
        ("a/1.mp4", None),
        ("./a/1.mp4", "/copies/of/videos"),
    ],
    ids=["clip id", "uri", "under the root", "root with a slash", "end of the uri", "end of the uri, another root"],
)
def test_a_conversation_finds_its_clip(video: str, root: str | None) -> None:
    assert found(video, root=root) == "raw/a/1.mp4"


def test_a_clip_id_goes_before_a_video() -> None:
    assert found("a/1.mp4", clip_id="raw/b/1.mp4") == "raw/b/1.mp4"


def test_an_end_that_several_videos_share_is_refused() -> None:
    with pytest.raises(BadInput, match=r"train.json\[0\]: '1.mp4' matches several clips \(raw/a/1.mp4, raw/b/1.mp4\)"):
        found("1.mp4")


def test_a_member_of_a_tar_is_found_without_its_place() -> None:
    assert found("s3://b/raw/x.tar#7.mp4") == found("raw/x.tar#7.mp4") == found("x.tar#7.mp4", root="s3://b/raw") == "x"
    assert found("s3://b/raw/x.tar#7.mp4@512+9") == "x"


def test_an_end_is_made_of_whole_names() -> None:
    with pytest.raises(NoTargetsError):
        found("w/a/1.mp4")


class Watched(dict[str, Any]):
    """A catalog's row that counts how often its video is looked at."""

    looks = 0

    def __getitem__(self, name: str) -> Any:
        Watched.looks += name == "video"
        return super().__getitem__(name)


def test_a_clip_is_found_without_a_look_at_those_whose_files_have_the_same_name() -> None:
    looks = []
    for count in (50, 100):
        Watched.looks = 0
        index = ClipIndex(Watched(ROWS[0], clip_id=f"{n}", video=f"s3://b/raw/ep{n}/rgb.mp4") for n in range(count))
        for n in range(count):
            assert index.find(Conversation("", (), f"ep{n}/rgb.mp4"), ("/data",))["clip_id"] == f"{n}"
        looks.append(Watched.looks)
    assert looks[1] <= 2 * looks[0]


@pytest.mark.parametrize(
    ("video", "expected"), [("9.mp4", "no clip of '9.mp4'"), ("2.mp4", r"video_empty \(zero bytes\)"), ("3.mp4", "pending")]
)
def test_why_there_are_no_targets_is_said(video: str, expected: str) -> None:
    with pytest.raises(NoTargetsError, match=expected):
        found(video)


@pytest.fixture
def copies(videos: Path, tmp_path: Path) -> list[str]:
    """Paths of three copies of a video."""
    return [str(shutil.copy(videos / "scene-1.mp4", tmp_path / f"{number}.mp4")) for number in range(3)]


def is_kept(frames: StudentFrames, uri: str) -> bool:
    """Whether the frames come without the file."""
    aside = Path(uri).rename(f"{uri}.aside")
    try:
        return frames(uri, [0, 1, 2, 3]).shape == (4, 20, 20, 3)
    except CouldNotRun:
        return False
    finally:
        aside.rename(uri)


def test_frames_are_kept_within_the_bound_and_the_oldest_goes_first(copies: list[str]) -> None:
    frames = StudentFrames(20, cache_bytes=2 * 4 * 20 * 20 * 3)
    for number in (0, 1, 0, 2):
        frames(copies[number], [0, 1, 2, 3])
    assert [is_kept(frames, uri) for uri in copies] == [True, False, True]


def test_no_memory_for_frames_means_decoding_each_time(copies: list[str]) -> None:
    frames = StudentFrames(20, cache_bytes=0)
    frames(copies[0], [0, 1, 2, 3])
    assert not is_kept(frames, copies[0])


def test_frames_are_resized_as_siglip_resizes(videos: Path) -> None:
    whole = decode_frames(videos / "scene-1.mp4", [0, 5])
    expected = [np.asarray(Image.fromarray(frame).resize((24, 24), Image.Resampling.BICUBIC)) for frame in whole]
    np.testing.assert_array_equal(StudentFrames(24, 0)(f"{videos}/scene-1.mp4", [5, 0, 5]), np.stack(expected)[[1, 0, 1]])


def test_a_video_that_went_away_is_named() -> None:
    with pytest.raises(CouldNotRun, match=r"cannot read /data/1.mp4: video_missing.*data.video_root"):
        StudentFrames(20, 0)("/data/1.mp4", [0])


def huge_picture(folder: Path) -> str:
    """A video of one frame, 90 KB large and 800 MB decoded, in a container that tells a smaller size."""
    picture = io.BytesIO()
    Image.new("1", (16384, 16384)).save(picture, "png")
    return str(strange_videos.write_packet(folder / "huge.mov", picture.getvalue(), codec="png", pixels="monob", size=(64, 64)))


def test_a_picture_too_large_costs_the_trainer_no_memory(tmp_path: Path) -> None:
    """Run alone, to see its peak; the decoder's process may take more, up to its own limit."""
    code = (
        "import resource, sys\nfrom schemas.errors import CouldNotRun\nfrom student_train.data.frames import StudentFrames\n"
        "frames = StudentFrames(384, 0)\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    frames.whole(sys.argv[1], 16)\nexcept CouldNotRun as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", code, huge_picture(tmp_path)], capture_output=True, text=True, check=True)
    said, megabytes = done.stdout.splitlines()
    assert "huge.mov: decode_error" in said
    assert int(megabytes) < 50


@pytest.mark.own_decoders
def test_a_video_that_hangs_stops_the_trainer_at_its_deadline(videos: Path) -> None:
    before = psutil.Process().children()  # an S3 server of other tests, for one
    frames = StudentFrames(20, 0, decode_timeout_seconds=4)
    frames(f"{videos}/scene-1.mp4", [0])
    (decoder,) = set(psutil.Process().children()) - set(before)
    decoder.suspend()
    with pytest.raises(CouldNotRun, match=r"decode_timeout: decoding took longer than 4 s.*data.decode_timeout_seconds"):
        frames(f"{videos}/scene-1.mp4", [1])
    assert not decoder.is_running()


@pytest.mark.own_decoders
def test_a_decoder_ends_with_the_frames_it_was_for(videos: Path) -> None:
    before = psutil.Process().children()
    frames = StudentFrames(20, 0)
    frames(f"{videos}/scene-1.mp4", [1])
    (decoder,) = set(psutil.Process().children()) - set(before)
    del frames
    assert not decoder.is_running()


@pytest.fixture(scope="module")
def cache(tiny_store: Path) -> Cache:
    return open_cache(str(tiny_store))


def test_targets_come_in_order_and_a_clip_may_come_twice(cache: Cache) -> None:
    a, b = cache.committed_ids()[:2]
    targets, valid = TargetReader(cache, ["f4d", "depth"])([b, a, b])
    expected = cache.read(["f4d", "depth"], [a, b])
    for signal in ("f4d", "depth"):
        np.testing.assert_array_equal(targets[signal].numpy(), expected[signal][[1, 0, 1]])
        assert valid[signal].tolist() == [True] * 3


def test_a_clip_without_targets_is_nan_and_masked(cache: Cache) -> None:
    a = cache.committed_ids()[0]
    targets, valid = TargetReader(cache, ["motion"])([None, a])
    assert valid["motion"].tolist() == [False, True]
    assert targets["motion"][0].isnan().all()
    np.testing.assert_array_equal(targets["motion"][1].numpy(), cache.read(["motion"], [a])["motion"][0])


def built_in(cache: Cache) -> list[Any]:
    return load_samples(cache, DataConfig(video_root=(HERE,))).samples


def collator(cache: Cache, signals: Sequence[str] = ("f4d", "depth")) -> Collator:
    from student_train.models.build import build_student

    processor = build_student(ModelConfig()).processor
    return Collator(TargetReader(cache, signals), StudentFrames(processor.image_size, 2**26), processor)


def test_built_in_samples_tell_each_clips_length(cache: Cache) -> None:
    samples = built_in(cache)
    assert [sample.clip_id for sample in samples] == cache.committed_ids()
    seconds = cache.read(["timestamps"], [samples[0].clip_id])["timestamps"][0]
    question, answer = samples[0].conversation.turns
    assert question.text == "<video>\nDescribe this video."
    assert answer.text == f"A video of {seconds[-1] - seconds[0]:.1f} seconds, seen in 16 frames."


def test_a_batch_joins_text_frames_times_and_targets(cache: Cache) -> None:
    samples = built_in(cache)[:2]
    batch = collator(cache)(samples)
    assert batch["visual"]["frames"].shape == (2, 16, 96, 96, 3)
    assert batch["visual"]["frames"].dtype == torch.uint8
    assert batch["visual"]["timestamps"].shape == (2, 16)
    assert (batch["input_ids"] == VIDEO).sum(1).tolist() == [1024, 1024]
    assert set(batch["targets"]) == {"f4d", "depth"}
    assert batch["clip_ids"] == [sample.clip_id for sample in samples]


def test_plain_text_and_video_share_a_batch(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    turns = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    path.write_text(json.dumps([{"conversations": turns}, {"clip_id": cache.committed_ids()[0], "conversations": turns}]))
    batch = collator(cache)(load_samples(cache, DataConfig(conversations=(str(path),), video_root=(HERE,))).samples)
    assert batch["visual"]["frames"].shape[0] == 1
    assert (batch["input_ids"] == VIDEO).sum(1).tolist() == [0, 1024]
    assert batch["attention_mask"].sum(1)[0] < batch["attention_mask"].sum(1)[1]


def test_a_pickled_collator_gives_the_same_batch(cache: Cache) -> None:
    samples = built_in(cache)[:2]
    original = collator(cache)
    copy = pickle.loads(pickle.dumps(original))
    expected, got = original(samples), copy(samples)
    assert got.pop("clip_ids") == expected.pop("clip_ids")
    torch.testing.assert_close(got, expected)


def test_images_are_shown_in_the_order_of_their_places(cache: Cache, tmp_path: Path) -> None:
    """A sample of two images, as SAT's, and one of a video with a marked frame, as R4D-Bench's: the first has no targets."""
    for name, color in (("red.png", (255, 0, 0)), ("blue.png", (0, 0, 255))):
        Image.new("RGB", (40, 30), color).save(tmp_path / name)
    turns = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "Red."}]
    samples = [
        {"image": ["red.png", "blue.png"], "conversations": turns},
        {"image": "blue.png", "clip_id": cache.committed_ids()[0], "conversations": turns},
    ]
    (tmp_path / "sat.json").write_text(json.dumps(samples))
    config = DataConfig(conversations=(str(tmp_path / "sat.json"),), image_root=(str(tmp_path),), video_root=(HERE,))
    batch = collator(cache)(load_samples(cache, config).samples)
    assert batch["visual"]["images"][:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255], [0, 0, 255]]
    assert (batch["input_ids"] == IMAGE).sum(1).tolist() == [128, 64]
    assert (batch["input_ids"] == VIDEO).sum(1).tolist() == [0, 1024]
    assert batch["clip_ids"] == [cache.committed_ids()[0]]
    assert len(batch["targets"]["f4d"]) == 1
    only_images = collator(cache)(load_samples(cache, config).samples[:1])
    assert set(only_images) == {"input_ids", "attention_mask", "labels", "visual", "clip_ids"}


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "chunk.png")
    damaged = (tmp_path / "chunk.png").read_bytes().replace(b"IEND", b"IE\x00D").replace(b"IDAT", b"IDA\x00")
    (tmp_path / "chunk.png").write_bytes(damaged)
    for name in ("half.png", "chunk.png", "absent.png"):
        with pytest.raises(CouldNotRun, match=rf"cannot read the image .*{name}.*image_root"):
            StudentFrames(20, 0).image(str(tmp_path / name))


def write(folder: Path, *videos: str) -> DataConfig:
    turns = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "A ball."}]
    (folder / "train.json").write_text(json.dumps([{"video": video, "conversations": turns} for video in videos]))
    return DataConfig(conversations=(str(folder / "train.json"),), video_root=(HERE,))


def test_conversations_without_targets_stop_the_run_and_are_named(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"(?s)1 conversations have no targets.*train.json\[1\].*'elsewhere.mp4'.*without_targets: drop"
    ):
        load_samples(cache, write(tmp_path, "scene-0.mp4", "elsewhere.mp4"))


def test_conversations_without_targets_can_be_dropped(cache: Cache, tmp_path: Path) -> None:
    config = write(tmp_path, "scene-0.mp4", "elsewhere.mp4", "scene-1.mp4").model_copy(update={"without_targets": "drop"})
    joined = load_samples(cache, config)
    assert len(joined.samples) == 2
    assert len(joined.dropped) == 1


def test_conversations_without_targets_can_train_the_language_model_alone(cache: Cache, videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "scene-1.mp4", tmp_path / "untaught.mp4")
    config = write(tmp_path, "scene-0.mp4", "untaught.mp4", "scene-1.mp4").model_copy(update={"without_targets": "sft"})
    samples = load_samples(cache, config.model_copy(update={"video_root": (str(tmp_path),)})).samples
    assert [sample.clip_id is None for sample in samples] == [False, True, False]
    shown = [dataclasses.replace(sample, video=str(videos / "scene-1.mp4")) for sample in samples]
    batch = collator(cache)(shown)
    assert batch["valid"]["f4d"].tolist() == [True, False, True]
    assert batch["targets"]["f4d"][1].isnan().all()
    assert len(batch["clip_ids"]) == 2
    # The untaught video is sampled as the teacher's were, so it shows the same frames at the same times.
    for name in ("frames", "timestamps"):
        torch.testing.assert_close(batch["visual"][name][1], batch["visual"][name][2], rtol=0, atol=0)
    assert "targets" not in collator(cache)(shown[1:2])


def test_a_store_of_other_videos_is_said(cache: Cache, tmp_path: Path) -> None:
    config = write(tmp_path, "elsewhere.mp4").model_copy(update={"without_targets": "drop"})
    with pytest.raises(BadInput, match=r"none of the 1 conversations.*other videos"):
        load_samples(cache, config)
