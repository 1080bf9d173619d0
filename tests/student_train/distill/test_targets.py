"""Targets by clip id, and P4D in a training loop of one's own."""

from __future__ import annotations

import pickle
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Jobs
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, default_collate

import student_train
from schemas.errors import BadInput, ClipFailed, UnknownClip
from schemas.job import Job
from student_train import TargetCollator, TargetReader
from teacher_cache import Cache, DiskTier, join_caches, open_cache
from teacher_cache.jobs.run import run_job
from teacher_cache.reader.stream import DeviceReader

GRID = (8, 2, 2)
VIDEO_TOKEN = 60


@pytest.fixture(scope="module")
def cache(tiny_store: Path) -> Cache:
    return open_cache(str(tiny_store))


def sample(number: int, **more: Any) -> dict[str, Any]:
    return {"number": torch.tensor(number), **more}


def test_targets_come_beside_what_the_inner_function_gives(cache: Cache) -> None:
    a, b = cache.committed_ids()[:2]
    collate = TargetCollator(default_collate, cache, ["depth", "camray"])
    batch = collate([sample(1, clip_id=b), sample(2, clip_id=None), sample(3), sample(4, clip_id=a)])
    assert set(batch) == {"number", "targets", "valid"}
    assert batch["number"].tolist() == [1, 2, 3, 4]
    expected = cache.read(["depth", "camray"], [b, a])
    for signal in ("depth", "camray"):  # the third sample has no video
        assert batch["valid"][signal].tolist() == [True, False, True]
        np.testing.assert_array_equal(batch["targets"][signal][[0, 2]].numpy(), expected[signal])
        assert batch["targets"][signal][1].isnan().all()


def test_a_batch_in_which_no_video_has_targets(cache: Cache) -> None:
    batch = TargetCollator(default_collate, cache, ["camray"])([sample(1, clip_id=None), sample(2, clip_id=None)])
    assert batch["targets"]["camray"].shape == (2, *cache.shape("camray"))
    assert batch["targets"]["camray"].isnan().all()
    assert batch["valid"]["camray"].tolist() == [False, False]


def test_a_batch_in_which_no_sample_has_a_video(cache: Cache) -> None:
    batch = TargetCollator(default_collate, cache, ["camray"])([sample(1), sample(2)])
    assert batch["targets"]["camray"].shape == (0, *cache.shape("camray"))
    assert batch["valid"]["camray"].shape == (0,)


def test_a_pickled_collator_gives_the_same_batch(cache: Cache) -> None:
    collate = TargetCollator(default_collate, cache, ["camray"], "mask")
    samples = [sample(1, clip_id=cache.committed_ids()[0]), sample(2, clip_id="elsewhere.mp4")]
    first, second = collate(samples), pickle.loads(pickle.dumps(collate))(samples)
    torch.testing.assert_close(first["targets"], second["targets"], equal_nan=True)
    assert second["valid"]["camray"].tolist() == [True, False]


def test_keys_that_are_taken_are_named(cache: Cache) -> None:
    with pytest.raises(BadInput, match="the batch already has targets"):
        TargetCollator(default_collate, cache, ["camray"])([sample(1, targets=torch.zeros(1))])


def test_an_unknown_clip_is_named_unless_such_clips_are_masked(cache: Cache) -> None:
    with pytest.raises(UnknownClip, match="elsewhere"):
        TargetReader(cache, ["camray"])(["elsewhere.mp4"])
    assert TargetReader(cache, ["camray"], "mask")(["elsewhere.mp4"]).valid["camray"].tolist() == [False]


def test_a_failed_clip_is_named_or_masked_and_never_zero(tmp_path: Path, videos: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(videos / "scene-0.mp4", folder)
    (folder / "scene-1.mp4").write_bytes(b"no video")
    job = Jobs(tmp_path, folder).value(tmp_path / "store", signals=["camray"])
    failing = open_cache(run_job(Job.model_validate(job | {"engine": job["engine"] | {"max_failed_share": 1.0}})).store)
    good, bad = failing.clips["clip_id"].to_pylist()
    with pytest.raises(ClipFailed, match="not_a_video"):
        TargetReader(failing, ["camray"])([good, bad])
    targets, valid = TargetReader(failing, ["camray"], "mask")([good, bad])
    assert valid["camray"].tolist() == [True, False]
    assert targets["camray"][1].isnan().all()


def test_joined_stores_and_a_disk_tier_serve_alike(tiny_store: Path, tmp_path: Path) -> None:
    plain = open_cache(str(tiny_store))
    kept = open_cache(str(tiny_store), DiskTier(tmp_path / "disk", 2**26))
    joined = join_caches({"one": plain, "two": kept}, choose={"depth": "two", "camray": "one"})
    samples = [sample(i, clip_id=clip_id) for i, clip_id in enumerate(plain.committed_ids()[:2])]
    expected = TargetCollator(default_collate, plain, ["depth", "camray"])(samples)
    for cache in (kept, joined):
        collate = TargetCollator(default_collate, cache, ["depth", "camray"])
        loader = DataLoader(samples, 2, collate_fn=pickle.loads(pickle.dumps(collate)))
        torch.testing.assert_close(next(iter(loader))["targets"], expected["targets"])
    assert joined.shape("two:flow") == plain.shape("flow")


def video_model() -> torch.nn.Module:
    """A video language model of transformers' own, as small as it goes."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_parameters": rope, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4, "out_hidden_size": 32,
        "window_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, video_token_id=VIDEO_TOKEN, image_token_id=61, vision_start_token_id=62
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def conversations(clip_ids: list[str]) -> list[dict[str, Any]]:
    """One sample a clip, as that model takes them: 16 frames of 16 × 16 in patches of 2 × 4 × 4, four patches to a token."""
    ids = torch.tensor([62, *[VIDEO_TOKEN] * 32, 1, 2, 3])
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "clip_id": clip_id,
            "input_ids": ids,
            "labels": torch.where(ids < VIDEO_TOKEN, ids, -100),
            "mm_token_type_ids": (ids == VIDEO_TOKEN).int() * 2,
            "pixel_values_videos": torch.randn(128, 96, generator=generator),
            "video_grid_thw": torch.tensor([8, 4, 4]),
        }
        for clip_id in clip_ids
    ]


def text(*words: int) -> dict[str, Any]:
    """A sample without a video."""
    ids = torch.tensor(words)
    return {"input_ids": ids, "labels": ids, "mm_token_type_ids": torch.zeros_like(ids, dtype=torch.int)}


def mixed(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Texts beside videos: tokens padded, the pixels of what videos there are."""
    batch = {
        name: pad_sequence([sample[name] for sample in samples], batch_first=True, padding_value=value)
        for name, value in {"input_ids": 0, "labels": -100, "mm_token_type_ids": 0}.items()
    }
    videos = [sample for sample in samples if "video_grid_thw" in sample]
    if videos:
        batch["pixel_values_videos"] = torch.cat([video["pixel_values_videos"] for video in videos])
        batch["video_grid_thw"] = torch.stack([video["video_grid_thw"] for video in videos])
    return batch


def documented_loop(cache: Cache, samples: list[dict[str, Any]], collate: Any) -> tuple[dict[str, Any], list[float]]:
    """What the lines in the package's and the guide's text leave behind, and the total of each step."""
    lines = textwrap.dedent(student_train.__doc__.partition("::\n")[2])
    assert "TargetCollator" in lines
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "train.md").read_text(encoding="utf-8")
    assert lines.strip() in guide
    torch.manual_seed(0)
    model = video_model()
    totals: list[float] = []
    given: dict[str, Any] = {
        "open_cache": open_cache, "P4D": student_train.P4D, "TargetCollator": TargetCollator, "DataLoader": DataLoader,
        "store": cache.url, "hidden_size": 32, "device": "cpu", "model": model, "collate": collate,
        "samples": samples, "grid": GRID, "video_token_id": VIDEO_TOKEN,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "before": [weight.clone() for weight in model.parameters()],
    }  # fmt: skip
    given["optimizer"].register_step_post_hook(lambda *_: totals.append(given["distilled"].total.item()))
    exec(lines, given)
    return given, totals


def test_the_documented_lines_are_a_training_loop(cache: Cache) -> None:
    given, totals = documented_loop(cache, conversations(cache.committed_ids()[:2]) * 2, default_collate)
    assert len(totals) == 2
    assert totals[-1] < totals[0]
    assert sorted(given["distilled"].parts) == ["ed_camray", "ed_depth", "ed_flow", "ed_motion", "ld"]
    changed = [not torch.equal(a, b) for a, b in zip(given["before"], given["model"].parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2


def test_the_documented_lines_take_samples_with_and_without_videos_and_targets(cache: Cache) -> None:
    one, other, without = conversations(cache.committed_ids()[:3])
    without["clip_id"] = None
    batches = [[text(1, 2), one], [without, other], [without, text(3)], [text(1, 2, 3), text(4)]]
    given, totals = documented_loop(cache, [sample for batch in batches for sample in batch], mixed)
    assert [total > 0 for total in totals] == [True, True, False, False]
    assert given["output"].loss.isfinite()


@pytest.mark.parametrize("device", ["as on the CPU", "as on a GPU"])
def test_targets_that_are_read_ahead_are_those_that_are_asked_for(
    tiny_store: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "as on a GPU":  # but for pinned memory and the CUDA stream
        monkeypatch.setattr("student_train.distill.targets.reader_for", DeviceReader)
    cache = open_cache(str(tiny_store))
    targets = TargetReader(cache, ["depth", "camray"])
    a, b, c = cache.committed_ids()[:3]
    batches: list[list[str | None]] = [[a, b], [b, None, a, b], [None], [], [c]]
    ahead = targets.ahead(batches, torch.device("cpu"), lambda found, ids: found._asdict() | {"ids": ids})
    for ids, found in zip(batches, ahead, strict=True):
        if not any(ids):
            assert found == {}
            continue
        expected = targets(ids)
        assert found["ids"] == ids
        torch.testing.assert_close(found["targets"], expected.targets, rtol=1e-6, atol=0, equal_nan=True)
        torch.testing.assert_close(found["valid"], expected.valid)
    ahead.close()
    gone = targets.ahead([[a], ["elsewhere.mp4"]], torch.device("cpu"), lambda found, _: found._asdict())
    assert len(next(gone)["valid"]["depth"]) == 1
    for _ in range(2):
        with pytest.raises(UnknownClip):
            next(gone)
    gone.close()
