"""Training data of the paper's size: how long reading, checking and drawing epochs of it takes, and in how much memory.

    python tests/benchmarks/data_check.py [--videos 16200] [--images 190000] [--out tests/benchmarks/results/data-check.json]

The paper trains on 210k questions about 16.2k videos and 170k about 190k images. Files of that many questions are written, and
files of one byte in the places of videos and images, on the local disk. Each step runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import processor

_PER_VIDEO = 13
_STEPS = {
    "list the videos for a teacher": """
from schemas.job import VideoSource
from teacher_cache.clips.sources import list_videos
# ready
assert list_videos(VideoSource(mixture="mixture.yaml")).num_rows == VIDEOS
""",
    "read the conversations": """
from schemas.train import DataConfig
from student_train.data.conversations import read_conversations
from student_train.data.mixture import sets_of
# ready
held = [read_conversations(one.conversations) for one in sets_of(DataConfig(mixture="mixture.yaml")).values()]
""",
    "student-train data check --no-store": """
from schemas.train import TrainConfig
from student_train.data.checking import check
# ready
found = check(TrainConfig(store="none", output="run", data={"mixture": "mixture.yaml"}), None)
assert found.is_sound and not found.doubts.keys() - {"mixed_answers"}, found
""",
    "draw an epoch": """
from student_train.data.mixture import Epochs
epochs = Epochs(["videos"] * VIDEOS * 13 + ["images"] * IMAGES, {"videos": 0.5, "images": 1.5}, 0)
# ready
epochs.of(3)
""",
}
_RUN = """
import resource, time, json
VIDEOS, IMAGES = {videos}, {images}
{ready}
began = time.perf_counter()
{step}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"seconds": time.perf_counter() - began, "peak_mib": peak / 1024}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=16_200)
    parser.add_argument("--images", type=int, default=190_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # In another process: a child's peak is at least what its parent has when it begins.
        with multiprocessing.get_context("spawn").Pool(1) as writer:
            writer.apply(write, (Path(folder), options.videos, options.images))
        steps = {name: measured(step, folder, options.videos, options.images) for name, step in _STEPS.items()}
    result = {"videos": options.videos, "images": options.images, "processor": processor(), "steps": steps}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def write(folder: Path, videos: int, images: int) -> None:
    """The mixture, its files of conversations, and what they are about."""

    def told(question: str, answer: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    def put(name: str) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        return name

    question = "<video>\nQuestion {}: which way?\nOptions:\nA. Left\nB. Right\nAnswer with a letter."
    about_videos: list[dict[str, Any]] = []
    for number in range(videos):
        video = put(f"videos/{number // 1000}/{number}.mp4")
        about_videos += (
            {"id": f"{number}-{n}", "video": video,
             "conversations": told(question.format(n), "A")}
            for n in range(_PER_VIDEO)
        )  # fmt: skip
    about_images = [
        {"image": [put(f"images/{number // 1000}/{number}.png")],
         "conversations": told('<image>\nWhich way? Choose between the following options: "left" or "right".', "left")}
        for number in range(images)
    ]  # fmt: skip
    for name, records in (("videos", about_videos), ("images", about_images)):
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    sets = [
        f"  {name}: {{conversations: {folder}/{name}.json, video_root: {folder}, image_root: {folder}}}"
        for name in ("videos", "images")
    ]
    (folder / "mixture.yaml").write_text("\n".join(["sets:", *sets, ""]), encoding="utf-8")


def measured(code: str, folder: str, videos: int, images: int) -> dict[str, float]:
    ready, step = code.split("# ready\n")
    program = _RUN.format(videos=videos, images=images, ready=ready, step=step)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, capture_output=True, text=True)
    return {name: round(value, 2) for name, value in json.loads(done.stdout).items()}


if __name__ == "__main__":
    main()
