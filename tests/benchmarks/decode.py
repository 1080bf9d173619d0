"""Measures decoding, in clips a second of one core: a video opened once for all its windows against once for each.

    python tests/benchmarks/decode.py           # two cores, three minutes
    python tests/benchmarks/decode.py --box     # what a decoder's box costs; two cores, two minutes
    python tests/benchmarks/decode.py --libraries  # ours, PyAV alone and torchcodec; one core, five minutes

CPU time is that of all threads of the process that decodes, with opening, fetching and preprocessing to 224. The ways take
turns, and medians are told. Beside ours stands decord alone, used as it is in most loaders: opened anew for every clip.
With `--libraries` each takes the same frames of the same videos to RGB, in this process, with one thread, in turns; and it is
told of how many of the tests' sound videos each gives every frame right, asked for alone. torchcodec is left out if it is not
installed.
With `--box` the same decoder decodes in its box and without limits, Landlock and seccomp, and pairs of turns are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import decoding
import decord
import numpy as np
import psutil
import s3_server
import strange_videos
from machine import processor
from rich.console import Console
from rich.table import Table

from schemas.clip import VideoInfo, Window
from schemas.recipe import ClipRecipe
from teacher_cache.clips import decoder as decoder_module
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.preprocess import preprocess
from teacher_cache.clips.sampling import frame_indices, spread, windows
from teacher_cache.clips.video import DecodedClip

RESULTS = Path(__file__).parent / "results"
UNIFORM = ClipRecipe(frames=16, sampling="uniform", preprocessing="l4p", size=224, student_size=None)
DENSE = UNIFORM.model_copy(update={"sampling": "dense"})
TIMEOUT_SECONDS = 300
Windows = Sequence[Window | None]


def render(path: Path, height: int, width: int, frames: int, group: int = 250) -> Path:
    """An H.264 video, 30 frames a second: a texture that moves, and noise over its middle."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"crf": "26", "preset": "veryfast", "g": str(group)})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(frames):
            picture = texture[2 * i % 200 : 2 * i % 200 + height, 3 * i % 200 : 3 * i % 200 + width].copy()
            middle = picture[height // 4 : height // 2, width // 4 : width // 2]
            middle[:] = 96 + rng.integers(0, 64, (*middle.shape[:2], 1), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@dataclass
class Way:
    """A way to decode the windows of a video, and what was measured of it."""

    name: str
    run: Callable[[], float]
    """Gives the CPU seconds it took."""
    clips: int
    cpu_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        start = time.perf_counter()
        self.cpu_seconds.append(self.run() / self.clips)
        self.seconds.append((time.perf_counter() - start) / self.clips)

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "clips": self.clips,
            "clips_per_core_second": 1 / statistics.median(self.cpu_seconds),
            "cpu_seconds_per_clip": statistics.median(self.cpu_seconds),
            "cpu_seconds_per_clip_all": self.cpu_seconds,
            "seconds_per_clip": statistics.median(self.seconds),
        }


def by_decord(video: Path, recipe: ClipRecipe, wanted: Windows) -> float:
    begun = time.process_time()
    for window in wanted:
        reader = decord.VideoReader(str(video), num_threads=1)
        indices = frame_indices(recipe, np.arange(footage_of(video).frames), window)
        pictures = {index: reader[index].asnumpy() for index in sorted(set(indices))}
        preprocess(np.stack([pictures[index] for index in indices]), recipe)
    return time.process_time() - begun


@functools.cache
def footage_of(video: Path) -> VideoInfo:
    with Decoder(None, TIMEOUT_SECONDS) as decoder:
        return decoder.probe(str(video))


def by_decoder(decoder: Decoder, uri: str, groups: Sequence[Windows]) -> float:
    """Each group of windows is one request: the video is fetched and opened once for it."""
    assert decoder.process is not None
    begun = _cpu(decoder)
    for group in groups:
        answers = list(decoder.clips(uri, group))
        assert all(isinstance(answer, DecodedClip) for answer in answers)
    return _cpu(decoder) - begun


def _cpu(decoder: Decoder) -> float:
    assert decoder.process is not None
    times = psutil.Process(decoder.process.pid).cpu_times()
    return float(times.user + times.system)


def ways(video: Path, on_s3: str, uniform: Decoder, dense: Decoder) -> list[Way]:
    track = windows(DENSE, footage_of(video).frames)
    apart = [[window] for window in track]
    count = len(track)
    return [
        Way("uniform: decord alone", lambda: by_decord(video, UNIFORM, [None]), 1),
        Way("uniform: ours", lambda: by_decoder(uniform, str(video), [[None]]), 1),
        Way("dense: decord alone, opened for each window", lambda: by_decord(video, DENSE, track), count),
        Way("dense: ours, opened for each window", lambda: by_decoder(dense, str(video), apart), count),
        Way("dense: ours, opened once", lambda: by_decoder(dense, str(video), [track]), count),
        Way("dense, on S3: ours, fetched for each window", lambda: by_decoder(dense, on_s3, apart), count),
        Way("dense, on S3: ours, fetched once", lambda: by_decoder(dense, on_s3, [track]), count),
    ]


def memory(video: Path) -> dict[str, Any]:
    """The most that a decoder process ever held, after a quarter of a video's windows and after all of them."""
    with Decoder(DENSE, TIMEOUT_SECONDS) as decoder:
        track = windows(DENSE, decoder.probe(str(video)).frames)
        opened = _peak_bytes(decoder)
        peaks = []
        for part in (track[: len(track) // 4], track):
            assert all(isinstance(answer, DecodedClip) for answer in decoder.clips(str(video), part))
            peaks.append(_peak_bytes(decoder))
    return {"windows": len(track), "opened": opened, "after_a_quarter": peaks[0], "after_all": peaks[1]}


def cost_of_the_box(folder: Path, turns: int) -> dict[str, Any]:
    """CPU seconds of a clip, and wall seconds until a new process has answered, in the box and without it."""
    videos = {
        "720p, 150 frames": render(folder / "720p.mp4", 720, 1280, 150),
        "180p, 30 frames": render(folder / "180p.mp4", 180, 320, 30),
    }
    with contextlib.ExitStack() as stack:
        inside, without = Decoder(UNIFORM, TIMEOUT_SECONDS), Decoder(UNIFORM, TIMEOUT_SECONDS)
        starts: dict[str, list[float]] = {"inside": [], "without": []}
        for _ in range(min(turns, 10)):
            starts["inside"].append(_start(inside, decoder_module._PROGRAM, videos["180p, 30 frames"]))
            starts["without"].append(_start(without, "decoder_without_box", videos["180p, 30 frames"]))
        for decoder in (inside, without):
            stack.callback(decoder.close)
        return {
            "decoder": _clip(inside, videos["180p, 30 frames"]).decoder,
            "start_seconds": {name: statistics.median(seconds) for name, seconds in starts.items()},
            "clips": {name: _compared(inside, without, video, turns) for name, video in videos.items()},
        }


def _start(decoder: Decoder, program: str, video: Path) -> float:
    decoder.kill()
    decoder_module._PROGRAM = program
    start = time.perf_counter()
    decoder.probe(str(video))
    return time.perf_counter() - start


def _clip(decoder: Decoder, video: Path) -> DecodedClip:
    (clip,) = decoder.clips(str(video), [None])
    assert isinstance(clip, DecodedClip)
    return clip


def _compared(inside: Decoder, without: Decoder, video: Path, turns: int) -> dict[str, Any]:
    """Clips take turns, so that whatever else the machine does meets both alike."""
    pairs = []
    for turn in range(turns):
        order = (inside, without) if turn % 2 else (without, inside)
        spent = {id(decoder): _clip(decoder, video).cpu_seconds for decoder in order}
        pairs.append((spent[id(inside)], spent[id(without)]))
    cpu_inside, cpu_without = zip(*pairs, strict=True)
    quartiles = statistics.quantiles([one / other - 1 for one, other in pairs])
    return {
        "clips": turns,
        "cpu_seconds_inside": statistics.median(cpu_inside),
        "cpu_seconds_without": statistics.median(cpu_without),
        "least_cpu_seconds": [min(cpu_inside), min(cpu_without)],
        "added_cpu_share": {"median": quartiles[1], "quartiles": [quartiles[0], quartiles[2]]},
    }


Frames = Iterator[np.ndarray[Any, Any]]
Library = Callable[[Path, Sequence[int]], Frames]


def by_ours(video: Path, indices: Sequence[int]) -> Frames:
    with decoding.opened(video) as opened:
        for frame in opened.frames(indices):
            yield frame.picture


def by_pyav(video: Path, indices: Sequence[int]) -> Frames:
    """As most loaders have it: decoded from the start, and counted."""
    wanted = set(indices)
    with av.open(str(video)) as container:
        container.streams.video[0].thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                yield frame.to_ndarray(format="rgb24")
            if number == indices[-1]:
                return


def by_torchcodec(video: Path, indices: Sequence[int]) -> Frames:
    from torchcodec.decoders import VideoDecoder  # not everywhere

    decoder = VideoDecoder(str(video), dimension_order="NHWC", num_ffmpeg_threads=1)
    for frame in decoder.get_frames_at(list(indices)).data:
        yield frame.numpy()


def libraries_compared(folder: Path, turns: int) -> dict[str, Any]:
    """Frames a second of a core, and of which videos every frame is right, by library."""
    libraries: dict[str, Library] = {"ours": by_ours, "PyAV alone": by_pyav}
    if importlib.util.find_spec("torchcodec") is not None:
        libraries[f"torchcodec {importlib.metadata.version('torchcodec')}"] = by_torchcodec
    speeds: dict[str, dict[str, float]] = {}
    for name, height, width, frames in (("720p", 720, 1280, 300), ("2160p", 2160, 3840, 48)):
        video = render(folder / f"{name}.mp4", height, width, frames, group=24)
        middle = frames // 2 + 5
        for sampling, indices in {
            "uniform": spread(16, frames),
            "fps": range(0, frames, 15),
            "dense": range(frames),
            "segment": range(middle, middle + 16),
        }.items():
            taken: dict[str, list[float]] = {library: [] for library in libraries}
            for _ in range(turns):
                for library, frames_by in libraries.items():
                    begun = time.process_time()
                    assert sum(1 for _ in frames_by(video, list(indices))) == len(indices)
                    taken[library].append(time.process_time() - begun)
            speeds[f"{name}, {sampling}"] = {
                library: len(indices) / statistics.median(seconds) for library, seconds in taken.items()
            }
    return {"frames_a_core_second": speeds, "right": _right(folder, libraries)}


def _right(folder: Path, libraries: dict[str, Library]) -> dict[str, dict[str, Any]]:
    tests = _module(Path(__file__).parents[1] / "teacher_cache/clips/test_strange_videos.py")
    wrong: dict[str, list[str]] = {library: [] for library in libraries}
    for name, kind in tests.SOUND.items():
        asked = {key: value for key, value in kind.items() if key not in {"frames", "begins"}}
        truth = kind.get("frames", tests.PICTURES)
        video = strange_videos.write(folder / name, truth, **asked)
        for library, frames_by in libraries.items():
            if not all(_is_right(tests, frames_by, video, truth, index) for index in range(len(truth))):
                wrong[library].append(name)
    count = len(tests.SOUND)
    return {library: {"videos": count, "right": count - len(names), "wrong": names} for library, names in wrong.items()}


def _is_right(tests: Any, frames_by: Library, video: Path, truth: Any, index: int) -> bool:
    try:
        (picture,) = frames_by(video, [index])
        return bool(tests.which(picture, truth) == index)
    except Exception:  # noqa: BLE001  # whatever a library raises
        return False


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _peak_bytes(decoder: Decoder) -> int:
    assert decoder.process is not None
    lines = Path(f"/proc/{decoder.process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@contextlib.contextmanager
def server(folder: Path, weed: str) -> Iterator[s3_server.S3Server]:
    running = s3_server.start(folder, weed)
    os.environ.update(running.environment)
    running.filesystem.mkdir("bucket")
    try:
        yield running
    finally:
        s3_server.stop(running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, help="3; with --box 40")
    parser.add_argument("--weed", default="weed", help="the SeaweedFS program")
    parser.add_argument("--box", action="store_true", help="measure what the box costs, and nothing else")
    parser.add_argument("--libraries", action="store_true", help="compare decoder libraries, and nothing else")
    parser.add_argument("--out", type=Path, help="the result's file; one in tests/benchmarks/results")
    options = parser.parse_args()
    options.turns = options.turns or (40 if options.box else 3)
    out = options.out or RESULTS / ("decode-box.json" if options.box else "decode.json")
    if options.libraries:
        with tempfile.TemporaryDirectory() as name:
            compared = libraries_compared(Path(name), options.turns)
        out = options.out or RESULTS / "decode-libraries.json"
        out.write_text(json.dumps({"benchmark": "decode-libraries", "machine": processor(), **compared}, indent=1) + "\n")
        Console().print(compared)
        return
    if options.box:
        with tempfile.TemporaryDirectory() as name:
            measured_box = cost_of_the_box(Path(name), options.turns)
        result = {"benchmark": "decode-box", "machine": processor(), "turns": options.turns, **measured_box}
        out.write_text(json.dumps(result, indent=1) + "\n")
        Console().print(result)
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        s3 = stack.enter_context(server(folder / "s3", options.weed))
        video = render(folder / "720p.mp4", 720, 1280, 150)
        s3.filesystem.put_file(str(video), "bucket/720p.mp4")
        uniform, dense = (stack.enter_context(Decoder(recipe, TIMEOUT_SECONDS)) for recipe in (UNIFORM, DENSE))
        measured = ways(video, "s3://bucket/720p.mp4", uniform, dense)
        for decoder in (uniform, dense):
            decoder.probe("s3://bucket/720p.mp4")  # starts the process and its connection
        for _ in range(options.turns):
            for way in measured:
                way.measure()
        result = {
            "benchmark": "decode",
            "machine": processor(),
            "server": "SeaweedFS on the same machine",
            "video": {"height": 720, "width": 1280, "frames": 150, "codec": "H.264", "bytes": video.stat().st_size},
            "turns": options.turns,
            "ways": [way.figures for way in measured],
            "peak_bytes": {
                "2160p, 48 frames": memory(render(folder / "2160p.mp4", 2160, 3840, 48)),
                "360p, 1500 frames": memory(render(folder / "360p.mp4", 360, 640, 1500)),
            },
        }
    out.write_text(json.dumps(result, indent=1) + "\n")
    _show(result)


def _show(result: dict[str, Any]) -> None:
    table = Table("way", "clips/s per core", "CPU s/clip", "s/clip")
    for way in result["ways"]:
        figures = (way["clips_per_core_second"], way["cpu_seconds_per_clip"], way["seconds_per_clip"])
        table.add_row(way["name"], *(f"{figure:.3g}" for figure in figures))
    console = Console()
    console.print(table)
    for name, peak in result["peak_bytes"].items():
        console.print(f"{name}: " + ", ".join(f"{k} {v / 1e6:.0f} MB" for k, v in peak.items() if k != "windows"))


if __name__ == "__main__":
    main()
