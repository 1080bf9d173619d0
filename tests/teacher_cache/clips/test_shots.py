"""Clips by shots: cuts that were made are found where they were made, and become rows as listed segments do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strange_videos
from conftest import Jobs, tree

from schemas.clip import Segment, Shot, Window
from schemas.errors import ClipFailed, RecipeMismatch, VideoError
from schemas.job import Job
from schemas.recipe import ClipRecipe, ShotRecipe
from schemas.report import RunReport
from teacher_cache import open_cache
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.video import DecodedClip
from teacher_cache.jobs.discovery import resolve_recipe
from teacher_cache.jobs.run import run_job
from teacher_cache.teachers.registry import family

SHOTS = ShotRecipe(detector="as installed", threshold=27, shortest_seconds=0.6)
RECIPE = ClipRecipe(frames=4, sampling="shots", preprocessing="l4p", size=32, student_size=None, shots=SHOTS)
LENGTHS = (20, 30, 25)
"""Frames of the three shots, at 25 a second."""
STARTS = [0.0, 0.8, 2.0]


def write(path: Path, lengths: tuple[int, ...] = LENGTHS, **how: Any) -> Path:
    """Each shot is noise of its own that moves a pixel a frame, so that frames of one differ as in a video."""
    random = np.random.default_rng(0)
    shots = []
    for shot, length in enumerate(lengths):
        scene = random.integers(0, 60, (16, 24, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1) + np.uint8(60 * shot)
        shots += [np.roll(scene, frame, axis=1) for frame in range(length)]
    return strange_videos.write(path, np.stack(shots), **how)


@pytest.fixture(scope="module")
def decoder() -> Any:
    with Decoder(RECIPE, 60) as made:
        yield made


def shots(decoder: Decoder, path: Path, segment: Segment | None = None) -> list[Shot]:
    (found,) = decoder.probe_segments(str(path), [segment])
    assert not isinstance(found, VideoError), found
    return list(found.shots)


def test_cuts_are_found_at_their_frames(decoder: Decoder, tmp_path: Path) -> None:
    found = shots(decoder, write(tmp_path / "a.mp4", options={"bf": "2"}))
    assert [shot.start_seconds for shot in found] == pytest.approx(STARTS)
    assert [shot.frames for shot in found] == list(LENGTHS)
    assert [shot.end_seconds for shot in found] == [*(shot.start_seconds for shot in found[1:]), None]
    of_segment = shots(decoder, tmp_path / "a.mp4", Segment(start_seconds=1.0, end_seconds=2.4))
    assert [(shot.start_seconds, shot.end_seconds, shot.frames) for shot in of_segment] == [(1.0, 2.0, 25), (2.0, 2.4, 10)]


def test_time_decides_which_cuts_are_one(decoder: Decoder, tmp_path: Path) -> None:
    """At a tenth of the rate, what was a fifth of a second is two."""
    lengths = (20, 5, 20)
    assert len(shots(decoder, write(tmp_path / "fast.mp4", lengths))) == 2
    slow = write(tmp_path / "slow.mp4", lengths, stamps=range(0, 400 * sum(lengths), 400))
    assert [shot.start_seconds for shot in shots(decoder, slow)] == [0.0, 8.0, 10.0]


def test_shots_are_found_inside_of_the_box(tmp_path: Path) -> None:
    with Decoder(RECIPE, 60) as boxed, Decoder(RECIPE.model_copy(update={"sampling": "uniform", "shots": None}), 60) as plain:
        path = str(write(tmp_path / "a.mp4"))
        segment = Segment(start_seconds=0.8, end_seconds=2.0)
        assert len(boxed.probe(path).shots) == 3
        of_shot, unknown = boxed.clips(path, [Window(start=0, stop=30, segment=segment), segment])
        (of_segment,) = plain.clips(path, [segment])
    assert isinstance(of_shot, DecodedClip)
    assert isinstance(of_segment, DecodedClip)
    assert of_shot.decoder == of_segment.decoder  # it lacks no layer of protection that others have
    assert of_shot.clock == of_segment.clock
    np.testing.assert_array_equal(of_shot.frames, of_segment.frames)
    assert isinstance(unknown, VideoError)
    assert unknown.reason == "not_probed"


def test_what_lacks_at_the_end_is_counted_in_the_last_shot(decoder: Decoder, tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp4", container_options={"movflags": "faststart"}, options={"g": "5"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 98 // 100])
    found = shots(decoder, tmp_path / "cut.mp4")
    assert [shot.start_seconds for shot in found] == pytest.approx(STARTS)
    parts = [Window(start=0, stop=s.frames, segment=Segment(**s.model_dump(exclude={"frames"}))) for s in found]
    first, _, last = decoder.clips(str(tmp_path / "cut.mp4"), parts)
    assert isinstance(first, DecodedClip)
    assert isinstance(last, DecodedClip)
    assert first.clock.undecodable_tail_frames == 0 < last.clock.undecodable_tail_frames
    assert last.clock.frame_index[-1] + last.clock.undecodable_tail_frames == sum(LENGTHS) - 1
    (tmp_path / "none.mp4").write_bytes(data[:200] + bytes(len(data) - 200))
    with pytest.raises(VideoError):
        decoder.probe_segments(str(tmp_path / "none.mp4"), [None])


def run(jobs: Jobs, folder: Path, store: Path, **clips: Any) -> RunReport:
    source = {"videos": {"manifest": f"{folder}/list.jsonl"}, "signals": ["depth"], "clips": {"sampling": "shots", **clips}}
    return run_job(Job.model_validate(jobs.value(store, **source)))


def test_each_shot_is_a_row_of_a_segment(jobs: Jobs, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text("no video")
    rows = [{"uri": "a.mp4", "caption": "three"}, {"uri": "b.mp4"}, {"uri": "a.mp4", "id": "part", "start": 1, "end": 2.4}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = tmp_path / "store"
    assert run(jobs, tmp_path, store).clips.model_dump() == {"planned": 6, "committed": 5, "failed": 1, "pending": 0}
    cache = open_cache(str(store))
    found = {row["clip_id"]: row for row in cache.clips.to_pylist()}
    assert set(found) == {"a.mp4@0-0.8", "a.mp4@0.8-2", "a.mp4@2-", "part@1-2", "part@2-2.4", "b.mp4"}
    assert (found["a.mp4@0.8-2"]["segment_start"], found["a.mp4@0.8-2"]["segment_end"]) == (0.8, 2.0)
    assert (found["a.mp4@2-"]["segment_end"], found["a.mp4@2-"]["caption"], found["b.mp4"]["reason"]) == (
        None,
        "three",
        "not_a_video",
    )
    index = cache.read(["frame_index"], ["a.mp4@0-0.8", "a.mp4@2-"])["frame_index"]
    assert [[row[0], row[-1]] for row in index.tolist()] == [[0, 19], [50, 74]]
    with pytest.raises(ClipFailed):
        cache.read(["depth"], ["b.mp4"])
    before = tree(store)
    assert run(jobs, tmp_path, store).done_before == 6
    assert tree(store) == before
    with pytest.raises(RecipeMismatch, match=r"clips\.shots\.threshold"):
        run(jobs, tmp_path, store, shot_threshold=20)

    # Another cut: all of the video's shots are superseded.
    write(tmp_path / "a.mp4", (20, 55))
    report = run(jobs, tmp_path, store)
    assert report.clips.model_dump() == {"planned": 4, "committed": 3, "failed": 1, "pending": 0}
    ids = {row["clip_id"] for row in open_cache(str(store)).clips.to_pylist()}
    assert ids == {"a.mp4@0-0.8", "a.mp4@0.8-", "part@1-2.4", "b.mp4"}


def test_a_recipe_names_the_detector_only_where_there_is_one(jobs: Jobs) -> None:
    def recipe(**clips: Any) -> Any:
        job = Job.model_validate(jobs.value("store", clips=clips))
        return resolve_recipe(job, family("l4p").identify(job.teacher)).clips.model_dump()

    found = recipe(sampling="shots", shortest_shot_seconds=1)["shots"]
    assert found.pop("detector").startswith("PySceneDetect 0.")
    assert found == {"threshold": 27, "shortest_seconds": 1}
    assert "shots" not in recipe()
