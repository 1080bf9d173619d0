"""Measures what one training step costs with the teacher online and from a store: two tables, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/train_step.py                                              # a CPU, some minutes
    PYTHONPATH=.:tests python tests/benchmarks/train_step.py --preset real --device cuda --dtype bfloat16 # a GPU of 80 GB

    sft       the student alone: forward, backward, AdamW
    latent    LD from cached targets: nothing of the teacher on the device
    direct    LD, and ED by light trainable heads
    heads     LD, and ED through the teacher's frozen heads: the paper, from cached targets
    online    the same losses, and the teacher's encoder and heads make the targets inside the step, as the released code does

All steps of one round follow each other in one process, on one student, in an order of its own for each round; what is told is
the median over the rounds, and of the rounds' ratios to `sft`. On a CPU each step runs in one thread, and its time is that of
its core, so that other programs' work does not count. Cached targets lie on the host and go to the device in the step. Memory
is that of a fresh process for each arrangement. Weights are random: neither time nor memory depends on them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import processor
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count
from transformers import Qwen2Config, SiglipVisionConfig

from schemas.recipe import Precision, TeacherIdentity
from schemas.signal import P4D_SIGNALS, SignalName
from schemas.train import RECIPES, DecoderConfig
from student_train.distill.p4d import P4D
from student_train.distill.perception import (
    DirectPerception,
    FrozenPerception,
    LatentPerception,
    Perception,
    perception_decoder,
)
from student_train.distill.student import DistilledStudent, StepLosses
from student_train.models.nvila import IMAGE_TOKEN, VIDEO_TOKEN, RgptBackbone, RgptProcessor
from student_train.models.rgpt import FourDRgptConfig, FourDRgptForConditionalGeneration
from student_train.models.tiny_tokenizer import tiny_tokenizer
from teacher_cache.teachers.heads.dpt import DPTHead
from teacher_cache.teachers.heads.frozen import FrozenHeads, load_heads, save_heads, to_physical
from teacher_cache.teachers.heads.precision import TORCH_DTYPES, autocast, convert_weights, full_float32
from teacher_cache.teachers.l4p.config import MAPS
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import PRESETS, L4PTeacher

RESULTS = Path(__file__).parent / "results"
ARRANGEMENTS = ("sft", "latent", "direct", "heads", "online")
WITHOUT_TEACHER = ("latent", "direct")
DEAR, EVERY = ("heads", "online"), 4
"""Arrangements that take so long that they are in every fourth round alone."""
FRAMES, TEXT_TOKENS, RECIPE = 16, 64, RECIPES["paper"]

Batch = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """A student and the teacher of its targets."""

    vision: SiglipVisionConfig
    text: Qwen2Config
    teacher: str
    decoder: DecoderConfig


def _vision(hidden: int, mlp: int, layers: int, heads: int, *, image: int) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=image,
        patch_size=14,
        vision_use_head=False,
    )


def _qwen2(hidden: int, mlp: int, *, layers: int, heads: int, groups: int, vocabulary: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
    )


def _tiny() -> Sizes:
    """The student has a smaller share of the work than in `real`: what can be read off is the order, and the differences."""
    text = _qwen2(256, 1024, layers=6, heads=4, groups=2, vocabulary=1024)
    return Sizes(_vision(128, 512, 4, 4, image=168), text, "tiny", DecoderConfig(hidden=256))


def _small() -> Sizes:
    """The paths of `real` at a size that a CPU steps through in a second."""
    text = _qwen2(64, 128, layers=2, heads=4, groups=2, vocabulary=512)
    return Sizes(_vision(64, 128, 2, 4, image=84), text, "tiny", DecoderConfig(hidden=32))


def _real() -> Sizes:
    """NVILA-Lite-8B's: SigLIP so400m at 384 pixels, 81 tokens a frame, Qwen2-7B; and L4P giant."""
    text = _qwen2(3584, 18944, layers=28, heads=28, groups=4, vocabulary=152064)
    return Sizes(_vision(1152, 4304, 27, 16, image=384), text, "giant", DecoderConfig())


def _real_2b() -> Sizes:
    """The same with Qwen2-1.5B, for smaller GPUs."""
    text = _qwen2(1536, 8960, layers=28, heads=12, groups=2, vocabulary=151936)
    return Sizes(_vision(1152, 4304, 27, 16, image=384), text, "giant", DecoderConfig())


SIZES = {"small": _small, "tiny": _tiny, "real": _real, "real-2b": _real_2b}


class Bench:
    """A student, its batch, and every way to step that was asked for, each built once on the device."""

    def __init__(self, options: argparse.Namespace, arrangements: tuple[str, ...]) -> None:
        torch.manual_seed(0)
        self.device, self.dtype = torch.device(options.device), TORCH_DTYPES[options.dtype]
        self.sizes = SIZES[options.preset]()
        self.clips = options.batch
        with self.device:
            torch.set_default_dtype(self.dtype)
            self.student = student(self.sizes)
            torch.set_default_dtype(torch.float32)
        if options.checkpointing:
            self.student.model.gradient_checkpointing_enable()
        self.student.parts()["vision_tower"].requires_grad_(requires_grad=False)
        self.batch = self._batch()
        self.teacher = self._teacher(options.dtype) if "online" in arrangements else None
        self.precision: Precision = options.dtype
        self.targets = self._targets() if set(arrangements) - {"sft", "online"} else {}
        self.models = {name: self._model(name) for name in arrangements}
        trained = {name: [w for w in model.parameters() if w.requires_grad] for name, model in self.models.items()}
        if options.optimizer == "adamw":
            own = {name: [w for w in ws if not _in(w, self.student)] for name, ws in trained.items()}
            shared = torch.optim.AdamW([w for w in self.student.parameters() if w.requires_grad], lr=1e-5)
            self.optimizers = {n: [shared, *([torch.optim.AdamW(ws, lr=1e-5)] if ws else [])] for n, ws in own.items()}
        else:
            self.optimizers = {name: [torch.optim.SGD(ws, lr=1e-5)] for name, ws in trained.items()}

    def step(self, name: str) -> None:
        """One whole training step, the device's work included."""
        losses = self.forward(name)
        losses.total.backward()
        for optimizer in self.optimizers[name]:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.wait()

    def forward(self, name: str) -> StepLosses:
        shown = dict(self.batch)
        frames = shown.pop("teacher_frames")
        if name == "online":
            assert self.teacher is not None
            shown["targets"] = to_physical(self.teacher.raw(frames, P4D_SIGNALS))
        elif name != "sft":
            shown["targets"] = self.targets  # P4D moves each to the device
        losses: StepLosses = self.models[name](**shown)
        return losses

    def perceive(self, name: str, hidden: torch.Tensor) -> None:
        """What P4D adds to a step by itself: perception, losses, backward to the hidden states, and its weights' update."""
        model = self.models[name]
        assert isinstance(model, DistilledStudent)
        model.p4d(hidden.detach().requires_grad_(), self.targets).total.backward()
        for optimizer in self.optimizers[name][1:]:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.wait()

    def hidden(self) -> torch.Tensor:
        """Hidden states of the batch's video tokens."""
        with torch.no_grad():
            inputs = {name: self.batch[name] for name in ("input_ids", "attention_mask", "labels", "visual")}
            hidden = self.student(**inputs).hidden
        assert hidden is not None
        return hidden

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _batch(self) -> Batch:
        processor_, size = self.student.processor, self.sizes.vision.image_size
        seconds = torch.linspace(0, 5, FRAMES).tolist()
        ids = torch.tensor([*processor_.video_ids(seconds), *range(1, TEXT_TOKENS + 1)], device=self.device)
        ids = ids.expand(self.clips, -1)
        labels = torch.where(ids <= TEXT_TOKENS, ids, -100)
        frames = torch.randint(0, 256, (self.clips, FRAMES, size, size, 3), dtype=torch.uint8, device=self.device)
        side = PRESETS[self.sizes.teacher].image_size
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": labels,
            "visual": {"frames": frames, "timestamps": torch.tensor([seconds] * self.clips, device=self.device)},
            "teacher_frames": torch.randint(0, 256, (self.clips, FRAMES, side, side, 3), dtype=torch.uint8, device=self.device),
        }

    def _teacher(self, dtype: Precision) -> L4PTeacher:
        config = PRESETS[self.sizes.teacher]
        with self.device:
            model = L4P(config)
        identity = TeacherIdentity(family="l4p", config=config.model_dump(mode="json"), weights="random", dtype=dtype)
        return L4PTeacher(model, identity, str(self.device))

    def _targets(self) -> dict[str, torch.Tensor]:
        """Targets of the right shapes on the host, pinned where there is a GPU, as a loader gives them."""
        shapes = PRESETS[self.sizes.teacher].shapes
        made = {name: torch.rand(self.clips, *shape) + 0.5 for name, shape in shapes.items()}
        return {name: values.pin_memory() if self.device.type == "cuda" else values for name, values in made.items()}

    def _model(self, name: str) -> nn.Module:
        if name == "sft":
            return PlainStudent(self.student)
        with self.device:
            return DistilledStudent(self.student, P4D(self._perception(name), RECIPE).to(self.device))

    def _perception(self, name: str) -> Perception:
        shapes = dict(PRESETS[self.sizes.teacher].shapes)
        f4d, width = shapes.pop("f4d"), self.student.hidden_size
        decoder = perception_decoder(self.sizes.decoder, width, f4d).to(self.dtype)
        if name == "latent":
            return LatentPerception(decoder)
        if name == "direct":
            return DirectPerception(width, f4d[1:4], shapes, decoder)
        heads = self._frozen_heads() if name == "heads" else OnlineHeads(self.teacher)
        return FrozenPerception(decoder, heads, list(shapes))

    def _frozen_heads(self) -> FrozenHeads:
        """Heads as a store gives them, of a teacher that is not there."""
        config = PRESETS[self.sizes.teacher]
        heads = nn.ModuleDict({signal: DPTHead(config.head(signal)) for signal in MAPS})
        convert_weights(heads, self.precision)
        file = save_heads(
            heads, family="l4p", dtype=self.precision, f4d=config.f4d, image_size=config.image_size, frames=FRAMES
        )
        return load_heads(*file).to(self.device, memory_format=torch.channels_last_3d)


class OnlineHeads(nn.Module):
    """The heads of the teacher that is there, which need no second copy."""

    def __init__(self, teacher: L4PTeacher) -> None:
        super().__init__()
        teacher.model.task_heads.to(memory_format=torch.channels_last_3d)  # as P4D has a store's heads
        self.model, self.precision = teacher.model, teacher.identity.dtype

    def raw(self, f4d: torch.Tensor, signals: Collection[SignalName]) -> dict[SignalName, torch.Tensor]:
        with autocast(f4d.device.type, self.precision):
            return self.model.decode_raw(f4d.float(), signals)


class PlainStudent(nn.Module):
    """Supervised fine-tuning alone, in the form of the other arrangements."""

    def __init__(self, student: RgptBackbone) -> None:
        super().__init__()
        self.student = student

    def forward(self, **inputs: Any) -> StepLosses:
        loss = self.student(**inputs).loss
        return StepLosses(loss, {"sft": loss.detach()})


def _in(weight: torch.Tensor, module: nn.Module) -> bool:
    return any(weight is other for other in module.parameters())


def student(sizes: Sizes) -> RgptBackbone:
    """A 4D-RGPT of these sizes with random weights, where torch makes new tensors."""
    with torch.device("cpu"):
        tokenizer = tiny_tokenizer([VIDEO_TOKEN, IMAGE_TOKEN])
    video, image = (int(tokenizer.convert_tokens_to_ids(token)) for token in (VIDEO_TOKEN, IMAGE_TOKEN))
    config = FourDRgptConfig(
        sizes.vision,
        sizes.text,
        projector_layers=[4 * sizes.vision.hidden_size, "gelu", sizes.text.hidden_size],
        video_token_id=video,
        image_token_id=image,
    )
    return RgptBackbone(FourDRgptForConditionalGeneration(config), RgptProcessor(tokenizer, config))


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of some work, two for each multiplication with its addition."""
    # The teacher calls oneDNN by name where nothing asks for gradients, which torch's table does not know.
    known = {torch.ops.aten.mkldnn_convolution: _mkldnn_flop}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        work()
    return int(counter.get_total_flops())


def _mkldnn_flop(*shapes: Any, out_shape: Any, **_: Any) -> int:
    """Operations of ``mkldnn_convolution(x, weight, …)``, from the shapes that torch's counter gives in their places."""
    return int(conv_flop_count(shapes[0], shapes[1], out_shape))


def measure_time(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every arrangement's step in each round, and of what P4D does by itself; and their operations."""
    bench = Bench(options, ARRANGEMENTS)
    hidden = bench.hidden()
    works: dict[str, Callable[[], object]] = {name: lambda name=name: bench.step(name) for name in ARRANGEMENTS}
    works |= {f"p4d of {mode}": lambda mode=mode: bench.perceive(mode, hidden) for mode in WITHOUT_TEACHER}
    flops = {name: flops_of(work) for name, work in works.items()}  # and the first time of each, which is not timed
    clock = time.perf_counter if options.device.startswith("cuda") else time.process_time
    shuffle = random.Random(0)
    rounds = []
    for number in range(options.rounds):
        names = [name for name in works if name not in DEAR or number % EVERY == 0]
        rounds.append({name: _timed(works[name], clock) for name in shuffle.sample(names, len(names))})
    return {"rounds": rounds, "flops": flops, "parameters": {n: _sizes(m) for n, m in bench.models.items()}}


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def _sizes(model: nn.Module) -> dict[str, int]:
    sizes = {"student": sum(w.numel() for w in model.student.parameters())}
    parts: Mapping[str, nn.Module] = model.p4d.parts if isinstance(model, DistilledStudent) else {}
    return sizes | {name: sum(w.numel() for w in part.parameters()) for name, part in parts.items()}


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes of one arrangement's steps, in this process."""
    bench = Bench(options, (options.memory_of,))
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # of the steps, not of what it took to make the weights
    for _ in range(2):
        bench.step(options.memory_of)
    if bench.device.type == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated()}
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def in_a_fresh_process(arrangement: str) -> int:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--memory-of", arrangement], stdout=subprocess.PIPE, check=True
    )
    return int(json.loads(done.stdout)["peak_bytes"])


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "quartile_1": low, "quartile_3": high}


def report(found: dict[str, Any], memory: dict[str, int]) -> dict[str, Any]:
    """Every arrangement beside `sft`; ratios are taken within a round, whose steps met the same machine."""
    rounds: list[dict[str, float]] = found["rounds"]

    def over(of: Callable[[dict[str, float]], float], *names: str) -> dict[str, float]:
        return spread([of(r) for r in rounds if set(names) <= r.keys()])

    rows = {
        name: {
            "seconds": over(lambda r, name=name: r[name], name),
            "over_sft": over(lambda r, name=name: r[name] / r["sft"], name),
            "flops": flops,
            **({"peak_bytes": memory[name], "parameters": found["parameters"][name]} if name in memory else {}),
        }
        for name, flops in found["flops"].items()
    }
    goals = {
        f"({mode} - sft - p4d of {mode}) / sft": over(lambda r, m=mode: (r[m] - r["sft"] - r[f"p4d of {m}"]) / r["sft"])
        for mode in WITHOUT_TEACHER
    }
    goals["online / latent"] = over(lambda r: r["online"] / r["latent"], *DEAR)
    goals["(online - heads) / online"] = over(lambda r: (r["online"] - r["heads"]) / r["online"], *DEAR)
    flops = found["flops"]
    bytes_ = {name: memory["online"] - memory[name] for name in ARRANGEMENTS}
    return {
        "rows": rows,
        "goals": goals,
        "teacher_flops_in_the_online_step": flops["online"] - flops["heads"],
        "peak_bytes_below_online": bytes_,
    }


def table(rows: dict[str, Any]) -> Table:
    shown = Table("step", "ms", "quartiles", "of sft", "quartiles", "GFLOP", "of sft", "peak MB")
    for name, row in rows.items():
        s, r = row["seconds"], row["over_sft"]
        shown.add_row(
            name,
            f"{s['median'] * 1e3:.4g}",
            f"{s['quartile_1'] * 1e3:.4g}-{s['quartile_3'] * 1e3:.4g}",
            f"{r['median']:.2f}",
            f"{r['quartile_1']:.2f}-{r['quartile_3']:.2f}",
            f"{row['flops'] / 1e9:.4g}",
            f"{row['flops'] / rows['sft']['flops']:.2f}",
            f"{row['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in row else "",
        )
    return shown


def main() -> None:
    full_float32()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="float32")
    parser.add_argument("--batch", type=int, default=2, help="clips in a step")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="sgd where AdamW's states do not fit")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in the student")
    parser.add_argument("--out", type=Path, help="results/train-step.json, or train-step-PRESET.json")
    parser.add_argument("--memory-of", choices=ARRANGEMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 8:
        parser.error("the dearest arrangements run in every fourth round, and quartiles need two: give 8 rounds or more")
    if not options.device.startswith("cuda"):
        torch.set_num_threads(1)
    if options.memory_of:
        sys.stdout.write(json.dumps(measure_memory(options)))
        return
    console = Console(width=None if os.isatty(1) else 150)
    memory = {name: in_a_fresh_process(name) for name in ARRANGEMENTS}
    result = {
        "benchmark": "train_step",
        "machine": processor(),
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{name: getattr(options, name) for name in ("preset", "dtype", "batch", "rounds", "optimizer", "checkpointing")},
        "load_average_before": os.getloadavg()[0],
        **report(measure_time(options), memory),
    }
    console.print(table(result["rows"]))
    for goal, value in result["goals"].items():
        console.print(f"{goal}: {value['median']:+.3f} ({value['quartile_1']:+.3f} to {value['quartile_3']:+.3f})")
    out = options.out or RESULTS / ("train-step.json" if options.preset == "tiny" else f"train-step-{options.preset}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
