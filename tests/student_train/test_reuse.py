"""One store, many experiments: other students, recipes and weights read it, and nothing is taught or written again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3_proxy
import torch
from conftest import tree
from s3fs import S3FileSystem

from schemas.errors import Unreachable
from schemas.train import FitReport, LossConfig, TrainConfig
from student_train.distill.p4d import P4D
from student_train.distill.targets import TargetReader
from student_train.models.build import BUILDERS
from student_train.training.fit import fit
from teacher_cache import open_cache
from teacher_cache.store.objects import Objects

STORE = "s3://bucket/store"
MAPS = ("depth", "flow", "motion", "camray")


@dataclass
class Watched:
    """A store on S3 that this process may only read, and every request to it."""

    proxy: s3_proxy.CountingProxy
    objects: dict[str, bytes]
    """What was there at first."""

    def take(self) -> set[str]:
        """Arrays whose shards were asked for since the last time. No request may have been one that changes anything."""
        asked = [request.split() for request in self.proxy.requests]
        self.proxy.requests.clear()
        assert {method for method, *_ in asked} <= {"GET", "HEAD"}
        paths = [path.partition("/store/")[2] for _, path, *_ in asked]
        return {path.partition("/")[0].removesuffix("_exact") for path in paths if "/c/" in path}


@pytest.fixture
def store(
    tiny_store: Path, counting: s3_proxy.CountingProxy, act_as: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Watched:
    objects = tree(tiny_store)
    filled = Objects(STORE)
    for key, content in objects.items():
        assert filled.create(key, content)
    act_as("reader")
    monkeypatch.setenv("AWS_ENDPOINT_URL", counting.endpoint)
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    counting.requests.clear()
    return Watched(counting, objects)


def is_unchanged(store: Watched) -> None:
    here = Objects(STORE)
    assert sorted(here.listing()) == sorted(store.objects)
    assert here.get_many(list(store.objects)) == store.objects
    with pytest.raises(Unreachable):
        here.create("object", b"")


def fitted(output: Path, **changes: Any) -> FitReport:
    base = {"store": STORE, "output": str(output), "steps": 1, "batch": 2, "decoder": {"hidden": 32}, "mode": "direct"}
    return fit(TrainConfig.model_validate(base | {"data": {"video_root": "/"}} | changes))


def test_one_store_feeds_different_students_and_recipes(store: Watched, tmp_path: Path) -> None:
    reports = [
        fitted(tmp_path / f"{backbone}-{recipe}", model={"backbone": backbone}, loss={"recipe": recipe})
        for backbone in BUILDERS
        for recipe in ("paper", "released")
    ]
    assert {report.fingerprint for report in reports} == {open_cache(STORE).recipe.fingerprint}
    assert store.take() == {"f4d", *MAPS, "timestamps", "frame_index"}
    is_unchanged(store)


def test_students_of_other_widths_and_token_grids_learn_the_same_targets(store: Watched) -> None:
    cache = open_cache(STORE)
    for width, grid, recipe in ((24, (16, 4, 4), "paper"), (40, (8, 3, 5), "released")):
        p4d = P4D.for_store(cache, width, LossConfig(recipe=recipe).resolved(), mode="direct")
        targets, valid = TargetReader(cache, p4d.signals)(cache.committed_ids()[:1])
        losses = p4d(torch.randn(1, *grid, width), targets, valid)
        assert all(value.isfinite() for value in losses.parts.values())
    store.take()
    is_unchanged(store)


def test_a_sweep_reads_what_it_weighs_and_no_more(store: Watched, tmp_path: Path) -> None:
    only = {name: {other: 0 for other in MAPS if other != name} for name in MAPS}
    sweep: list[tuple[dict[str, Any], set[str]]] = [
        ({"alpha": 0.5}, {"f4d", *MAPS}),
        ({"alpha": 2.0, "beta": 0}, {"f4d"}),
        ({"alpha": 0, "beta": 1.0, "weights": only["depth"]}, {"depth"}),
        ({"alpha": 0.1, "weights": only["flow"]}, {"f4d", "flow"}),
        ({"alpha": 0, "weights": {"depth": 0, "flow": 0}}, {"motion", "camray"}),
    ]
    for number, (loss, signals) in enumerate(sweep):
        report = fitted(tmp_path / str(number), loss=loss)
        assert store.take() == {*signals, "timestamps", "frame_index"}
        assert set(report.first.losses) == {"loss", "sft", *("ld" if s == "f4d" else f"ed_{s}" for s in signals)}
    is_unchanged(store)
