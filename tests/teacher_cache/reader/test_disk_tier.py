"""The disk tier: each thing fetched once, never a wrong byte, never over the bound, never the reason that a read fails."""

from __future__ import annotations

import os
import pickle
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_files import rewrite
from unsafe import unsafe

from schemas.base import sha256_digest
from schemas.errors import BadInput
from teacher_cache import DiskTier, open_cache
from teacher_cache.io.remote import filesystem
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import pack_shard, unpack_shard


class Source:
    """Gives each key bytes of its own, and counts what was asked for."""

    def __init__(self, length: int = 1000) -> None:
        self.length = length
        self.asked: list[str] = []

    def read(self, tier: DiskTier, key: str, store: str = "store") -> bytes:
        def fetch() -> bytes:
            self.asked.append(key)
            return self.content(key)

        return tier.get(store, key, fetch)

    def content(self, key: str) -> bytes:
        return (key.encode() * self.length)[: self.length]


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.glob("store-*/??/*") if path.is_file()]


def test_what_was_fetched_is_read_from_the_disk_by_every_later_tier(tmp_path: Path) -> None:
    source = Source()
    tier = DiskTier(tmp_path, 10**6)
    for reader in (tier, tier, pickle.loads(pickle.dumps(tier)), DiskTier(str(tmp_path), 10**6)):
        assert [source.read(reader, key) for key in "ab"] == [source.content(key) for key in "ab"]
    assert source.asked == ["a", "b"]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_tier_hits_its_share_of_shuffled_epochs_and_rewrites_nothing(tmp_path: Path, share: float) -> None:
    source, tier, order = Source(1000), DiskTier(tmp_path, int(share * 100 * 1004)), random.Random(0)
    keys = list(map(str, range(100)))
    written = None
    for epoch in range(4):
        order.shuffle(keys)
        source.asked.clear()
        assert [source.read(tier, key) for key in keys] == [source.content(key) for key in keys]
        assert len(source.asked) == (100 if epoch == 0 else 100 - int(share * 100))
        now = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept(tmp_path)}
        assert written in (None, now)
        written = now
    assert int((tmp_path / "total").read_text()) == int(share * 100) * 1004


def test_a_store_that_nobody_reads_makes_room_and_one_that_is_read_does_not(tmp_path: Path) -> None:
    source, bound = Source(1000), 10 * 1004
    for key in "abcdefghij":
        source.read(DiskTier(tmp_path, bound), key, "old")
    tier = DiskTier(tmp_path, bound)
    source.read(tier, "k", "new")
    assert len(kept(tmp_path)) == 10  # full, and the old one was read just now
    for used in tmp_path.glob("store-*/used"):
        os.utime(used, (0, 0))
    source.asked.clear()
    source.read(tier, "k", "new")  # which knows it full, and does not ask for a minute
    assert len(kept(tmp_path)) == 10
    assert source.read(DiskTier(tmp_path, bound), "a", "old") == source.content("a")  # marks it as read
    tier = DiskTier(tmp_path, bound)
    source.read(tier, "k", "new")
    assert len(kept(tmp_path)) == 10
    for used in tmp_path.glob("store-*/used"):
        os.utime(used, (0, 0))
    tier = DiskTier(tmp_path, bound)
    assert [source.read(tier, key, "new") for key in "kl"] == [source.content(key) for key in "kl"]
    assert len(kept(tmp_path)) == 2
    assert int((tmp_path / "total").read_text()) == 2 * 1004


def test_a_bound_that_was_lowered_is_kept(tmp_path: Path) -> None:
    source = Source(1000)
    for key in "abcdefghij":
        source.read(DiskTier(tmp_path, 10 * 1004), key)
    source.read(DiskTier(tmp_path, 4 * 1004), "k")
    assert len(kept(tmp_path)) == 4


def test_files_are_written_without_the_lock_and_what_a_killed_process_took_comes_back(tmp_path: Path) -> None:
    source, bound = Source(1000), 2 * 1004
    source.read(DiskTier(tmp_path, bound), "a")
    script = """
import os, sys
from pathlib import Path
from teacher_cache import DiskTier
os.link = lambda *_: (print("written", flush=True), sys.stdin.read())
DiskTier(Path(sys.argv[1]), int(sys.argv[2])).get("store", "slow", lambda: bytes(1000))
"""
    slow = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(bound)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert slow.stdout is not None
    assert slow.stdout.readline() == "written\n"
    source.read(DiskTier(tmp_path, bound), "b")  # waits for nobody, and there is no room
    assert len(kept(tmp_path)) == 1
    slow.kill()
    slow.communicate()
    source.read(DiskTier(tmp_path, bound), "b")
    assert len(kept(tmp_path)) == 2
    assert list((tmp_path / "drafts").iterdir()) == []


@given(asked=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), bound=st.integers(1, 4000))
def test_a_tier_gives_the_right_bytes_within_its_bound(asked: list[tuple[int, bool]], bound: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tier = DiskTier(folder, bound)
        for number, anew in asked:
            tier = DiskTier(folder, bound) if anew else tier
            source = Source(100 * (number + 1))
            assert source.read(tier, str(number)) == source.content(str(number))
            assert sum(path.stat().st_size for path in kept(Path(folder))) <= bound


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:0], lambda b: b[:500] + b"?" + b[501:], lambda b: b + b"1"])
def test_a_damaged_file_is_fetched_again(tmp_path: Path, damage) -> None:
    source, tier = Source(), DiskTier(tmp_path, 10**6)
    source.read(tier, "a")
    (path,) = kept(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert source.read(tier, "a") == source.content("a")
    assert source.asked == ["a", "a"]


def test_the_bound_holds_where_a_crash_left_damage_and_no_count(tmp_path: Path) -> None:
    source = Source()
    for key in range(9):
        source.read(DiskTier(tmp_path, 10**4), str(key))
    (tmp_path / "total").write_bytes(b"")
    kept(tmp_path)[0].write_bytes(b"")
    tier = DiskTier(tmp_path, 10**4)
    for key in range(40):
        source.read(tier, str(key))
        assert sum(path.stat().st_size for path in kept(tmp_path)) <= 10**4


def test_threads_wait_for_a_fetch_and_share_its_error(tmp_path: Path) -> None:
    tier, asked, begun, go = DiskTier(tmp_path, 10**6), [], threading.Event(), threading.Event()

    def fetch() -> bytes:
        asked.append(1)
        begun.set()
        go.wait(10)
        if len(asked) == 1:
            raise OSError("the store is away")
        return b"bytes"

    def read(_: int) -> bytes | str:
        try:
            return tier.get("store", "key", fetch)
        except OSError as error:
            return str(error)

    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(read, 0)
        begun.wait(10)
        others = [threads.submit(read, i) for i in range(7)]
        while any(not other.running() for other in others):
            pass
        go.set()
        answers = [first.result(), *(other.result() for other in others)]
        # Whoever came while the first fetch was under way has its error; a thread that was late has a fetch of its own.
        assert answers[0] == "the store is away"
        assert set(answers) <= {"the store is away", b"bytes"}
        assert len(asked) <= 2
        assert set(threads.map(read, range(8))) == {b"bytes"}
    assert len(asked) == 2


_HAMMER = """
import random, sys
from pathlib import Path
from teacher_cache import DiskTier
folder, seed, bound = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
tier, random = DiskTier(folder, bound), random.Random(seed)
print("ready", flush=True)
for _ in range(int(sys.argv[4])):
    number = random.randrange(40)
    content = (b"%d," % number) * 2000
    assert tier.get("store", str(number), lambda: content) == content
"""


def test_processes_share_a_folder_and_may_be_killed(tmp_path: Path) -> None:
    bound = 60_000

    def hammer(seed: int, rounds: int) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", _HAMMER, str(tmp_path), str(seed), str(bound), str(rounds)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    endless, *others = hammer(0, 10**9), hammer(1, 1000), hammer(2, 1000)
    for process in (endless, *others):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    endless.kill()
    for process in (endless, *others):
        process.communicate()
    assert [process.returncode for process in others] == [0, 0]
    assert 0 < sum(path.stat().st_size for path in kept(tmp_path)) <= bound
    source, bound = Source(2000), bound + 10**6
    source.read(DiskTier(tmp_path, bound), "more")
    sizes = sum(path.stat().st_size for path in kept(tmp_path))
    assert sizes <= int((tmp_path / "total").read_text()) <= sizes + 3 * 7000  # what the killed one may have taken


@pytest.mark.parametrize("trouble", ["full", "not a folder"])
def test_a_disk_that_cannot_be_written_costs_a_warning_and_no_read(tmp_path: Path, trouble: str) -> None:
    source, folder = Source(), tmp_path / "tier"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if trouble == "full":
        source.read(DiskTier(folder, 10**6), "a")
    else:
        folder.write_text("a file")
    tier = DiskTier(folder, 10**6)
    try:
        if trouble == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # no file may become as long as these
        with pytest.warns(RuntimeWarning, match="cannot be written") as warned:
            assert [source.read(tier, key) for key in "abcb"] == [source.content(key) for key in "abcb"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warned) == 1
    assert source.asked == ["a", "b", "c", "b"]


def test_a_bound_that_holds_nothing_is_refused_and_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="0 bytes holds nothing"):
        DiskTier(tmp_path, 0)
    source, tier = Source(1000), DiskTier(tmp_path, 1003)
    for _ in range(2):
        source.read(tier, "a")
    assert source.asked == ["a", "a"]


def test_what_a_tier_keeps_is_this_user_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "tier"
    Source().read(DiskTier(folder, 10**6), "a")
    made = [folder, *folder.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700, 0o600}
    assert all(stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600) for path in made)


UNSAFE = unsafe(folder=0o770, file=0o660)


@pytest.mark.parametrize("told", UNSAFE)
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, told: str) -> None:
    folder = tmp_path / "tier"
    source, tier = Source(), DiskTier(folder, 10**6)
    source.read(tier, "a")
    UNSAFE[told](folder)
    with pytest.raises(BadInput, match=f"{told}.*take others' rights from it"):
        DiskTier(folder, 10**6)
    with pytest.warns(RuntimeWarning, match=told):  # a tier that was open before
        assert source.read(tier, "b") == source.content("b")
    assert len(kept(folder)) == 1


@pytest.mark.parametrize("told", UNSAFE)
def test_a_file_that_is_not_this_user_s_alone_is_not_read(tmp_path: Path, told: str) -> None:
    source, tier = Source(), DiskTier(tmp_path, 10**6)
    source.read(tier, "a")
    (path,) = kept(tmp_path)
    UNSAFE[told](path)
    for _ in range(2):
        assert source.read(tier, "a") == source.content("a")
    assert source.asked == ["a", "a"]  # and in its place lies one that is


def test_a_file_in_another_s_place_is_fetched_again(tmp_path: Path) -> None:
    source, tier = Source(), DiskTier(tmp_path, 10**6)
    for key in "ab":
        source.read(tier, key)
    first, second = kept(tmp_path)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert [source.read(tier, key) for key in "ab"] == [source.content(key) for key in "ab"]
    assert sorted(source.asked) == ["a", "a", "b", "b"]


def test_a_copy_with_swapped_chunks_does_not_poison_its_original(tiny_store: Path, tmp_path: Path) -> None:
    """Though it stands at the same address, and its log begins the same way: its shard has another digest."""
    here, tier = tmp_path / "store", DiskTier(tmp_path / "tier", 10**9)
    shutil.copytree(tiny_store, here)
    ids = open_cache(str(here)).committed_ids()
    honest = open_cache(str(here)).read(["depth"], ids)["depth"]
    path = next(here.glob("depth/c/0/0/0/0"))
    data = path.read_bytes()
    chunks = unpack_shard(data, 2 * 4)
    path.write_bytes(pack_shard({(number + 4) % 8: chunk for number, chunk in chunks.items()}, 2 * 4))
    digest = sha256_digest(path.read_bytes())
    rewrite(here, lambda unit: unit["objects"]["depth/c/0/0/0/0"].update(digest=digest), shard=0)
    swapped = open_cache(str(here), tier).read(["depth"], ids)["depth"]
    assert not np.array_equal(swapped, honest)
    shutil.rmtree(here)
    shutil.copytree(tiny_store, here)
    np.testing.assert_array_equal(open_cache(str(here), tier).read(["depth"], ids)["depth"], honest)


def test_the_second_epoch_reads_nothing_from_the_store(tiny_store: Path, s3: str, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    store = f"{s3}/store"
    fs, _ = filesystem(store)
    fs.put(str(tiny_store), store, recursive=True)
    signals = ["f4d", "depth", "flow", "motion", "camray"]
    disk = DiskTier(tmp_path / "tier", 10**9)
    cache = open_cache(store, disk)
    first = cache.read(signals, cache.committed_ids())
    fs.rm(fs.glob(f"{store}/*/c"), recursive=True)
    assert Objects(store).listing("f4d/c/") == {}
    for again in (cache, open_cache(store, disk), pickle.loads(pickle.dumps(cache))):
        for name, values in again.read(signals, cache.committed_ids()).items():
            np.testing.assert_array_equal(values, first[name])
    dataset = cache.dataset(["depth"], seed=None)
    (batch,) = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    np.testing.assert_array_equal(batch["depth"].numpy(), first["depth"])
