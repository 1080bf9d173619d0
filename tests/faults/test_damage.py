"""`verify` finds damage of every kind, names the clips it hits, and a reader never takes it for data."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tree

from schemas.errors import StoreDamaged
from teacher_cache import open_cache
from teacher_cache.verify import verify

DEPTH_0 = "depth/c/0/0/0/0"
CLIPS = ["scene-0.mp4", "scene-1.mp4", "scene-2.mp4", "scene-3.mp4"]


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_store, tmp_path / "store")
    return tmp_path / "store"


def found(store: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.kind, f.key, f.clip_ids) for f in verify(str(store)).findings]


def test_a_whole_store_has_no_findings(tiny_store: Path) -> None:
    report = verify(str(tiny_store))
    assert report.findings == ()
    assert report.objects_checked == 2 * 8  # two shards of f4d and its scale, four maps, two clock arrays
    assert report.clips.committed == 4


def flip_chunk(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 4  # in the first clip's chunk
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "kind", "clips"),
    [
        (flip_chunk, "digest", CLIPS[:1]),
        (cut, "truncated", CLIPS[:2]),
        (Path.unlink, "missing", CLIPS[:2]),
        (lambda p: p.write_bytes(b""), "truncated", CLIPS[:2]),
    ],
)
def test_damage_to_a_shard(store: Path, damage: Callable[[Path], None], kind: str, clips: list[str]) -> None:
    damage(store / DEPTH_0)
    assert found(store) == [(kind, DEPTH_0, tuple(clips))]
    cache = open_cache(str(store))
    with pytest.raises(StoreDamaged):
        cache.read(["depth"], CLIPS[:1])
    assert cache.read(["flow"], CLIPS)["flow"].shape[0] == 4


def test_swapped_shards_are_found(store: Path) -> None:
    other = store / "depth/c/1/0/0/0"
    first, second = (store / DEPTH_0).read_bytes(), other.read_bytes()
    (store / DEPTH_0).write_bytes(second)
    other.write_bytes(first)
    assert {key for _, key, _ in found(store)} == {DEPTH_0, "depth/c/1/0/0/0"}
    assert {clip for _, _, clips in found(store) for clip in clips} == set(CLIPS)


def test_damage_to_the_rest(store: Path) -> None:
    key = "ledger/000000/00000001.0.json"
    entry = store / key
    whole = entry.read_text()
    for damaged in (whole.replace('"row":2', '"row":9'), whole[:50]):
        entry.write_text(damaged)
        assert ("ledger", key, tuple(CLIPS[2:])) in found(store)
    entry.write_text(whole)
    copy = entry.with_name("00000005.0.json")
    shutil.copy(entry, copy)
    assert "copied or renamed" in verify(str(store)).findings[0].detail
    copy.unlink()
    (store / "heads/heads.safetensors").write_bytes(b"other")
    assert [f[:2] for f in found(store)] == [("heads", "heads/heads.safetensors")]
    next(store.glob("catalog/segment-000000-*.parquet")).write_bytes(b"PAR1")
    assert "catalog" in {kind for kind, _, _ in found(store)}


def test_no_flipped_bit_anywhere_in_a_shard_goes_unseen(store: Path) -> None:
    """Random objects, random bits: every one is found."""
    rng = random.Random(3)
    objects = [key for key in tree(store) if "/c/" in key]
    for _ in range(60):
        path = store / rng.choice(objects)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert [key for _, key, _ in found(store)] == [str(path.relative_to(store))]
        path.write_bytes(whole)
