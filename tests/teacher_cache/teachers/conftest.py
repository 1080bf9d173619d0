"""Small L4P networks, and the golden outputs of the original one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import live_bytes
import pytest
import torch
from safetensors import safe_open
from seeded_weights import seed_weights
from small_l4p import SMALL, moving_square

from schemas.job import TeacherJob
from schemas.signal import P4D_SIGNALS
from teacher_cache.teachers.l4p.config import L4PConfig
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import FAMILY


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small lose more time in handing work to threads than they gain, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden():
    """Config, state dict, input and outputs of the original network (``../shared/golden`` beside the repository)."""
    root = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
    path = root.parent / "shared" / "golden" / "l4p_small.safetensors"
    if not path.exists():
        pytest.skip(f"the golden file is not beside the repository ({path})")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = L4PConfig(**json.loads(file.metadata()["config"]))
    state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
    return SimpleNamespace(config=config, state=state, tensors=tensors, frames=tensors["input.rgb_b3thw"])


@pytest.fixture
def small() -> L4P:
    model = L4P(SMALL)
    seed_weights(model, seed=1)
    return model


@pytest.fixture
def checkpoint(small: L4P) -> dict[str, torch.Tensor]:
    """The small network's tensors under a checkpoint's names."""
    return {f"l4p_model.{name}": tensor.clone() for name, tensor in small.state_dict().items()}


def forward_of_one_clip(dtype: str) -> SimpleNamespace:
    """The packaged teacher in a precision, what it gives of one clip, and the most bytes that took."""
    teacher = FAMILY.load(TeacherJob(preset="tiny", dtype=dtype), "cpu")
    frames, given = moving_square(), []
    peak = live_bytes.peak_live_bytes(lambda: given.append(teacher.raw(frames, P4D_SIGNALS)))
    return SimpleNamespace(teacher=teacher, raw=given[0], peak=frames.nbytes + peak)


@pytest.fixture(scope="session")
def bfloat16() -> SimpleNamespace:
    """Once for all tests: a processor that has no bfloat16 takes twenty seconds for it, and some minutes."""
    return forward_of_one_clip("bfloat16")


@pytest.fixture(scope="session")
def float32() -> SimpleNamespace:
    return forward_of_one_clip("float32")
