"""Videos that the store has under other ids are refused; what is wanted under two ids, or is of another part, is not."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Jobs

from schemas.errors import BadInput
from schemas.job import Job, VideoSource
from schemas.prompt import PromptName
from teacher_cache import open_cache
from teacher_cache.clips.prompts import with_digests
from teacher_cache.clips.sources import Videos, list_videos
from teacher_cache.clips.windows import whole_videos
from teacher_cache.jobs import renaming
from teacher_cache.jobs.plan import diff_report, plan_report
from teacher_cache.jobs.renaming import require_ids_of_store
from teacher_cache.jobs.run import run_job
from teacher_cache.store.catalog import Catalog, numbered_rows

Row = dict[str, Any]
PER_SHARD = 4


@pytest.fixture
def places(jobs: Jobs, tmp_path: Path) -> Path:
    """Two folders of videos: a/0.mp4, a/1.mp4 and b/2.mp4."""
    for number, name in enumerate(("a/0.mp4", "a/1.mp4", "b/2.mp4")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.link(jobs.videos / f"scene-{number}.mp4", tmp_path / name)
    return tmp_path


def test_a_store_grows_by_globs_and_lists_and_never_has_a_video_twice(jobs: Jobs, places: Path) -> None:
    def job(**videos: Any) -> Job:
        return Job.model_validate(jobs.value(places / "store", videos=videos, signals=["camray"]))

    first, both = f"{places}/a/*.mp4", [f"{places}/a/*.mp4", f"{places}/b/*.mp4"]
    run_job(job(glob=first))
    everywhere = {"glob": f"{places}/*/*.mp4"}
    (places / "whole.jsonl").write_text("".join(json.dumps({"uri": f"{places}/a/{n}.mp4"}) + "\n" for n in range(2)))
    (places / "part.jsonl").write_text('{"uri": "0.mp4"}\n{"uri": "1.mp4"}\n{"uri": "../b/2.mp4"}\n')
    remedy = f"with `videos.root: {places}/a` they are those of the store"
    for videos, said in (
        ({"glob": both}, remedy), (everywhere, remedy), ({"manifest": f"{places}/whole.jsonl"}, "in a column `id`"),
    ):  # fmt: skip
        for act in (plan_report, run_job, lambda job: diff_report(job.store, job)):
            with pytest.raises(
                BadInput, match=r"2 of the job's . videos are in the store under other ids, such as .*/a/0.mp4: "
            ) as no:
                act(job(**videos))
            assert said in str(no.value)
    assert open_cache(str(places / "store")).clips["clip_id"].to_pylist() == ["0.mp4", "1.mp4"]
    root = f"{places}/a"
    for videos in ({"glob": both}, everywhere, {"manifest": f"{places}/part.jsonl"}):
        assert plan_report(job(**videos, root=root)).new_clips == 1
    assert run_job(job(glob=both, root=root)).committed == 1
    assert open_cache(str(places / "store")).clips["clip_id"].to_pylist() == ["0.mp4", "1.mp4", f"{places}/b/2.mp4"]
    assert plan_report(job(**everywhere, root=root)).new_clips == plan_report(job(glob=first)).new_clips == 0


def listed(folder: Path, rows: Sequence[Row], takes: tuple[PromptName, ...] = ()) -> tuple[Videos, VideoSource]:
    path = folder / "list.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = VideoSource(manifest=str(path), root="/v")
    return list_videos(source, takes=takes), source


def catalog_of(videos: Videos, *others: Videos) -> Catalog:
    catalog = Catalog()
    for some in (videos, *others):
        clips = whole_videos(some.table())
        if '"masks"' in str(clips["prompt"]):  # as a run adds them
            clips = clips.set_column(clips.column_names.index("prompt"), "prompt", with_digests(clips["prompt"], "listed"))
        catalog = catalog.with_rows(numbered_rows(clips.drop("clip_key"), catalog.next_row(PER_SHARD)))
    return catalog


A, B = {"uri": "a.mp4"}, {"uri": "b.mp4"}


@pytest.mark.parametrize(
    ("stored", "rows", "count"),
    [
        ([A, B], [A, B], 0),
        ([A, B], [A | {"id": "x"}], 1),
        ([A, B], [A | {"id": "x"}, B | {"id": "y"}, {"uri": "c.mp4"}], 2),
        ([A, B], [A | {"id": "x"}, B], 1),
        ([A, B], [{"uri": "/v/a.mp4"}], 1),
        ([A], [A, A | {"id": "x"}], 0),  # wanted under both
        ([A], [{"uri": "c.mp4", "id": "x"}], 0),
        ([A | {"start": 1, "end": 2}], [A | {"start": 2, "end": 3}, A | {"start": 1}, A], 0),  # more parts of it
        ([A | {"start": 1, "end": 2}], [A | {"start": 1, "end": 2, "id": "x"}, A | {"start": 1}], 1),
        ([A | {"end": 2}], [A | {"start": 0, "end": 2.0, "id": "x"}], 1),
    ],
)
def test_it_is_the_same_video_by_its_place_and_segment(stored: list[Row], rows: list[Row], count: int, tmp_path: Path) -> None:
    catalog = catalog_of(listed(tmp_path, [{"uri": "first.mp4"}])[0], listed(tmp_path, stored)[0])
    videos, source = listed(tmp_path, rows)
    if not count:
        require_ids_of_store(videos, catalog, source, are_shots=False)
        return
    with pytest.raises(BadInput, match=rf"^{count} of the job's {len(rows)} videos are in the store under other ids"):
        require_ids_of_store(videos, catalog, source, are_shots=False)


@pytest.mark.parametrize("name", ["phrases", "masks"])
def test_a_video_with_another_prompt_is_another(name: PromptName, tmp_path: Path) -> None:
    for value in ("one", "other"):
        (tmp_path / f"{value}.json").write_text(value)
    first, other = (str(tmp_path / f"{value}.json") for value in ("one", "other"))
    catalog = catalog_of(listed(tmp_path, [A | {name: first}, B | {name: first}], (name,))[0])
    videos, source = listed(tmp_path, [A | {name: other, "id": "x"}], (name,))
    require_ids_of_store(videos, catalog, source, are_shots=False)
    videos, source = listed(tmp_path, [A | {name: first, "id": "x"}], (name,))
    with pytest.raises(BadInput, match=r"^1 of the job's 1 videos are in the store under other ids"):
        require_ids_of_store(videos, catalog, source, are_shots=False)


def test_a_video_of_which_the_store_has_shots_is_the_same(tmp_path: Path) -> None:
    shots = [A | {"id": f"a.mp4@{start}-{start + 2}", "start": start, "end": start + 2} for start in (0, 2)]
    videos, source = listed(tmp_path, [A | {"id": "x"}])
    catalog = catalog_of(listed(tmp_path, shots)[0])
    require_ids_of_store(videos, catalog, source, are_shots=False)
    with pytest.raises(BadInput, match=r"^1 of the job's 1 videos are in the store under other ids"):
        require_ids_of_store(videos, catalog, source, are_shots=True)


def test_rows_are_looked_at_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renaming, "_AT_ONCE", 2)
    many = [{"uri": f"{n}.mp4"} for n in range(11)]
    catalog = catalog_of(*(listed(tmp_path, many[start : start + 3])[0] for start in range(0, 11, 3)))
    for wanted in (many[:1], many[10:], many[3:8]):
        videos, source = listed(tmp_path, [row | {"id": f"x{row['uri']}"} for row in wanted])
        with pytest.raises(BadInput, match=rf"^{len(wanted)} of the job's {len(wanted)} videos .* {wanted[0]['uri']!r} there"):
            require_ids_of_store(videos, catalog, source, are_shots=False)
