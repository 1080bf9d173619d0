"""Rendered scenes as a store of regions stands: exact label maps, objects by their names, videos, and questions about them.

A stand-in for the store of a job that finds objects: it has what `teacher_cache.reader.marked.RegionTargets` asks for. With
noise, it is what a grounding model would have made of the same scenes: objects missed, boxes moved, two taken for each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.regions import RegionObject
from teacher_cache.regions.marks import boxes_of
from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene
from teacher_cache.scenes.questions import Mark, label_map, mark_objects, scene_questions

_MARK = re.compile(r"<obj_(\d+)>")


@dataclass(frozen=True, eq=False)
class SceneClip:
    """A scene's clip, as a store of regions has it."""

    clip_id: str
    video: str
    labels: np.ndarray[Any, np.dtype[np.uint8]]
    """(frame, y, x)."""
    objects: tuple[RegionObject, ...]
    segment: tuple[float | None, float | None] = (None, None)
    """Start and end, in seconds, of the part of the video that it is."""


@dataclass(frozen=True)
class RegionScenes:
    """The stand-in store."""

    scenes: tuple[SceneClip, ...]
    url: str = "scenes"
    signals: tuple[str, ...] = ("regions", "objects")

    @property
    def clips(self) -> pa.Table:
        rows = [
            {
                "clip_id": one.clip_id,
                "video": one.video,
                "status": "committed",
                "reason": None,
                "detail": None,
                "flipped": False,
            }
            | dict(zip(("segment_start", "segment_end"), one.segment, strict=True))
            for one in self.scenes
        ]
        texts, numbers = ("clip_id", "video", "status", "reason", "detail"), ("segment_start", "segment_end")
        schema = pa.schema(
            {name: pa.string() for name in texts} | {name: pa.float64() for name in numbers} | {"flipped": pa.bool_()}
        )
        return pa.Table.from_pylist(rows, schema)

    def clip(self, clip_id: str) -> SceneClip:
        return next(one for one in self.scenes if one.clip_id == clip_id)

    def read(self, signals: Sequence[str], clip_ids: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        clips = [self.clip(clip_id) for clip_id in clip_ids]
        found = {
            "regions": np.stack([one.labels for one in clips]),
            "frame_index": np.stack([np.arange(len(one.labels)) for one in clips]),
        }
        return {name: found[name] for name in signals}

    def objects(self, clip_ids: Sequence[str]) -> list[tuple[RegionObject, ...]]:
        return [self.clip(clip_id).objects for clip_id in clip_ids]

    def noisy(self, seed: int, *, missed: float = 0.0, jitter: float = 0.0, swapped: float = 0.0) -> RegionScenes:
        """What a grounding model with these faults would have found.

        ``missed``: share of objects that are not found. ``jitter``: standard deviation of a box's sides, in its own sizes; its
        label is then the box. ``swapped``: share of clips in which two objects have each other's phrases.
        """
        rng = np.random.default_rng(seed)
        return replace(self, scenes=tuple(_noisy(one, rng, missed, jitter, swapped) for one in self.scenes))


def named(text: str, names: dict[int, str]) -> str:
    """The text with "the red ball" in the place of ``<obj_1>``."""
    return _MARK.sub(lambda found: f"the {names[int(found[1])]}", text)


def write_region_scenes(
    folder: Path, seeds: Sequence[int], *, height: int = 96, width: int = 128, frames: int = 4
) -> RegionScenes:
    """Write ``videos/`` and ``questions.json``, in which objects have names where the scene's own questions have marks."""
    (folder / "videos").mkdir(parents=True)
    clips, records = [], []
    for seed in seeds:
        scene = random_scene(seed)
        truth = render_scene(scene, frame_times(frames, 2), height=height, width=width, ray_grid=(2, 2))
        marks = mark_objects(truth, seed)
        video = f"videos/scene-{seed}.mp4"
        encode_video(folder / video, truth.rgb, fps=2)
        labels = np.stack([label_map(frame, marks) for frame in truth.instance])
        names = {mark.number: scene.objects[mark.instance].name for mark in marks}
        clips.append(SceneClip(f"scene-{seed}", video, labels, _objects(labels, marks, names)))
        for number, one in enumerate(scene_questions(scene, truth, marks)):
            records.append(
                {
                    "id": f"scene-{seed}-{number:02d}",
                    "benchmark": "scenes",
                    "task": one.task,
                    "video": video,
                    "question": named(one.text, names),
                    "options": [named(option, names) for option in one.options],
                    "answer": named(one.options[one.right], names),
                    "marked": [one.text, *one.options],
                }
            )
    (folder / "questions.json").write_text(json.dumps(records))
    return RegionScenes(tuple(clips))


def _objects(labels: Any, marks: Sequence[Mark], names: dict[int, str]) -> tuple[RegionObject, ...]:
    boxes = boxes_of(labels[0])
    return tuple(
        RegionObject(
            number=mark.number,
            phrase=names[mark.number],
            box=boxes[mark.number],
            score=0.9,
            frames=tuple(np.flatnonzero((labels == mark.number).any(axis=(1, 2))).tolist()),
        )
        for mark in sorted(marks, key=lambda mark: mark.number)
        if mark.number in boxes
    )


def _noisy(clip: SceneClip, rng: np.random.Generator, missed: float, jitter: float, swapped: float) -> SceneClip:
    labels, objects = clip.labels.copy(), list(clip.objects)
    height, width = labels.shape[1:]
    if len(objects) > 1 and rng.random() < swapped:
        first, second = rng.permutation(len(objects))[:2]
        phrases = objects[first].phrase, objects[second].phrase
        objects[first] = objects[first].model_copy(update={"phrase": phrases[1]})
        objects[second] = objects[second].model_copy(update={"phrase": phrases[0]})
    for index, one in enumerate(objects):
        if rng.random() < missed:
            labels[labels == one.number] = 0
            gone = {"box": None, "score": 0.0, "frames": (), "reason": "no_box"}
            objects[index] = one.model_copy(update=gone)
        elif jitter:
            for frame in labels:
                if (box := boxes_of(frame).get(one.number)) is None:
                    continue
                sizes = np.array([box.right - box.left, box.bottom - box.top] * 2)
                sides = np.array([box.left, box.top, box.right, box.bottom]) + jitter * sizes * rng.standard_normal(4)
                left, top, right, bottom = np.clip(sides, 0, 1) * [width, height, width, height]
                frame[frame == one.number] = 0
                frame[int(top) : max(int(bottom), int(top) + 1), int(left) : max(int(right), int(left) + 1)] = one.number
    first_boxes = boxes_of(labels[0])
    seen = [
        one.model_copy(
            update={
                "box": first_boxes.get(one.number),
                "frames": tuple(np.flatnonzero((labels == one.number).any(axis=(1, 2))).tolist()),
            }
        )
        if one.reason is None
        else one
        for one in objects
    ]
    return replace(clip, labels=labels, objects=tuple(seen))
