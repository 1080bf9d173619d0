"""Pixels weighed by objects, marks in what the student sees, and fits that use both."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from schemas.errors import BadInput, SignalMissing
from schemas.train import ConfidenceConfig, FitReport, RegionLossConfig, RegionsConfig, TrainConfig
from student_train.data.marks import Marks
from student_train.distill.confidence import Confidence
from student_train.distill.pixel_weights import Product
from student_train.distill.regions import RegionWeights, region_weights
from student_train.training.fit import fit
from teacher_cache import open_cache

IDS = [f"scene-{seed}.mp4" for seed in range(4)]


def test_inside_and_edge_have_their_weights_and_the_rest_has_one() -> None:
    labels = torch.zeros((1, 1, 6, 8), dtype=torch.uint8)
    labels[..., 1:6, 2:7] = 1
    labels[..., 4:6, 5:7] = 2
    found = region_weights(labels, RegionLossConfig(inside=2, edge=5, edge_pixels=1))[0, 0].int().tolist()
    assert found == [
        [1, 5, 5, 5, 5, 5, 5, 5],
        [1, 5, 5, 5, 5, 5, 5, 5],
        [1, 5, 5, 2, 2, 2, 5, 5],
        [1, 5, 5, 2, 5, 5, 5, 5],
        [1, 5, 5, 2, 5, 5, 5, 5],
        [1, 5, 5, 2, 5, 5, 5, 5],
    ]


@pytest.fixture(scope="module")
def measures(tiny_store: Path, regions_store: Path) -> tuple[Confidence, RegionWeights]:
    cache = open_cache(str(tiny_store))
    signals = ["flow", "camray"]
    regions = RegionsConfig(store=str(regions_store))
    of_regions = RegionWeights(cache, signals, regions, RegionLossConfig(inside=3, edge=7))
    return Confidence(cache, signals, ConfidenceConfig(store=str(tiny_store))), of_regions


def test_measures_are_multiplied(measures: tuple[Confidence, RegionWeights], tiny_store: Path, regions_store: Path) -> None:
    clip_ids = [IDS[1], None, IDS[0], IDS[1]]
    read = open_cache(str(tiny_store)).read(["flow", "camray"], [IDS[1], IDS[1], IDS[0], IDS[1]])
    targets = {name: torch.from_numpy(values) for name, values in read.items()}
    targets["flow"] += torch.tensor([1.0, 0.0])  # a pixel off, which the tolerance halves
    of_regions = pickle.loads(pickle.dumps(measures[1]))(targets, clip_ids)
    product = Product(measures)(targets, clip_ids)
    labels = torch.from_numpy(open_cache(str(regions_store)).read(["regions"], [IDS[0]])["regions"])
    expected = region_weights(labels, RegionLossConfig(inside=3, edge=7))
    assert torch.equal(of_regions["flow"][2], expected[0])
    assert set(of_regions["flow"].unique().tolist()) == {1, 3, 7}
    torch.testing.assert_close(product["flow"][[0, 2, 3]], of_regions["flow"][[0, 2, 3]] / 2)
    assert (product["flow"][1] == 1).all()
    assert product["camray"].shape == targets["camray"].shape[:4]
    assert product["camray"].mean() == pytest.approx(of_regions["flow"].mean().item(), rel=0.02)


def test_marks_are_drawn_where_a_conversation_asks_about_them(tiny_store: Path, regions_store: Path) -> None:
    cache, frames = open_cache(str(tiny_store)), [np.zeros((16, 96, 96, 3), np.uint8)] * 3
    texts = ["Which is <obj_1>?", "Which one?", "<obj_2>"]
    first, every = (
        pickle.loads(pickle.dumps(Marks(cache, RegionsConfig(store=str(regions_store), marks=where))))(
            frames, [IDS[0], IDS[1], None], texts
        )
        for where in ("first", "all")
    )
    assert not frames[0].any()
    assert [bool(clip.any()) for clip in first] == [bool(clip.any()) for clip in every] == [True, False, False]
    assert not first[0][1:].any()
    assert every[0][1:].any(axis=(1, 2, 3)).all()


def fitted(store: Path, output: Path, **settings: Any) -> FitReport:
    base = {"store": str(store), "output": str(output), "mode": "direct", "steps": 1, "batch": 4}
    weights = {"depth": 0, "flow": 1, "motion": 0, "camray": 0}
    base |= {"data": {"video_root": "/"}, "decoder": {"hidden": 32}}
    return fit(TrainConfig.model_validate(base | settings | {"loss": {"weights": weights, **settings.get("loss", {})}}))


def test_a_fit_learns_by_regions(tiny_store: Path, regions_store: Path, tmp_path: Path) -> None:
    plain = fitted(tiny_store, tmp_path / "plain").first.losses["ed_flow"]
    regions = {"regions": {"store": str(regions_store)}}
    same, double = (
        fitted(tiny_store, tmp_path / name, loss={"regions": weights}, **regions).first.losses["ed_flow"]
        for name, weights in (("same", {"inside": 1}), ("double", {"inside": 2, "edge": 2}))
    )
    assert same == pytest.approx(plain, rel=1e-6)
    assert plain < double < 2 * plain


def test_what_cannot_be_is_named(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"name it as `regions: \{store"):
        TrainConfig.model_validate({"store": "s", "output": "o", "mode": "heads", "loss": {"regions": {}}})
    with pytest.raises(ValidationError, match="mode `latent` compares none"):
        TrainConfig.model_validate({"store": "s", "output": "o", "mode": "latent", "loss": {"regions": {}}})
    with pytest.raises(BadInput, match=r"`loss.regions` needs `regions`"):
        fitted(tiny_store, tmp_path / "a", loss={"regions": {}}, regions={"store": str(tiny_store)})
    with pytest.raises(SignalMissing, match="regions and objects are needed for marks"):
        fitted(tiny_store, tmp_path / "b", regions={"store": str(tiny_store)})


def test_a_fit_sees_marks_where_it_is_asked_about_them(tiny_store: Path, regions_store: Path, tmp_path: Path) -> None:
    def said(text: str) -> Path:
        path = tmp_path / "asked.json"
        turns = [{"from": "human", "value": f"<video>\n{text}"}, {"from": "gpt", "value": "A"}]
        path.write_text(json.dumps([{"id": "0", "clip_id": IDS[0], "conversations": turns}]))
        return path

    losses = {}
    for text in ("Where is <obj_1>?", "Where is it?"):
        for marks in ("none", "first"):
            data = {"conversations": [str(said(text))], "video_root": "/"}
            regions = {"store": str(regions_store), "marks": marks}
            output = tmp_path / f"{marks}-{len(text)}"
            losses[text, marks] = fitted(tiny_store, output, data=data, regions=regions, batch=1).first.losses["ed_flow"]
    assert losses["Where is it?", "none"] == losses["Where is it?", "first"]
    assert losses["Where is <obj_1>?", "none"] != losses["Where is <obj_1>?", "first"]
