"""Published training sets in miniature, in the layouts and with the names of fields that their cards give."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def written(path: Path, value: Any) -> Path:
    """A JSON file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def picture(shade: int) -> bytes:
    """A small PNG."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 100, 200)).save(file, "PNG")
    return file.getvalue()


def vsti(root: Path, video: str = "scannet/videos/scene0000_00.mp4") -> list[Path]:
    """VLM-3R-DATA's files of VSTI-Bench's training questions, and its erratum: LLaVA's shape."""
    prompt = "<image>\nThese are frames of a video.\n"
    asked = (
        "In which direction did the camera move?\nOptions:\nA. Left\nB. Right\nAnswer with the option's letter from the given"
    )
    direction = {"question_type": "camera_movement_direction", "options": ["A. Left", "B. Right"], "mc_answer": "B"}
    distance = {"question_type": "camera_displacement", "ground_truth": 1.6}
    about = {"data_source": "scannet", "scene_name": "scene0000_00", "video": video}

    def told(question: str, answer: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": prompt + question}, {"from": "gpt", "value": answer}]

    first = [{"id": "u-1", **about, **direction, "conversations": told(f"{asked} choices directly.", "B")}]
    second = [
        {"id": "u-2", **about, **distance, "conversations": told("How far did the camera move?\nA single word.", "1.6")},
        {"id": "u-3", **about, **distance, "conversations": told("How far did the camera go?\nA single word.", "0.3")},
    ]
    folder = root / "vstibench_train"
    return [
        written(folder / "qa_camera_movement_direction.json", first),
        written(folder / "qa_camera_displacement.json", second),
        written(folder / "erratum_dropped_items.json", {"camera_displacement": ["u-3"]}),
    ]


def robofac(root: Path, video: str = "PickCube/grasp/0f3a.mp4") -> Path:
    """RoboFAC's training file."""
    told = [{"from": "human", "value": "<video>\nWhat failed?"}, {"from": "gpt", "value": "The gripper slipped."}]
    steps = [{"from": "user", "value": "<image>\nIs there a failure?"}, {"from": "assistant", "value": "Yes"}]
    return written(
        root / "training_qa.json",
        [
            {"id": "r-1", "video": video, "task": "PickCube", "conversations": told},
            {"id": "r-2", "video": video, "task": "PickCube", "conversations": steps},
        ],
    )


def robofac_test(root: Path, video: str = "PickCube/grasp/0f3a.mp4") -> Path:
    """RoboFAC's test file: an object of videos by their ids."""
    pair = [{"value": "What failed?"}, {"value": "The gripper slipped."}]
    annos = {"Failure explanation": pair, "Failure detection": [{"value": "Is there a failure?"}, {"value": "Yes"}]}
    record = {"video": video, "task": "PickCube", "annos": annos}
    return written(root / "test_qa_sim" / "annos_per_video_split0.json", {"0f3a": record})


def sat(root: Path) -> Path:
    """SAT's training file: several questions about the same images, which lie in the file."""
    one, two = picture(10), picture(90)
    rows = [
        {"image_bytes": [one, two], "question": "Did the camera turn left?", "answers": ["left", "right"],
         "question_type": "ego_movement", "correct_answer": "right"},
        {"image_bytes": [one], "question": "What is nearer?", "answers": ["the lamp", "the bed"],
         "question_type": "object_relation", "correct_answer": "the lamp"},
    ]  # fmt: skip
    path = root / "SAT_train.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def wolf(root: Path, video: str = "final_version/scene-0061.mp4") -> Path:
    """Captions of Wolf's NuScenes part, of which one has its question; the set of questions is not published."""
    caption = {"video": video, "caption": "The car turns left at the crossing."}
    return written(root / "wolf.json", [caption, {**caption, "question": "Which way does the car turn?", "answer": "Left"}])
