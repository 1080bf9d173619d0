"""Questions from the teacher's own maps: right where the maps are clear, and none where their errors reach the answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from schemas.errors import BadInput
from schemas.regions import Box, RegionObject
from student_train.data.conversations import conversations_in
from student_train.data.region_questions import questions_of, write_region_questions
from teacher_cache.reader.region_stats import RegionStats


def stats_of(**changes: object) -> RegionStats:
    """One clip of three frames: object 1 near, large, coming and moving right; object 2 far, small, going and resting."""
    shape = (1, 2, 3)
    pixels = np.full(shape, 4000, np.int32)
    pixels[0, 1] = 1000
    flow = np.zeros((*shape, 2), np.float32)
    flow[0, 0, 1:] = [-3.0, 0.1]  # backward: it was further left
    flow[:, :, 0] = np.nan
    speed = np.linalg.norm(flow, axis=-1)
    spread = np.zeros(shape, np.float32)
    box = Box(left=0, top=0, right=0.5, bottom=0.5)
    objects = tuple(RegionObject(number=n, phrase=f"thing {n}", box=box, score=1, frames=(0, 1, 2)) for n in (1, 2))
    return replace(
        RegionStats(
            clip_ids=("a",), objects=(objects,), pixels=pixels, area=pixels / 112**2,
            depth=np.array([[[2.0, 1.9, 1.8], [4.0, 4.4, 4.8]]], np.float32), depth_spread=spread + 0.05, flow=flow,
            flow_spread=spread, speed=speed, motion=spread, bounds={"depth": 0.01, "flow": 1 / 32, "motion": 1 / 16},
        ),
        **changes,
    )  # fmt: skip


def clear(stats: RegionStats) -> dict[tuple[str, tuple[int, ...]], str]:
    return {(one.kind, one.objects): one.options[one.right] for one in questions_of(stats, 0) if one.is_clear}


def test_what_the_maps_say_clearly_is_asked_and_answered() -> None:
    assert clear(stats_of()) == {
        ("nearer", (1, 2)): "<obj_1>",
        ("approach", (1,)): "it comes nearer",
        ("approach", (2,)): "it moves away",
        ("faster", (1, 2)): "<obj_1>",
        ("larger", (1, 2)): "<obj_1>",
        ("direction", (1,)): "to the right",
    }


def test_below_the_margin_nothing_is_asked() -> None:
    whole = stats_of()
    assert {kind for kind, _ in clear(replace(whole, bounds={"depth": 2.0, "flow": 2.0, "motion": 1}))} == {"larger"}
    assert ("nearer", (1, 2)) not in clear(replace(whole, depth_spread=np.full((1, 2, 3), 3.0)))
    assert not {("faster", (1, 2)), ("direction", (1,))} & clear(replace(whole, flow_spread=np.full((1, 2, 3), 9.0))).keys()
    asked = {one.kind: one for one in questions_of(whole, 0)}
    # By hand: 1% of each depth, and 2 × 0.05 over the root of 4000 / 196 and of 1000 / 196 patches.
    assert asked["nearer"].margin == pytest.approx(2 * np.log(1.01) + 0.1 / np.sqrt(4000 / 196) + 0.1 / np.sqrt(1000 / 196))
    assert asked["nearer"].difference == pytest.approx(np.log(2), rel=1e-5)


def test_an_object_that_the_first_frame_does_not_show_is_not_asked_about() -> None:
    pixels = stats_of().pixels.copy()
    pixels[0, 1, 0] = 31
    assert all(2 not in objects for _, objects in clear(replace(stats_of(), pixels=pixels)))


def test_questions_of_a_store_are_conversations_with_their_margins(
    tiny_store: Path, regions_store: Path, tmp_path: Path, student_train_command: Command
) -> None:
    out = tmp_path / "questions.json"
    done = student_train_command("data", "region-questions", tiny_store, regions_store, "--out", out, "--json")
    assert done.status == 0, done.err
    records = json.loads(out.read_text())
    assert done.json["questions"] == len(records) == sum(done.json["kinds"].values())
    assert done.json["clips"] == 4
    assert sum(done.json["below_margin"].values()) > 0
    for record in records:
        assert record["label"].startswith("pseudo")
        assert record["difference"] > record["margin"] > 0
        assert {f"<obj_{one['number']}>" for one in record["objects"]} <= set(
            record["conversations"][0]["value"].replace("?", " ").replace(":", " ").split()
        )
    read = list(conversations_in([str(out)]))
    assert len(read) == len(records)
    assert {one.clip_id for one in read} <= {f"scene-{n}.mp4" for n in range(4)}
    again = tmp_path / "again.json"
    write_region_questions([str(tiny_store), str(regions_store), str(regions_store)], again)  # a signal of two is the first's
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(BadInput, match="none of 0 clips"):
        write_region_questions([str(tiny_store), str(regions_store)], again, where=[])
