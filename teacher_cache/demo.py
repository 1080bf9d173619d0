"""A folder in; videos, a store, a trained student and a report out: the whole pipeline, without network, S3 or GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import BadInput, CouldNotRun
from schemas.job import Job
from schemas.report import DemoReport
from teacher_cache.io.config import load_yaml
from teacher_cache.io.console import stderr, stdout
from teacher_cache.io.progress import Progress
from teacher_cache.jobs.run import run_job
from teacher_cache.monitor.display import run_display
from teacher_cache.scenes import encode_video, frame_times, random_scene, render_scene
from teacher_cache.store.verify import verify

_VIDEOS, _FRAMES, _FPS, _HEIGHT, _WIDTH = 8, 48, 24, 240, 320


def run_demo(out: Path, progress: Progress, steps: int) -> DemoReport:
    """Render videos, teach, verify, train and report, all under ``out``, reusing what an interrupted demo left there.

    Raises `schemas.errors.CacheError`.
    """
    start = time.perf_counter()
    job_file, train_file = _write_configs(out, steps)
    make_videos(out / "videos", progress)
    job = load_yaml(job_file, Job)
    _step("teaching: the small L4P that comes with this package, trained on scenes like these but not on them")
    with run_display() as listen:
        run_report = run_job(job, progress=progress, listen=listen)
    _step("verifying the store")
    verified = verify(job.store, progress)
    if verified.findings:
        raise CouldNotRun(
            f"the store {job.store} has {len(verified.findings)} findings; see `teacher-cache verify {job.store}`"
        )
    _step(f"training the tiny student for {steps} steps, from the store alone")
    result = _train(train_file)
    page = _write_report(job.store, out)
    return DemoReport(
        out=str(out),
        report=str(page),
        clips=run_report.clips,
        fingerprint=run_report.fingerprint,
        first_losses=result["first"]["losses"],
        last_losses=result["last"]["losses"],
        seconds=time.perf_counter() - start,
    )


def _step(text: str) -> None:
    stderr.print(text, style="bold", soft_wrap=True)


def make_videos(folder: Path, progress: Progress) -> None:
    """Render and encode the demo's videos, each a moving 3-D scene. Existing ones are kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror}") from None
    _step(f"making {_VIDEOS} videos of moving scenes")
    with progress("rendering", _VIDEOS, "videos") as advance:
        for seed in range(_VIDEOS):
            path = folder / f"scene-{seed}.mp4"
            if not path.exists():
                truth = render_scene(random_scene(seed), frame_times(_FRAMES, _FPS), height=_HEIGHT, width=_WIDTH)
                encode_video(path, truth.rgb, fps=_FPS)
            advance(1)


def _write_configs(out: Path, steps: int) -> tuple[Path, Path]:
    """Write job.yaml and train.yaml, as a user would."""
    job = {
        "videos": {"glob": f"{out}/videos/*.mp4"},
        "store": f"{out}/store",
        "teacher": {"family": "l4p", "preset": "tiny"},
        "clips": {"frames": 16, "sampling": "uniform"},
        "signals": ["f4d", "depth", "flow", "motion", "camray"],
        "layout": {"clips_per_shard": 4},
        "engine": {"kind": "local", "batch": 4, "decoders": 2},
    }
    train = {
        "store": f"{out}/store",
        "output": f"{out}/student",
        "data": {"video_root": f"{out}/videos", "workers": 0},
        "decoder": {"hidden": 256},
        "model": {"freeze": []},
        "optim": {"learning_rate": 0.002},
        "steps": steps,
        "batch": 2,
        # One clip is held out, to be shown before the first step and after the last.
        "validation": {"share": 0.01, "every": steps, "student": "last", "pictures": 1},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, value in (("job.yaml", job), ("train.yaml", train)):
            (out / name).write_text(yaml.safe_dump(value, sort_keys=False))
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}") from None
    return out / "job.yaml", out / "train.yaml"


def _train(train_file: Path) -> dict[str, Any]:
    """Train the student by its command, as users do: this package never imports it."""
    command = [sys.executable, "-m", "student_train.cli", "fit", str(train_file), "--overwrite", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise CouldNotRun(f"`student-train fit {train_file}` ended with status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _write_report(store: str, out: Path) -> Path:
    from teacher_cache.report.chart import line_chart_svg  # noqa: PLC0415
    from teacher_cache.report.text import escape  # noqa: PLC0415
    from teacher_cache.report.write import write_report  # noqa: PLC0415

    run_folder, page = out / "student", out / "report.html"
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    lines = [record for record in records if "validation" not in record]
    names = [name for name in lines[0] if name in {"sft", "ld"} or name.startswith("ed_")]
    series = {name: [(float(line["step"]), float(line[name])) for line in lines if name in line] for name in names}
    chart = line_chart_svg(series, "The student's losses, training from the store", "step", "loss", log_y=True)
    note = (
        f"<p>The tiny student after {len(lines)} steps of L = SFT + α·LD + β·ED; run folder {escape(run_folder)}.</p>"
        "<p>The teacher is this project's own small L4P, trained on other scenes of this kind; its maps below are what the "
        "student learns from.</p>"
    )
    write_report(store, None, page, [chart + note + _before_and_after(run_folder)], videos=(str(out / "videos"),))
    return page


def _before_and_after(run_folder: Path) -> str:
    """The student's maps of the held-out clip beside the teacher's, at the first and at the last validation."""
    from teacher_cache.report.sprites import data_uri  # noqa: PLC0415

    first, *_, last = sorted((run_folder / "validation").glob("step-*/clip-0.png"))
    titles = (("before the first step", first), ("after the last", last))
    pictures = "".join(
        f'<figure><img src="{data_uri(path.read_bytes(), "png")}" alt="The teacher\'s and the student\'s maps {title}" '
        f'style="max-width: 100%"><figcaption>The student {title}</figcaption></figure>'
        for title, path in titles
    )
    return f"<p>A clip that the student does not learn from, with the teacher's maps and its own:</p>{pictures}"


def print_demo(report: DemoReport) -> None:
    """Print the demo's results, and commands to try next."""
    stdout.print(f"{report.clips.committed} clips committed and verified; losses over the first and the last steps:")
    for name, first in report.first_losses.items():
        stdout.print(f"  {name:<10} {first:9.4f} → {report.last_losses[name]:9.4f}")
    job_file, train_file = f"{report.out}/job.yaml", f"{report.out}/train.yaml"
    stdout.print(f"done in {report.seconds:.0f} s. Open {report.report} in a browser. Then:", soft_wrap=True)
    for command, what in (
        (f"teacher-cache status {report.out}/store", "what the store holds"),
        (f"teacher-cache run {job_file}", "finds all done; add videos to the folder and run it again"),
        (f"teacher-cache plan {job_file}", "what a job would do; edit the job for your own videos, weights and s3:// store"),
        (f"student-train fit {train_file} --overwrite", "train again from the same store: other losses, same targets"),
        (f"student-train eval {report.out}/student", "the student's maps against the teacher's, in tables and pictures"),
        (f"student-train export {report.out}/student --out {report.out}/plain", "the plain student, for transformers alone"),
    ):
        stdout.print(f"  {command}", f"      {what}", sep="\n", soft_wrap=True)
