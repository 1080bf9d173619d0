"""Questions about time: the truth is a video's own length, and no option gives it away."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, is_one_clear_error

from student_train.evaluation.benchmarks.protocol import read
from student_train.evaluation.benchmarks.registry import BENCHMARKS
from student_train.evaluation.time_questions import time_options
from teacher_cache.clips.decoder import Decoder


def test_options_are_within_a_quarter_and_four_times_and_the_truth_may_be_any_of_them() -> None:
    places, ranks = Counter[int](), Counter[int]()
    for seed in range(500):
        options, right = time_options(10.0, np.random.default_rng(seed))
        values = [float(option.removesuffix(" s")) for option in options]
        assert (values[right], len(set(values))) == (10, 5)
        assert all(2.5 <= value <= 40 for value in values)
        places[right] += 1
        ranks[sorted(values).index(10)] += 1
    for counts in (places, ranks):  # a fifth of 500 each, within four standard deviations
        assert set(counts) == set(range(5))
        assert all(abs(count - 100) < 4 * 9 for count in counts.values())


def test_questions_are_made_of_videos_and_read_as_a_benchmark(
    videos: Path, tmp_path: Path, student_train_command: Command
) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "timebench.json"
    done = student_train_command("data", "time-questions", str(tmp_path / "videos" / "*.mp4"), "--out", out, "--json")
    assert done.status == 1
    assert [line.split(":")[0].rpartition("/")[2] for line in done.json["left_out"]] == ["broken.mp4"]
    items = read(BENCHMARKS["timebench"], tmp_path).items
    assert len(items) == done.json["questions"] == len(list(videos.glob("*.mp4")))
    with Decoder(None, 60) as decoder:
        for item in items:
            footage = decoder.probe(str(tmp_path / item.video))
            assert item.right is not None
            seconds = float(item.options[item.right].removesuffix(" s"))
            assert seconds == pytest.approx((footage.frames - 1) / footage.fps, rel=5e-3)
            assert "seconds long" not in BENCHMARKS["timebench"].prompt(item, 3.0)
    before = out.read_bytes()
    student_train_command("data", "time-questions", str(tmp_path / "videos" / "*.mp4"), "--out", out)
    assert out.read_bytes() == before
    student_train_command("data", "time-questions", str(tmp_path / "videos" / "*.mp4"), "--out", out, "--seed", "1")
    assert [q["options"] for q in json.loads(out.read_text())] != [q["options"] for q in json.loads(before)]


def test_no_video_is_told(tmp_path: Path, student_train_command: Command) -> None:
    done = student_train_command("data", "time-questions", str(tmp_path / "*.mp4"), "--out", tmp_path / "t.json")
    is_one_clear_error(done, 2, "matches no video")
