"""What `stats` says of a store is what its log, its catalog and its values say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Command, Jobs, is_one_clear_error
from log_files import rewrite, units

from schemas.errors import BadInput, StoreDamaged
from schemas.report import StatsReport
from teacher_cache import open_cache
from teacher_cache.report.card import _size_category, data_card
from teacher_cache.report.stats import store_stats


def test_values_are_numpy_s_of_all_that_is_read(tiny_store: Path) -> None:
    report, _ = store_stats(str(tiny_store), None)
    cache = open_cache(str(tiny_store))
    read = cache.read(cache.signals, cache.committed_ids())
    assert (report.sample.clips, report.sample.of) == (4, 4)
    channels = {
        "f4d": [read["f4d"][:, layer] for layer in range(4)],
        "depth": [read["depth"]],
        "flow": [read["flow"][:, 1:, ..., channel] for channel in range(2)],  # frame 0 is invalid
        "motion": [read["motion"]],
        "camray": [read["camray"][..., channel] for channel in range(6)],
    }
    for signal, values in channels.items():
        said = report.signals[signal].values  # type: ignore[index]
        for value, of in zip(said, values, strict=True):
            exact = of.astype(np.float64)
            expected = (exact.mean(), exact.std(), exact.min(), exact.max())
            assert (value.mean, value.std, value.least, value.most) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert [value.name for value in report.signals["camray"].values][::3] == ["direction x", "moment x"]
    for layer, spread in enumerate(report.signals["f4d"].channels):
        exact = read["f4d"][:, layer].astype(np.float64).reshape(-1, read["f4d"].shape[-1])
        assert (spread.name, spread.channels) == (f"layer {cache.recipe.teacher.config['hooks'][layer]}", exact.shape[-1])
        rms = np.sqrt((exact**2).mean(0))
        assert (spread.rms.median, spread.rms.most) == pytest.approx((np.median(rms), rms.max()))
        assert spread.means.least == pytest.approx(exact.mean(0).min())


def test_channels_far_larger_than_their_layer_s_others_are_named(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_cache.report.stats.OUTLIER", 1.5)
    spread = store_stats(str(tiny_store), 2)[0].signals["f4d"].channels[0]
    assert 1 < spread.outliers < spread.channels / 2
    rms = [channel.rms for channel in spread.largest]
    assert rms == sorted(rms, reverse=True)
    assert rms[0] == spread.rms.most > 1.5 * spread.rms.median
    assert len(rms) == min(8, spread.outliers)


def test_a_sample_is_said_and_its_seed_chooses_it(
    tiny_store: Path, regions_store: Path, teacher_cache_command: Command
) -> None:
    one = teacher_cache_command("stats", tiny_store, "--clips", 2, "--json")
    again, other = (teacher_cache_command("stats", tiny_store, "--clips", 2, "--seed", seed, "--json") for seed in (0, 1))
    assert one.json["sample"] == {"clips": 2, "of": 4, "seed": 0}
    assert one.json == again.json
    assert one.json["signals"]["depth"]["errors"] == other.json["signals"]["depth"]["errors"]  # of all clips, always
    means = [{done.json["signals"]["depth"]["values"][0]["mean"] for done in (one, again, *more)} for more in ((), (other,))]
    assert [len(some) for some in means] == [1, 2]
    shown = teacher_cache_command("stats", tiny_store, "--clips", 2, COLUMNS="200").out
    assert "2 of 4, chosen by the seed 0" in shown
    assert "of no clip" in teacher_cache_command("stats", tiny_store, "--clips", 0).out
    assert "committed clips: all" in teacher_cache_command("stats", tiny_store, "--all").out
    assert teacher_cache_command("stats", regions_store).out.endswith("none: names and codes have no mean\n")
    is_one_clear_error(teacher_cache_command("stats", tiny_store, "--version", 99), 2, "version 99", "0 to")


@pytest.fixture
def measured(tiny_store: Path, tmp_path: Path) -> Path:
    """A store whose log says of depth's errors what the test says."""
    shutil.copytree(tiny_store, tmp_path / "store")

    def change(shard: int, shares: list[float]) -> None:
        def of_depth(action: dict[str, Any]) -> None:
            for figures in action["figures"]:
                if figures["signal"] == "depth":
                    figures |= {"bound": 0.5, "measured": [0.5 * share for share in shares], "relative_rms": shares}

        rewrite(tmp_path / "store", of_depth, shard=shard)

    change(0, [0.1234, 0.95])
    change(1, [0.2, 0.3])
    return tmp_path / "store"


def test_errors_are_those_of_the_log(measured: Path) -> None:
    (error,) = store_stats(str(measured), 0)[0].signals["depth"].errors
    assert (error.bound, error.clips, error.worst, error.near_bound) == (0.5, 4, 0.475, 0.25)
    assert error.median == pytest.approx(0.1, abs=0.5 / 1999)  # the lower of the two in the middle
    assert error.relative_rms == pytest.approx(np.mean([0.1234, 0.95, 0.2, 0.3]))
    rows = open_cache(str(measured)).clips
    assert error.worst_clip == rows["clip_id"][rows["row"].to_pylist().index(1)].as_py()
    said = store_stats(str(measured), 0)[0].signals["f4d"].errors[0]
    logged = [value for unit in units(measured) for of in unit["figures"] if of["signal"] == "f4d" for value in of["measured"]]
    assert said.worst == max(logged)
    assert said.median == pytest.approx(sorted(logged)[1], abs=said.bound / 1999)


def test_a_clip_that_no_longer_counts_has_no_error(measured: Path) -> None:
    rewrite(measured, lambda action: action.update(failed=[{"row": 1, "reason": "decode_error", "detail": "x"}]), shard=0)
    report, _ = store_stats(str(measured), 0)
    (error,) = report.signals["depth"].errors
    assert (error.clips, error.worst, report.failed) == (3, 0.15, {"decode_error": 1})
    (measured / "log" / f"{1:020d}.json").write_text("{}")
    with pytest.raises(StoreDamaged, match="log/"):
        store_stats(str(measured), 0)


def test_failures_and_duplicates_are_counted_and_the_card_says_so(
    jobs: Jobs, videos: Path, tmp_path: Path, teacher_cache_command: Command
) -> None:
    folder = tmp_path / "secret place"
    folder.mkdir()
    for name in ("one.mp4", "copy.mp4"):
        shutil.copy(videos / "scene-0.mp4", folder / name)
    shutil.copy(videos / "scene-1.mp4", folder / "other.mp4")
    (folder / "broken.mp4").write_text("no video")
    job = jobs.write(folder / "my store", videos={"glob": f"{folder}/*.mp4"}, signals=["depth", "flow"])
    assert teacher_cache_command("run", job).status == 1
    done = teacher_cache_command("stats", folder / "my store", "--card", tmp_path / "README.md", COLUMNS="200")
    assert done.status == 0, done.err
    assert "1 (25.00%) for not_a_video" in done.out
    assert "1 with the content of another video, such as" in done.out
    report = StatsReport.model_validate(teacher_cache_command("stats", folder / "my store", "--json").json)
    assert (report.videos, report.failed, report.repeated.contents, report.repeated.videos) == (4, {"not_a_video": 1}, 1, 1)
    assert [{Path(video).name for video in ids} for ids in report.repeated.examples] == [{"copy.mp4", "one.mp4"}]

    from huggingface_hub import DatasetCard

    card = DatasetCard.load(tmp_path / "README.md")
    about = card.data.to_dict()
    assert (about["pretty_name"], about["size_categories"], about["viewer"]) == ("my store", ["n<1K"], False)
    assert about["tags"] == ["video", "distillation", "zarr", "depth-estimation", "optical-flow"]
    assert "license" not in about
    assert f"| depth |  | {report.signals['depth'].values[0].mean:.4g} |" in card.text
    assert report.fingerprint in card.text
    assert json.loads(card.text.partition("```json\n")[2].partition("```")[0])["encodings"]["flow"] == "step-1/16"
    for place in ("secret", str(tmp_path), "one.mp4", "broken.mp4"):
        assert place not in card.text


def test_a_store_without_a_clip(jobs: Jobs, tmp_path: Path, teacher_cache_command: Command) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    teacher_cache_command("run", jobs.write(tmp_path / "store", videos={"glob": f"{tmp_path}/*.mp4"}))
    report, recipe = store_stats(str(tmp_path / "store"))
    assert (report.sample.clips, report.clips.failed, report.signals["f4d"].values) == (0, 1, ())
    assert yaml.safe_load(data_card(report, recipe).split("---")[1])["size_categories"] == ["n<1K"]
    is_one_clear_error(teacher_cache_command("stats", tmp_path / "store", "--card", tmp_path), 2, "cannot write")


def test_sizes_have_the_hub_s_names() -> None:
    counts = {0: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 10**4: "10K<n<100K", 2 * 10**7: "10M<n<100M", 10**8: "n>100M"}
    assert {count: _size_category(count) for count in counts} == counts


def test_rows_are_read_as_clips_are(tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    rows = cache.committed_rows
    ids = cache.clips["clip_id"].take([cache.clips["row"].to_pylist().index(row) for row in rows[::-1]]).to_pylist()
    np.testing.assert_array_equal(cache.read_rows(["flow"], rows[::-1])["flow"], cache.read(["flow"], ids)["flow"])
    for row in (-1, 99):
        with pytest.raises(BadInput, match=f"row {row} .* is not committed in flow"):
            cache.read_rows(["flow"], np.array([row]))
