"""An `AblationConfig` goes in; a report of what distillation, its parts and frame times add to a small student comes out.

The scenes are rendered, so nothing is downloaded. After 4D-RGPT's ablations (arXiv 2512.17012, section 5): SFT alone, with LD,
with LD and ED; each with and without timestamps.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml

from schemas.ablation import AblationConfig, AblationReport, Arm, ArmRun, ArmSummary, Spread
from schemas.errors import BadInput, CouldNotRun
from schemas.evaluation import EvalReport
from schemas.job import EncodingProfile
from schemas.train import DataConfig, DecoderConfig, FitReport, LossConfig, Mode, ModelConfig, TrainConfig
from teacher_cache import open_cache
from teacher_cache.io.console import escape_standard_error, progress_bar, stderr
from teacher_cache.io.output_folder import claim_folder
from teacher_cache.io.parent import end_with_parent

ALL = "all"
"""Key of the accuracy over all kinds of questions."""
_TRAIN_SEED, _HELD_OUT_SEED = 20_000, 10_000
"""Seeds of the first scene of each set; the packaged teacher was trained on neither set."""
_SIZE, _FRAMES = 112, 16
_TURNS = 100
"""Questions per conversation; more than a scene has."""
_QUESTIONS = "questions.json"
_TPE = "+TPE"
_MODES: dict[str, Mode] = {"SFT": "sft", "LD": "latent", "LD+ED": "heads"}


def arms(config: AblationConfig) -> list[Arm]:
    """Every arm with the store of the first encoding, and the last arm also with each other store."""
    wanted = [(name, config.encodings[0]) for name in config.arms]
    wanted += [(config.arms[-1], encoding) for encoding in config.encodings[1:]]
    return [
        Arm(name=name, mode=_MODES[name.removesuffix(_TPE)], has_times=name.endswith(_TPE), encoding=encoding)
        for name, encoding in wanted
    ]


def run_ablation(config: AblationConfig, out: Path) -> AblationReport:
    """Render, teach, train every arm with every seed and evaluate, all under ``out``. Finished parts there are kept.

    Raises `BadInput` if ``out`` holds an ablation with other settings or cannot be written, and `CouldNotRun` if a part
    fails.
    """
    start = time.perf_counter()
    # A later call may add seeds, arms and encodings; the number of processes changes no result.
    claim_folder(out, config.model_dump(mode="json", exclude={"seeds", "arms", "encodings", "processes"}))
    taught = _render(out / "train", config.videos, _TRAIN_SEED, config)
    asked = _render(out / "held-out", config.held_out, _HELD_OUT_SEED, config)
    for encoding in config.encodings:
        _teach(out / "train", _store(out, encoding), encoding, config)
    _teach(out / "held-out", _held_out_store(out), config.encodings[0], config)
    runs = _runs(config, out)
    report = AblationReport(
        out=str(out),
        config=config,
        fingerprints={e: open_cache(_store(out, e)).recipe.fingerprint for e in config.encodings},
        questions=_with_all(Counter(question["task"] for question in asked)),
        baseline=baseline(taught, asked),
        map_guess=_map_baseline(out, runs),
        arms=summaries(runs),
        runs=tuple(runs),
        cores=os.cpu_count() or 1,
        seconds=time.perf_counter() - start,
    )
    from student_train.evaluation.plots import plot_ablation  # noqa: PLC0415  # matplotlib

    plot_ablation(out / "ablation.png", report)
    (out / "ablation.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _render(folder: Path, videos: int, first_seed: int, config: AblationConfig) -> list[dict[str, Any]]:
    """Render scenes with conversations and questions; returns the questions, with R4D-Bench's fields."""
    shape = ("--height", str(_SIZE), "--width", str(_SIZE), "--frames", str(_FRAMES))
    tasks = [option for task in config.tasks for option in ("--task", task)]
    # The video is what costs in a step, so one conversation holds all questions about it.
    asking = (*tasks, "--turns", str(_TURNS))
    _say(f"rendering {videos} scenes: {folder}")
    _command("scenes", str(folder), "--videos", str(videos), "--first-seed", str(first_seed), *shape, *asking)
    questions = json.loads((folder / _QUESTIONS).read_text(encoding="utf-8"))
    if absent := set(config.tasks) - {question["task"] for question in questions}:
        raise BadInput(f"the {videos} scenes in {folder} have no question of the kind {min(absent)!r}; render more scenes")
    return list(questions)


def _teach(data: Path, store: str, encoding: EncodingProfile, config: AblationConfig) -> None:
    """Write a store with the `teacher-cache` command: this package never imports a teacher."""
    job = {
        "videos": {"glob": f"{data}/videos/*.mp4"},
        "store": store,
        # Students run the teacher's heads in the teacher's precision, and that is most of the time of an ED step.
        "teacher": {"family": "l4p", "preset": "tiny", "dtype": "bfloat16" if config.precision == "bf16" else "float32"},
        "clips": {"frames": _FRAMES, "sampling": "uniform"},
        "signals": ["f4d", "depth", "flow", "motion", "camray"],
        "encoding": encoding,
        "layout": {"clips_per_shard": 16},
        "engine": {"kind": "local", "batch": 4, "decoders": 2},
    }
    file = Path(f"{store}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    _say(f"teaching: {store}")
    _command("run", str(file))


def _command(*arguments: str) -> None:
    """Run `teacher-cache`; its progress goes to our standard error."""
    command = [sys.executable, "-m", "teacher_cache.cli", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise CouldNotRun(f"`teacher-cache {' '.join(arguments)}` ended with status {done.returncode}; see above")


def _say(text: str) -> None:
    stderr.print(text, soft_wrap=True)


def _store(out: Path, encoding: EncodingProfile) -> str:
    return str(out / "stores" / encoding)


def _run_folder(out: Path, arm: Arm, seed: int) -> Path:
    return out / "runs" / f"{arm.name}-{arm.encoding}-{seed}"


def _report_file(run: Path) -> Path:
    return run / "eval" / "report.json"


def _evaluated(run: Path) -> EvalReport:
    return EvalReport.model_validate_json(_report_file(run).read_text(encoding="utf-8"))


def _held_out_store(out: Path) -> str:
    return str(out / "stores" / "held-out")


def _runs(config: AblationConfig, out: Path) -> list[ArmRun]:
    """Train and evaluate every arm with every seed, several at a time; returned in the arms' order."""
    wanted = [(arm, seed) for arm in arms(config) for seed in range(config.seeds)]
    (out / "runs").mkdir(exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // config.processes)
    found: dict[tuple[Arm, int], ArmRun] = {}
    with (
        ProcessPoolExecutor(
            config.processes,
            multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(out / "runs", threads),
        ) as pool,
        progress_bar("training", len(wanted), "runs") as advance,
    ):
        # Every arm with one seed first, so that a stopped call leaves complete results for fewer seeds.
        order = sorted(wanted, key=lambda run: run[1])
        futures = {pool.submit(run_arm, config, out, *run): run for run in order}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[run] for run in wanted]


def _begin_worker(folder: Path, threads: int) -> None:
    import torch  # noqa: PLC0415  # loaded in the worker only

    command = multiprocessing.parent_process()
    assert command is not None
    # A worker that outlived its command would keep training in the same folder as the next command's.
    threading.Thread(target=end_with_parent, args=(command.pid,), daemon=True).start()
    torch.set_num_threads(threads)
    sys.stderr = (folder / f"log-{os.getpid()}.txt").open("w", encoding="utf-8", buffering=1)
    escape_standard_error()


def run_arm(config: AblationConfig, out: Path, arm: Arm, seed: int) -> ArmRun:
    """Train and evaluate one student, reusing what an earlier call has finished."""
    from student_train.evaluation.evaluate import Wanted, evaluate  # noqa: PLC0415  # transformers
    from student_train.training.fit import fit  # noqa: PLC0415

    folder = _run_folder(out, arm, seed)
    fitted = fit(train_config(config, out, arm, seed, folder), resume=True)
    if _report_file(folder).exists():
        evaluated = _evaluated(folder)
    else:
        wanted = Wanted(
            store=_held_out_store(out),
            questions=out / "held-out" / _QUESTIONS,
            video_root=str(out / "held-out"),
            tell_length=False,
            batch=16,
            pictures=0,
        )
        evaluated = evaluate(folder, wanted)
    return _arm_run(arm, seed, fitted, evaluated)


def train_config(config: AblationConfig, out: Path, arm: Arm, seed: int, folder: Path) -> TrainConfig:
    """The training settings of one run of an arm."""
    root = str(out / "train")
    return TrainConfig(
        store=_store(out, arm.encoding),
        output=str(folder),
        mode=arm.mode,
        data=DataConfig(conversations=(f"{root}/conversations.json",), video_root=(root,), image_root=(root,), workers=0),
        model=ModelConfig(freeze=(), timestamps="before_projector" if arm.has_times else "none"),
        decoder=DecoderConfig(hidden=256),
        loss=LossConfig(alpha=config.alpha, beta=config.beta),
        optim=config.optim,
        precision=config.precision,
        steps=config.steps,
        batch=config.batch,
        seed=seed,
        log_every=10,
    )


def _arm_run(arm: Arm, seed: int, fitted: FitReport, evaluated: EvalReport) -> ArmRun:
    answers, maps = evaluated.answers, evaluated.maps
    if answers is None or answers.micro is None or answers.unevaluated:
        raise CouldNotRun(f"some questions of {fitted.output} could not be asked; see its eval/report.json")
    return ArmRun(
        arm=arm,
        seed=seed,
        accuracy={ALL: answers.micro.official} | {task: found.official for task, found in answers.tasks.items()},
        maps={} if maps is None else {name: m.mean for name, m in maps.metrics.items() if m.mean is not None},
        sft_loss=fitted.last.losses["sft"],
        seconds=fitted.seconds,
    )


def summaries(runs: Iterable[ArmRun]) -> tuple[ArmSummary, ...]:
    """Each arm's figures over its seeds, in order of the arms' first appearance."""
    by_arm: defaultdict[Arm, list[ArmRun]] = defaultdict(list)
    for run in runs:
        by_arm[run.arm].append(run)
    return tuple(
        ArmSummary(
            arm=arm,
            accuracy=_spreads([run.accuracy for run in of_arm]),
            maps=_spreads([run.maps for run in of_arm]),
            seconds=spread([run.seconds for run in of_arm]),
        )
        for arm, of_arm in by_arm.items()
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation (n - 1)."""
    return Spread(mean=statistics.fmean(values), deviation=statistics.stdev(values) if len(values) > 1 else None)


def _spreads(figures: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {name: spread([figure[name] for figure in figures if name in figure]) for name in figures[0]}


def baseline(taught: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Task → accuracy of a guess without the video: the most frequent letter among the taught questions of the same kind.

    A kind is a task with its options: what a model can tell apart from the text alone.
    """
    letters: defaultdict[tuple[Any, ...], Counter[int]] = defaultdict(Counter)
    for question in taught:
        letters[_kind(question)][_letter(question)] += 1
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for question in asked:
        known = letters[_kind(question)].most_common(1)
        is_right = bool(known) and known[0][0] == _letter(question)
        right[question["task"]].append(is_right)
        right[ALL].append(is_right)
    return {task: statistics.fmean(found) for task, found in right.items()}


def _kind(question: Mapping[str, Any]) -> tuple[Any, ...]:
    options = question["options"]
    return (question["task"], len(options)) if any("<obj_" in option for option in options) else (question["task"], *options)


def _letter(question: Mapping[str, Any]) -> int:
    return int(question["options"].index(question["answer"]))


def _with_all(counts: Mapping[str, int]) -> dict[str, int]:
    return {ALL: sum(counts.values()), **counts}


def _map_baseline(out: Path, runs: Sequence[ArmRun]) -> dict[str, float]:
    """The constant baselines' scores, which are the same for every run with maps."""
    run = next((run for run in runs if run.maps), None)
    if run is None:
        return {}
    maps = _evaluated(_run_folder(out, run.arm, run.seed)).maps
    return {} if maps is None else {name: m.baseline for name, m in maps.metrics.items() if m.baseline is not None}
