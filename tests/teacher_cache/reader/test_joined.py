"""Two teachers' stores of the same videos, read as one; stores of other frames or videos are refused by name."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Jobs
from log_files import forget, rewrite
from torch.utils.data import DataLoader

from schemas.errors import BadInput, ClipFailed, ClipPending, JoinRefused, SignalMissing, UnknownClip, ViewRefused
from schemas.job import Job
from schemas.storage import Requests
from schemas.view import Crop, View
from teacher_cache import Cache, JoinedCache, join_caches, open_cache
from teacher_cache.jobs.run import run_job

Teach = Callable[..., Cache]


@pytest.fixture(scope="module")
def teach(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Teach:
    """Opens a store of the four videos, made with these changes to the tiny teacher's job."""
    folder = tmp_path_factory.mktemp("joined")

    def store(name: str, **changes: Any) -> Cache:
        run_job(Job.model_validate(Jobs(folder, videos).value(folder / name, **changes)))
        return open_cache(str(folder / name))

    return store


@pytest.fixture(scope="module")
def latents(teach: Teach) -> Cache:
    return teach("latents", signals=["f4d"])


@pytest.fixture(scope="module")
def maps(teach: Teach) -> Cache:
    return teach("maps", signals=["depth", "flow"])


@pytest.fixture(scope="module")
def exact(teach: Teach) -> Cache:
    return teach("exact", signals=["flow", "camray"], encoding="exact")


@pytest.fixture(scope="module")
def classical(teach: Teach) -> Cache:
    return teach("classical", teacher={"family": "classical", "preset": "px224"}, signals=["flow", "motion"])


@pytest.fixture(scope="module")
def joined(latents: Cache, classical: Cache) -> JoinedCache:
    return join_caches({"l4p": latents, "classical": classical})


def test_a_signal_comes_from_the_store_that_has_it(joined: JoinedCache, latents: Cache, classical: Cache) -> None:
    assert joined.signals == ("f4d", "flow", "motion")
    ids = joined.committed_ids()[::-1]
    assert sorted(ids) == sorted(latents.committed_ids())
    read = joined.read(["motion", "f4d", "classical:flow", "timestamps"], ids)
    assert list(read) == ["motion", "f4d", "classical:flow", "timestamps"]
    np.testing.assert_array_equal(read["f4d"], latents.read(["f4d"], ids)["f4d"])
    there = classical.read(["flow", "motion", "timestamps"], ids)
    for name in ("motion", "timestamps"):
        np.testing.assert_array_equal(read[name], there[name])
    np.testing.assert_array_equal(read["classical:flow"], there["flow"])
    assert joined.size == 224
    assert joined.clip(ids[0]).video == latents.clip(ids[0]).video


def test_a_join_streams_and_reads_what_is_stored_as_one_store_does(joined: JoinedCache) -> None:
    names = ["motion", "f4d", "classical:flow", "frame_index"]
    ids = joined.committed_ids()[::-1]
    read = joined.read(names, ids)
    stored = joined.read_stored(names, ids)
    (batch,) = joined.stream(names, [ids])
    (loaded,) = DataLoader(joined.stored_dataset(names), sampler=[ids], batch_size=None)
    for found in (stored.decode(), batch, loaded.decode()):
        for name, values in read.items():
            torch.testing.assert_close(found[name], torch.from_numpy(values), rtol=1e-6, atol=0)
    stream = joined.stream(["motion"], joined.dataset(["motion"]).batches(2))
    assert stream.state_dict()["store_version"] == {name: cache.version for name, cache in joined.caches.items()}
    for refused in (joined.stream, joined.stored_dataset):
        with pytest.raises(SignalMissing):
            refused(["depth"], [])  # type: ignore[operator]
    with pytest.raises(UnknownClip, match="latents"):
        joined.read_stored(["motion"], ["scene-9.mp4"])
    with pytest.raises(BadInput, match="sampled uniform; only `dense`"):
        joined.read_video(["motion"], "scene-0.mp4")


def test_a_join_asks_for_chunks_alone(joined: JoinedCache) -> None:
    """Rows are found by keys in memory: the catalog's texts are not read for each clip."""
    copy = pickle.loads(pickle.dumps(joined))
    first, second = copy.committed_ids()[:2]
    copy.read(["f4d", "motion"], [first])
    stores = [cache._store.objects for cache in copy.caches.values()]
    for objects in stores:
        objects.take_requests()
    copy.read(["f4d", "motion"], [second])
    assert [objects.take_requests() for objects in stores] == [Requests(get=1)] * 2  # its chunk; the shard's index is known


def test_a_signal_of_several_stores_must_be_chosen(maps: Cache, exact: Cache) -> None:
    stores = {"fine": maps, "exact": exact}
    both, ids = join_caches(stores), maps.committed_ids()
    assert both.signals == ("depth", "fine:flow", "exact:flow", "camray")
    with pytest.raises(
        SignalMissing, match=r"'flow' is in fine \(.*maps\) and exact \(.*exact\); ask for fine:flow or exact:f"
    ):
        both.read(["flow"], ids)
    with pytest.raises(SignalMissing, match="choose="):
        both.dataset(["depth", "flow"])
    read = both.read(["fine:flow", "exact:flow"], ids)
    assert 0 < np.abs(read["fine:flow"] - read["exact:flow"]).max() <= 1 / 32
    chosen = join_caches(stores, choose={"flow": "exact"})
    assert chosen.signals == ("depth", "flow", "fine:flow", "exact:flow", "camray")
    np.testing.assert_array_equal(chosen.read(["flow"], ids)["flow"], read["exact:flow"])
    view = View(crop=Crop(top=14, left=28, height=56, width=42), flip=True)
    for name, values in chosen.read(["depth", "camray"], ids, view=view).items():
        home = maps if name == "depth" else exact
        np.testing.assert_array_equal(values, home.read([name], ids, view=view)[name])


def test_what_no_store_has_and_names_that_mean_nothing_are_said(joined: JoinedCache, maps: Cache) -> None:
    with pytest.raises(
        SignalMissing, match=r"'depth' is in no store: l4p \(.*\) holds f4d; classical \(.*\) holds flow, motion"
    ):
        joined.read(["depth"], [])
    with pytest.raises(SignalMissing, match="'l4p:flow' is in no store"):
        joined.dataset(["l4p:flow"])
    with pytest.raises(UnknownClip, match=r"latents has no clip 'scene-9.mp4'"):
        joined.read(["flow"], ["scene-9.mp4"])
    with pytest.raises(ViewRefused):
        joined.read(["f4d"], joined.committed_ids(), view=View(flip=True))
    with pytest.raises(BadInput, match="choose takes 'camray' from 'a', which does not hold it; it is in none"):
        join_caches({"a": maps}, choose={"camray": "a"})
    with pytest.raises(BadInput, match="without a colon"):
        join_caches({"a:b": maps})


def test_a_dataset_and_a_student_take_what_is_joined(joined: JoinedCache) -> None:
    from schemas.train import DataConfig
    from student_train import P4D, TargetReader
    from student_train.data.samples import load_samples

    copy = pickle.loads(pickle.dumps(joined))
    dataset = copy.dataset(["f4d", "flow"], seed=2)
    (batch,) = dataset.batches(4)
    items = dataset.__getitems__(batch)
    expected = joined.read(["f4d", "flow"], [str(item["clip_id"]) for item in items])
    for name, values in expected.items():
        np.testing.assert_array_equal(np.stack([item[name] for item in items]), values)
    ids = joined.committed_ids()
    targets, _ = TargetReader(joined, ["flow"])([ids[1], ids[0], ids[1]])
    np.testing.assert_array_equal(targets["flow"].numpy(), joined.read(["flow"], [ids[1], ids[0], ids[1]])["flow"])
    assert [sample.clip_id for sample in load_samples(joined, DataConfig(video_root=("/",))).samples] == ids
    assert P4D.for_store(joined, hidden_size=8, mode="latent").signals == ("f4d",)
    heads = joined.heads()
    assert heads is not None
    assert tuple(heads.card.f4d) == expected["f4d"].shape[1:]


def changed(cache: Cache, folder: Path, change: Callable[[dict[str, Any]], None] | None) -> Cache:
    """A copy of a store whose log says something else of the first shard, or nothing."""
    copy = shutil.copytree(cache.url, folder / "copy")
    rewrite(copy, change or forget, shard=0)
    return open_cache(str(copy))


def test_a_clip_has_the_worst_of_its_statuses_and_the_store_that_it_is_of(
    latents: Cache, classical: Cache, tmp_path: Path
) -> None:
    def fail(unit: dict[str, Any]) -> None:
        unit["failed"].append({"row": 0, "reason": "decode_timeout", "detail": "after 60 s"})

    partly = changed(classical, tmp_path, fail)
    for stores in ({"a": latents, "b": partly}, {"b": partly, "a": latents}):
        both = join_caches(stores)
        rows = {row["clip_id"]: (row["status"], row["reason"], row["store"]) for row in both.clips.to_pylist()}
        assert rows["scene-0.mp4"] == ("failed", "decode_timeout", "b")
        assert rows["scene-1.mp4"] == ("committed", None, None)
        assert both.committed_ids() == ["scene-1.mp4", "scene-2.mp4", "scene-3.mp4"]
        with pytest.raises(ClipFailed, match=r"decode_timeout \(after 60 s\), in the store .*copy"):
            both.read(["f4d", "flow"], ["scene-0.mp4"])


def test_a_clip_of_which_fewer_frames_decoded_for_one_store_has_failed_there(
    latents: Cache, classical: Cache, tmp_path: Path
) -> None:
    """Another decoder, or another version of one, reaches further into a damaged video: the clips' frames are not the same."""

    def cut(unit: dict[str, Any]) -> None:
        unit["undecodable_tail_frames"] = {"3": [1]}

    shorter = changed(classical, tmp_path, cut)
    for stores in ({"a": latents, "b": shorter}, {"b": shorter, "a": latents}):
        both = join_caches(stores)
        row = both.clips.to_pylist()[1]
        assert (row["clip_id"], row["status"], row["reason"], row["store"]) == ("scene-1.mp4", "failed", "decode_error", "b")
        assert "3 frames at its end did not decode for this store, and 0 for another" in row["detail"]
        assert both.committed_ids() == ["scene-0.mp4", "scene-2.mp4", "scene-3.mp4"]
        for name in ("f4d", "flow"):
            with pytest.raises(ClipFailed, match=r"3 frames at its end .*, in the store .*copy"):
                both.read([name], ["scene-1.mp4"])
    with pytest.raises(ClipFailed, match="3 frames at its end"):
        pickle.loads(pickle.dumps(both)).read(["f4d"], ["scene-1.mp4"])
    alone = join_caches({"b": shorter})
    assert len(alone.committed_ids()) == 4


def test_a_clip_that_one_store_has_yet_to_commit_is_pending(latents: Cache, classical: Cache, tmp_path: Path) -> None:
    both = join_caches({"a": latents, "b": changed(classical, tmp_path, None)})
    assert both.committed_ids() == ["scene-2.mp4", "scene-3.mp4"]
    with pytest.raises(ClipPending, match="copy"):
        both.read(["flow"], ["scene-0.mp4"])


def test_clips_that_a_store_lacks_are_left_out_or_refused(latents: Cache, teach: Teach, videos: Path) -> None:
    fewer = teach("fewer", videos={"glob": f"{videos}/scene-[12].mp4"}, signals=["depth"])
    both = join_caches({"a": latents, "b": fewer})
    assert both.committed_ids() == ["scene-1.mp4", "scene-2.mp4"]
    with pytest.raises(UnknownClip, match=r"fewer has no clip 'scene-0.mp4'"):
        both.read(["f4d"], ["scene-0.mp4"])
    with pytest.raises(JoinRefused, match=r"b \(.*fewer\) lacks 2 clips of a \(.*latents\), such as 'scene-0.mp4'"):
        join_caches({"a": latents, "b": fewer}, clips="same")


def test_stores_of_other_frames_are_refused(latents: Cache, maps: Cache, classical: Cache, teach: Teach, videos: Path) -> None:
    one = {"glob": f"{videos}/scene-0.mp4"}
    dense = teach("dense", videos=one, clips={"sampling": "dense"}, signals=["camray"])
    with pytest.raises(JoinRefused, match=r"clips.sampling is 'uniform' in a \(.*latents\), 'dense' in b"):
        join_caches({"a": latents, "b": dense})
    with pytest.raises(JoinRefused, match=r"clips.size is 112 in a \(.*maps\), 224 in b \(.*classical\)"):
        join_caches({"a": maps, "b": classical, "c": latents})


def test_stores_of_other_videos_are_refused(latents: Cache, teach: Teach, videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "scene-0.mp4", tmp_path / "scene-2.mp4")
    again = teach("again", videos={"glob": f"{tmp_path}/*.mp4"}, signals=["depth"])
    with pytest.raises(
        JoinRefused, match=r"1 clips are not the same.*content_digest of 'scene-2.mp4' is '.*' in a .* and '.*' in b"
    ):
        join_caches({"a": latents, "b": again})
