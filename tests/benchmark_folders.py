"""Folders of published benchmarks in their layouts, with made questions about the test videos."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(file, "PNG")
    return file.getvalue()


def _copied(videos: Path, folder: Path, **names: str) -> None:
    for source, name in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(videos / f"{source.replace('_', '-')}.mp4", folder / name)


def r4d(folder: Path, videos: Path) -> Path:
    """R4D-Bench: four questions that can be asked, one without its video, one that is none."""
    _copied(videos, folder, scene_0="videos/stibench/1.mp4", scene_1="videos/vlm4d/2.mp4")
    (folder / "images" / "stibench").mkdir(parents=True)
    (folder / "images" / "stibench" / "1.png").write_bytes(png((200, 30, 30)))
    sti = {"benchmark": "stibench", "video": "videos/stibench/1.mp4", "source": "videos/stibench/1.mp4"}
    vlm = {"benchmark": "vlm4d", "source": "videos/vlm4d/2.mp4", "options": ["left", "right", None, 3], "question": "Where to?"}
    items: list[dict[str, Any]] = [
        sti | {"id": 1, "task": "Dimensional Measurement", "question": "How wide is <obj_1>?", "options": [1, 2, "3", 4, 5],
               "answer": 3, "som_image": "images/stibench/1.png"},
        vlm | {"id": "part", "task": "Translational", "video": "clipped/vlm4d/2.mp4", "time_start": 0.3, "time_end": 0.7,
               "answer": "left"},
        vlm | {"id": "instant", "task": "Counting", "video": "clipped/vlm4d/2b.mp4", "time_start": 0.5, "time_end": 0.5,
               "answer": 3},
        sti | {"id": 4, "task": "Spatial Relation", "question": "Where?", "options": ["up", "down"], "answer": "sideways"},
        vlm | {"id": "gone", "task": "Counting", "video": "videos/vlm4d/gone.mp4", "source": None, "answer": 3},
        vlm | {"id": "none", "task": "Counting", "video": "videos/vlm4d/2.mp4", "options": "left", "answer": 3},
    ]  # fmt: skip
    (folder / "test.json").write_text(json.dumps(items), encoding="utf-8")
    return folder


def stibench(folder: Path, videos: Path) -> Path:
    """STI-Bench: three questions about two videos, and one about a file that is no video."""
    _copied(videos, folder, scene_0="video/a/1.mp4", scene_2="video/2.mp4")
    (folder / "video" / "3.mp4").write_bytes(b"no video")
    common = {"time_start": 0.1, "time_end": 0.5, "Source": "ScanNet", "Scene": "Indoor"}
    values = json.dumps(dict(zip("ABCDE", ("1.2 m", "1.9 m", "2.5 m", "3.3 m", "4 m"), strict=True)))
    rows = [
        common | {"ID": n, "Video": video, "Task": task, "Question": question, "Candidates": values, "Answer": letter}
        for n, (video, task, question, letter) in enumerate(
            [
                ("a/1.mp4", "Dimensional Measurement", "How wide is it?", "C"),
                ("a/1.mp4", "Displacement & Path Length", "How far does it go?", "A"),
                ("2.mp4", "Displacement & Path Length", "How far does the camera go?", "B"),
                ("3.mp4", "Displacement & Path Length", "How far?", "B"),
            ]
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "qa.parquet")
    return folder


def vlm4d(folder: Path, videos: Path) -> Path:
    """VLM4D: an exocentric and an egocentric question, their videos as addresses on the hub."""
    _copied(videos, folder, scene_1="videos_real/davis/x.mp4", scene_3="videos_real/ego4d/y.mp4")
    hub = "https://huggingface.co/datasets/shijiezhou/VLM4D/resolve/main/"
    choices = {"A": "left ", "B": "right", "C": "up ", "D": "not moving"}
    common = {"question_type": "multiple-choice", "choices": choices}
    items = [
        common | {"id": "validation_12", "video": f"{hub}videos_real/davis/x.mp4", "question": "Which way?", "answer": "left"},
        common | {"id": "validation_930", "video": f"{hub}videos_real/ego4d/y.mp4", "question": "And now?", "answer": "up"},
    ]
    (folder / "data").mkdir()
    (folder / "data" / "real_mc.json").write_text(json.dumps(items), encoding="utf-8")
    return folder


def vstibench(folder: Path, videos: Path) -> Path:
    """VSTI-Bench: two questions with options of one kind, and one with a number, so that its macro mean is no micro mean."""
    _copied(videos, folder, scene_1="scannet/videos/s1.mp4", scene_2="scannet/videos/s2.mp4")
    common = {"dataset": "scannet", "frame_indices": [0, 8]}
    chosen = {"question_type": "obj_obj_relative_pos_ud", "options": ["A. Up", "B. Down"]}
    items = [
        common | chosen | {"id": 1, "scene_name": "s1", "video_path": "scannet/videos/s1.mp4", "question": "Where is it?",
                           "ground_truth": "Down", "mc_answer": "B"},
        common | chosen | {"id": 2, "scene_name": "s2", "video_path": "scannet/videos/s2.mp4", "question": "And the desk?",
                           "ground_truth": "Up", "mc_answer": "A"},
        common | {"id": 3, "scene_name": "s2", "video_path": "scannet/videos/s2.mp4", "question": "How far does it move?",
                  "question_type": "camera_displacement", "options": None, "ground_truth": "2.0", "mc_answer": None},
    ]  # fmt: skip
    (folder / "test.json").write_text(json.dumps(items), encoding="utf-8")
    return folder


FOLDERS = {"r4d": r4d, "stibench": stibench, "vlm4d": vlm4d, "vstibench": vstibench}
