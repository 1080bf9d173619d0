"""Two teachers' agreement: known distances, and fits that it weighs."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Jobs
from pydantic import ValidationError

from schemas.errors import BadInput
from schemas.job import Job
from schemas.log import RowsRetired
from schemas.train import ConfidenceConfig, FitReport, Modality, TrainConfig
from student_train.distill.confidence import Confidence, agreement
from student_train.training.fit import fit
from teacher_cache import open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.store.store import open_store

SHAPE = (1, 2, 3, 3)
RAY = [0.0, 0.0, 1.0, 0.5, -0.5, 0.0]


def turned(angle: float) -> list[float]:
    """The ray turned about x, half as long and with another moment."""
    return [0.0, math.sin(angle) / 2, math.cos(angle) / 2, 9.0, 9.0, 9.0]


APART: dict[Modality, tuple[torch.Tensor, torch.Tensor]] = {
    "flow": (torch.zeros(*SHAPE, 2), torch.tensor([0.6, 0.8])),  # a pixel apart
    "motion": (torch.zeros(SHAPE), torch.tensor(math.log(3.0))),  # probabilities of 1/2 and 3/4
    "camray": (torch.tensor(RAY).expand(*SHAPE, 6).clone(), torch.tensor(turned(0.1))),
    "depth": (torch.full(SHAPE, 2.0), torch.tensor(7.0 * math.exp(0.1))),  # of another scale, 7 to 2
}
"""Maps, and what another teacher says of their first pixel: a tolerance away."""


@pytest.mark.parametrize("modality", APART)
def test_it_is_one_where_they_agree_and_half_a_tolerance_apart(modality: Modality) -> None:
    ours, other = APART[modality]
    theirs = 3.5 * ours if modality == "depth" else ours.clone()
    theirs[0, 0, 0, 0] = other
    tolerance = ConfidenceConfig(store="s").tolerances()[modality]
    weights = agreement(modality, ours, theirs, tolerance)
    expected = torch.ones(SHAPE)
    expected[0, 0, 0, 0] = 0.5
    torch.testing.assert_close(weights, expected)


def test_where_one_has_no_number_there_is_no_weight() -> None:
    ours, theirs = torch.ones(SHAPE), torch.ones(SHAPE)
    theirs[0, 0, 0, :2] = torch.tensor([torch.nan, 0.0])
    ours[0, 1, 1, 1] = torch.inf
    weights = agreement("depth", ours, theirs, 0.1)
    assert weights[0, 0, 0, :2].tolist() == [0, 0]
    assert weights[0, 1, 1, 1] == 0
    assert weights.sum() == weights.numel() - 3


@pytest.fixture(scope="module")
def classical(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """The same clips, taught by OpenCV, which gives another flow."""
    folder = tmp_path_factory.mktemp("classical")
    teach(folder, videos, ["flow"])
    return folder / "store"


def teach(folder: Path, videos: Path, signals: list[str], **changes: Any) -> None:
    teacher = {"family": "classical", "preset": "px112"}
    run_job(Job.model_validate(Jobs(folder, videos).value(folder / "store", teacher=teacher, signals=signals, **changes)))


def config(store: Path, output: Path, *, steps: int = 1, **loss: Any) -> TrainConfig:
    weights = {"depth": 0, "flow": 1, "motion": 0, "camray": 0}
    settings = {"store": str(store), "output": str(output), "mode": "direct", "steps": steps, "batch": 4, "checkpoint_every": 1}
    settings |= {"data": {"video_root": "/"}, "decoder": {"hidden": 32}, "loss": {"weights": weights, **loss}}
    return TrainConfig.model_validate(settings)


def fitted(store: Path, output: Path, **loss: Any) -> FitReport:
    return fit(config(store, output, **loss))


def test_a_teacher_that_says_the_same_changes_nothing_and_another_weighs_less(
    tiny_store: Path, classical: Path, tmp_path: Path
) -> None:
    plain = fitted(tiny_store, tmp_path / "plain")
    same = fitted(tiny_store, tmp_path / "same", confidence={"store": str(tiny_store)})
    assert same.last.losses == pytest.approx(plain.last.losses)
    other = fitted(tiny_store, tmp_path / "other", confidence={"store": str(classical)})
    assert 0 < other.last.losses["ed_flow"] < 0.99 * plain.last.losses["ed_flow"]
    assert {name: other.last.losses[name] for name in ("sft", "ld")} == pytest.approx(
        {name: plain.last.losses[name] for name in ("sft", "ld")}
    )
    config = json.loads((tmp_path / "other" / "config.json").read_text(encoding="utf-8"))
    assert config["loss"]["confidence"]["store"] == str(classical)


def test_the_weights_are_of_the_clips_in_their_order(tiny_store: Path, classical: Path) -> None:
    cache = open_cache(str(tiny_store))
    made = Confidence(cache, ("f4d", "flow", "camray"), ConfidenceConfig(store=str(classical)))
    confidence = pickle.loads(pickle.dumps(made))
    a, b, *_ = cache.committed_ids()
    targets = {"flow": torch.from_numpy(cache.read(["flow"], [b, a, b])["flow"])}
    targets["flow"] = torch.cat([targets["flow"][:1], torch.full_like(targets["flow"][:1], torch.nan), targets["flow"][1:]])
    weights = confidence(targets, [b, None, a, b])
    assert weights.keys() == {"flow"}  # all that the other has of these
    assert weights["flow"].shape == targets["flow"].shape[:4]
    assert bool((weights["flow"][1] == 1).all())
    assert torch.equal(weights["flow"][0], weights["flow"][3])
    assert not torch.equal(weights["flow"][0], weights["flow"][2])


def test_what_cannot_weigh_is_refused(tiny_store: Path, classical: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ED compares camray; needed a store with one of these"):
        fitted(tiny_store, tmp_path / "run", confidence={"store": str(classical)}, weights={"depth": 0, "flow": 0, "motion": 0})
    short = Path(shutil.copytree(tiny_store, tmp_path / "short"))
    open_store(str(short)).log.append(lambda _: [RowsRetired(rows=(0,), found={})], "test")
    with pytest.raises(BadInput, match="lacks 1 of the 4 clips to train on"):
        fitted(tiny_store, tmp_path / "run", confidence={"store": str(short)})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValidationError, match="mode `latent` compares none"):
        TrainConfig.model_validate({"store": "s", "output": "o", "mode": "latent", "loss": {"confidence": {"store": "s"}}})


def test_a_resumed_run_weighs_by_what_the_other_store_held(
    tiny_store: Path, classical: Path, videos: Path, tmp_path: Path
) -> None:
    """It has gained a map of more weight since, and lies elsewhere; one of another recipe is refused."""
    shutil.copytree(classical, tmp_path / "store")
    weights = {"depth": 0, "flow": 1, "motion": 1, "camray": 0}

    def settings(folder: str, store: Path) -> TrainConfig:
        return config(tiny_store, tmp_path / folder, steps=2, weights=weights, confidence={"store": str(store)})

    whole = fit(settings("whole", tmp_path / "store"))
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (tmp_path / "resumed" / "result.json").unlink()
    begun = open_cache(str(tmp_path / "store"))
    teach(tmp_path, videos, ["flow", "motion"])
    now = open_cache(str(tmp_path / "store"))
    assert "motion" in set(now.signals) - set(begun.signals)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    teach(tmp_path, videos, ["flow"], clips={"student_size": 112, "preprocessing": "student"})
    with pytest.raises(
        BadInput, match=r"differ:\n  the fingerprint of `loss.confidence.store`: the checkpoint has \w{64}, here"
    ):
        fit(settings("resumed", tmp_path / "store"), resume=True)
    assert fit(settings("resumed", tmp_path / "elsewhere"), resume=True).last.losses == whole.last.losses
    kept = TrainConfig.model_validate_json((tmp_path / "resumed" / "config.json").read_text(encoding="utf-8"))
    assert kept.loss.confidence == ConfidenceConfig(store=str(tmp_path / "elsewhere"), version=begun.version)
