"""A mixture: which samples each epoch has, whatever the number of processes; and the fit that it makes."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command

from schemas.errors import BadInput
from schemas.mixture import Mixture, MixtureSet
from schemas.train import DataConfig, FitReport, ShownFit, TrainConfig
from student_train.data.mixture import Epochs, chosen, sets_of, with_mixture
from student_train.data.samples import load_samples
from student_train.training.batches import StepBatches
from student_train.training.checkpoints import refuse_other_config
from student_train.training.ranks import Ranks
from teacher_cache import open_cache

PARTS = ["a"] * 5 + ["b"] * 8 + ["c"] * 3
WEIGHTS = {"a": 1.0, "b": 0.5, "c": 2.5}
EPOCHS = Epochs(PARTS, WEIGHTS, seed=3)


def test_an_epoch_has_each_set_as_often_as_its_weight_says() -> None:
    assert {name: (one.samples, one.in_epoch) for name, one in EPOCHS.sets.items()} == {"a": (5, 5), "b": (8, 4), "c": (3, 8)}
    assert len(EPOCHS) == 17
    for epoch in range(4):
        assert Counter(PARTS[i] for i in EPOCHS.of(epoch)) == {"a": 5, "b": 4, "c": 8}


def test_nothing_of_a_set_comes_again_before_all_of_it_came() -> None:
    seen = Counter(i for epoch in range(6) for i in EPOCHS.of(epoch).tolist())
    assert {seen[i] for i in range(5)} == {6}
    assert {seen[i] for i in range(5, 13)} == {3}  # six halves
    assert {seen[i] for i in range(13, 16)} == {16}  # 48 of 3
    two = [*EPOCHS.of(2).tolist(), *EPOCHS.of(3).tolist()]
    assert sorted(i for i in two if 5 <= i < 13) == list(range(5, 13))


def test_a_set_s_draws_do_not_depend_on_the_others() -> None:
    alone = Epochs(["b"] * 8, WEIGHTS, seed=3)
    assert [i + 5 for i in alone.of(1)] == [i for i in EPOCHS.of(1) if 5 <= i < 13]
    assert EPOCHS.of(0).tolist() != Epochs(PARTS, WEIGHTS, seed=4).of(0).tolist()


def stream(batch: int, size: int, count: int) -> list[list[int]]:
    """The samples of each step."""
    ranks = [StepBatches([1] * 16, batch, seed=3, ranks=Ranks(n, size), epochs=EPOCHS) for n in range(size)]
    return [sorted(i for mine in together for i in mine) for together in islice(zip(*ranks, strict=True), count)]


def test_steps_and_positions_are_the_same_at_any_world_size() -> None:
    assert stream(6, 1, 9) == stream(2, 3, 9) == stream(1, 6, 9)
    assert Counter(PARTS[i] for step in stream(1, 1, 17) for i in step) == {"a": 5, "b": 4, "c": 8}
    before = StepBatches([1] * 16, 2, seed=3, ranks=Ranks(0, 3), epochs=EPOCHS)
    for _ in range(4):
        before.advance()  # 24 samples: in the second epoch
    after = StepBatches([1] * 16, 6, seed=3, ranks=Ranks(), epochs=EPOCHS)
    after.load_state_dict(before.state_dict())
    assert [sorted(step) for step in islice(after, 5)] == stream(6, 1, 9)[4:]


def test_a_count_takes_the_same_ones_each_time_and_no_more_than_there_are() -> None:
    assert chosen(9, None, "a", 0) == range(9)
    assert chosen(9, 4, "a", 0) == chosen(9, 4, "a", 0) == sorted({*chosen(9, 4, "a", 0)})
    assert chosen(90, 40, "a", 0) != chosen(90, 40, "b", 0)
    with pytest.raises(BadInput, match="set 'a' has 9 conversations to train on, and its `count` is 10"):
        chosen(9, 10, "a", 0)


def test_sets_keep_their_own_roots_and_take_the_data_s_otherwise() -> None:
    sets = {"a": {"conversations": "a.json", "video_root": "/a"}, "b": {"conversations": "b.json"}}
    data = DataConfig.model_validate({"mixture": {"sets": sets}, "video_root": "/v", "image_root": "/i"})
    found = sets_of(data)
    assert [(one.video_root, one.image_root) for one in found.values()] == [(("/a",), ("/i",)), (("/v",), ("/i",))]


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Two sets of the tiny store's videos."""

    def conversations(name: str, count: int) -> str:
        told = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A ball."}]
        records = [{"id": f"{name}-{n}", "video": f"scene-{n % 2}.mp4", "conversations": told} for n in range(count)]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return str(path)

    sets: dict[str, Any] = {
        "first": {"conversations": conversations("first", 6), "weight": 0.5, "leave_out": str(tmp_path / "erratum.json")},
        "second": {"conversations": conversations("second", 9), "count": 4},
    }
    (tmp_path / "erratum.json").write_text('["first-5", "first-4"]', encoding="utf-8")
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"sets": sets}), encoding="utf-8")
    return path


def config_file(store: Path, videos: Path, mixture: Path) -> Path:
    data = {"mixture": str(mixture), "video_root": str(videos), "workers": 0}
    config = {"store": str(store), "output": str(mixture.parent / "run"), "data": data, "epochs": 1, "batch": 2, "mode": "sft"}
    path = mixture.parent / "train.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_fit_of_a_mixture_says_its_epochs_and_keeps_its_sets(
    tiny_store: Path, videos: Path, mixture: Path, student_train_command: Command
) -> None:
    path = config_file(tiny_store, videos, mixture)
    shown = ShownFit.model_validate(student_train_command("fit", path, "--show", "--json").json)
    assert (shown.samples, shown.epoch, shown.steps) == (8, 6, 3)
    assert {name: (one.samples, one.in_epoch) for name, one in shown.sets.items()} == {"first": (4, 2), "second": (4, 4)}
    done = FitReport.model_validate(student_train_command("fit", path, "--json").json)
    assert (done.samples, done.epoch, done.steps, done.sets) == (8, 6, 3, shown.sets)
    then = TrainConfig.model_validate_json((mixture.parent / "run" / "config.json").read_text(encoding="utf-8"))
    assert isinstance(then.data.mixture, Mixture)

    now = yaml.safe_load(mixture.read_text(encoding="utf-8"))
    now["sets"]["first"]["video_root"] = ["/elsewhere"]
    mixture.write_text(yaml.safe_dump(now), encoding="utf-8")
    changed = with_mixture(TrainConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))))
    refuse_other_config(then, changed, path)  # where things are may change
    now["sets"]["first"]["weight"] = 2
    mixture.write_text(yaml.safe_dump(now), encoding="utf-8")
    refused = student_train_command("fit", path, "--resume")
    assert refused.status == 2
    assert "data.mixture.sets.first.weight: the run started with 0.5, now it is 2.0" in refused.err


def test_conversations_beside_a_mixture_are_refused() -> None:
    with pytest.raises(ValueError, match="give `conversations` or `mixture`"):
        DataConfig.model_validate({"conversations": "a.json", "mixture": "b.yaml"})


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_weight_that_no_epoch_can_have_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight\n.*(greater than 0|less than or equal to 1000)"):
        MixtureSet(conversations="a.json", weight=weight)


def test_the_samples_know_their_set(tiny_store: Path, videos: Path, mixture: Path) -> None:
    data = DataConfig(mixture=str(mixture), video_root=(str(videos),))
    assert Counter(one.part for one in load_samples(open_cache(str(tiny_store)), data).samples) == {"first": 4, "second": 4}
