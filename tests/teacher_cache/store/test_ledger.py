"""The ledger: each part of a shard is committed once, whoever commits it and whenever a volume is closed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StoreDamaged
from schemas.ledger import PARTS, LedgerEntry, PartName, Retirement, RowOutcome, StoredObject, Unit
from teacher_cache.store.layout import closed_key, entry_key
from teacher_cache.store.ledger import (
    COMMITTED,
    FAILED,
    PENDING,
    RETIRED,
    Journal,
    Ledger,
    LedgerReader,
    close_volume,
    committed_texts,
    mend,
    read_entry,
    read_ledger,
    read_volumes,
    record_retirement,
)
from teacher_cache.store.objects import Objects
from teacher_cache.store.records import seal

PER_SHARD = 3
ROWS = np.arange(40)


def entry(shard: int, parts: Sequence[PartName], failed: Sequence[int] = (), writer: int = 0) -> LedgerEntry:
    """A unit's entry; rows of ``failed`` places failed."""
    rows = tuple(
        RowOutcome(row=row, clip_id=f"c{row}", status="failed", reason="decode_error", detail=f"by {writer}")
        if place in failed
        else RowOutcome(row=row, clip_id=f"c{row}", status="committed")
        for place, row in enumerate(range(shard * PER_SHARD, (shard + 1) * PER_SHARD))
    )
    names = ["timestamps" if part == "clock" else part for part in parts]
    objects = {f"{name}/c/{shard}/0": StoredObject(digest="sha256:0", length=100 + shard) for name in names}
    ordered = tuple(part for part in PARTS if part in parts)
    return LedgerEntry(unit=Unit(shard=shard, parts=ordered), fingerprint="f", objects=objects, rows=rows)


def committed_once(objects: Objects) -> dict[tuple[str, int], LedgerEntry]:
    """(part, shard) → the one entry that commits it."""
    found: dict[tuple[str, int], LedgerEntry] = {}
    for texts in committed_texts(objects, read_volumes(objects)):
        for key, data in texts.items():
            read = read_entry(key, data, objects.url)
            for part in read.unit.parts:
                assert (part, read.unit.shard) not in found
                found[part, read.unit.shard] = read
    return found


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory, where the system has such: a hundred small stores wait for the disk at each of their files."""
    folder = Path("/dev/shm")
    with TemporaryDirectory(dir=folder if folder.is_dir() else None) as made:
        yield Path(made)


ENTRIES = st.lists(
    st.tuples(st.integers(0, 9), st.sets(st.sampled_from(PARTS), min_size=1), st.sets(st.integers(0, PER_SHARD - 1))),
    max_size=12,
)


@given(ENTRIES, st.sets(st.integers(0, 12)), st.sets(st.integers(0, 29), max_size=3))
def test_state_says_what_the_entries_say(
    memory: Path,
    units: list[tuple[int, set[PartName], set[int]]],
    closings: set[int],
    retired: set[int],
) -> None:
    """Whether a volume is bound or not, the arrays are those of a plain walk over the entries that were committed."""
    objects = Objects(mkdtemp(dir=memory))
    journal = Journal(objects, since=0)
    status: dict[tuple[str, int], int] = {}
    for number, (shard, parts, failed) in enumerate(units):
        new = {part for part in parts if (part, shard * PER_SHARD) not in status}
        assert journal.commit(entry(shard, sorted(parts), sorted(failed))) == bool(new)
        for part in new:
            for place in range(PER_SHARD):
                status[part, shard * PER_SHARD + place] = FAILED if place in failed else COMMITTED
        if number in closings and read_volumes(objects).unbound:
            close_volume(objects, read_volumes(objects).open)
            break
    if retired:
        clips = tuple(f"c{row}" for row in sorted(retired))
        record_retirement(objects, Retirement(rows=tuple(sorted(retired)), clip_ids=clips, found={}))
    ledger = read_ledger(objects)
    for part in PARTS:
        expected = [RETIRED if row in retired else status.get((part, row), PENDING) for row in ROWS.tolist()]
        assert ledger.status(ROWS, [part]).tolist() == expected
        done = [(part, shard * PER_SHARD) in status for shard in range(10)]
        assert ledger.is_done(part, np.arange(10)).astype(bool).tolist() == done
        name = "timestamps" if part == "clock" else part
        assert [ledger.shard_length(name, s) for s in range(10)] == [100 + s if d else 0 for s, d in enumerate(done)]
    for row in ROWS.tolist():
        by_part = [status.get((part, row), PENDING) for part in PARTS]
        over_all = FAILED if FAILED in by_part else min(by_part)
        assert ledger.status(np.array([row]), PARTS)[0] == (RETIRED if row in retired else over_all)
        assert (ledger.failure(row, PARTS) is not None) == (FAILED in by_part)


def test_two_writers_with_other_parts(tmp_path: Path) -> None:
    """A late writer of fewer parts, and one of more: what is there stands, and only what is missing is added."""
    objects = Objects(str(tmp_path))
    first, second = Journal(objects, since=0), Journal(objects, since=0)
    assert first.commit(entry(0, ["clock", "depth"], writer=1))
    assert second.commit(entry(0, ["clock", "depth", "flow"], failed=[1], writer=2))
    assert not first.commit(entry(0, ["depth", "flow"], writer=1))
    found = committed_once(objects)
    assert set(found) == {("clock", 0), ("depth", 0), ("flow", 0)}
    assert list(found["flow", 0].objects) == ["flow/c/0/0"]
    assert read_ledger(objects).status(np.arange(3), ["depth"]).tolist() == [COMMITTED] * 3
    assert read_ledger(objects).status(np.arange(3), ["flow"]).tolist() == [COMMITTED, FAILED, COMMITTED]


def test_a_writer_believed_dead_comes_after_the_volume_was_bound(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    late, later = Journal(objects, since=0), Journal(objects, since=0)
    assert Journal(objects, since=0).commit(entry(0, ["depth"]))
    close_volume(objects, 0)
    assert read_volumes(objects).open == 1
    assert not late.commit(entry(0, ["depth"]))  # done by another: nothing changes
    assert later.commit(entry(1, ["depth"]))  # not done: the next volume takes it
    for shard in (0, 1):
        anew = Journal(objects, since=0)  # of a run that planned before all this
        assert not anew.commit(entry(shard, ["depth"]))
    assert set(committed_once(objects)) == {("depth", 0), ("depth", 1)}
    assert (tmp_path / entry_key(1, 1, 0)).exists()


def test_an_entry_that_came_after_its_volume_was_bound_counts_for_nothing(tmp_path: Path) -> None:
    """As of a writer that was stopped between looking whether the volume is open and creating its entry there."""
    objects = Objects(str(tmp_path))
    assert Journal(objects, since=0).commit(entry(0, ["depth"]))
    close_volume(objects, 0)
    objects.create(entry_key(0, 1, 0), seal(entry(1, ["depth"])))
    assert set(committed_once(objects)) == {("depth", 0)}
    assert read_ledger(objects).status(np.arange(6), ["depth"]).tolist() == [COMMITTED] * 3 + [PENDING] * 3
    assert Journal(objects, since=0).commit(entry(1, ["depth"]))
    assert set(committed_once(objects)) == {("depth", 0), ("depth", 1)}


def test_writers_at_once_while_volumes_are_closed(tmp_path: Path) -> None:
    """Five writers with all shards each, in other orders and for other parts; every few commits somebody closes the volume."""
    objects, shards = Objects(str(tmp_path)), range(12)
    wanted: list[Sequence[PartName]] = [
        ("clock", "depth"),
        ("depth", "flow"),
        ("clock", "depth", "flow"),
        ("flow",),
        ("clock",),
    ]

    def write(writer: int) -> int:
        journal, rng, made = Journal(objects, since=0), random.Random(writer), 0
        for shard in rng.sample(shards, 6):
            journal.standing(shard)  # as before a unit is taught; out of date by the time that it is committed
        for shard in rng.sample(shards, len(shards)):
            made += journal.commit(entry(shard, wanted[writer], writer=writer))
            if rng.random() < 0.15 and read_volumes(objects).unbound:
                close_volume(objects, read_volumes(objects).open)
        return made

    with ThreadPoolExecutor(len(wanted)) as threads:
        assert sum(threads.map(write, range(len(wanted)))) > 0
    assert set(committed_once(objects)) == {(part, shard) for part in ("clock", "depth", "flow") for shard in shards}
    assert len(read_volumes(objects).bound) > 1
    ledger = read_ledger(objects)
    assert (ledger.status(np.arange(36), ["clock", "depth", "flow"]) == COMMITTED).all()


class Watched(Objects):
    """Keeps the keys that were read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: list[str] = []

    def get(self, key: str) -> bytes | None:
        self.read.append(key)
        return super().get(key)


def test_writers_wait_for_the_one_who_folds_a_volume(tmp_path: Path) -> None:
    """None of them reads the volume's entries, which at a thousand writers are four million requests."""
    objects = Objects(str(tmp_path))
    for shard in range(80):
        assert Journal(objects, since=0).commit(entry(shard, ["depth"]))
    objects.create(closed_key(0), b"{}")
    writers = [Watched(str(tmp_path)) for _ in range(6)]
    with ThreadPoolExecutor(len(writers)) as threads:
        looks = [threads.submit(Journal(writer, since=0).standing, 100) for writer in writers]
        time.sleep(0.3)
        assert not any(look.done() for look in looks)
        close_volume(objects, 0)
        assert [look.result() for look in looks] == [[]] * 6
    entries = {entry_key(0, shard, 0) for shard in range(80)}
    assert not any(entries & set(writer.read) for writer in writers)


def test_a_volume_whose_folder_died_is_folded_by_a_writer(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    for shard in range(3):
        assert Journal(objects, since=0).commit(entry(shard, ["depth"]))
    objects.create(closed_key(0), b"{}")
    with ThreadPoolExecutor(4) as threads:
        assert not any(threads.map(lambda shard: Journal(objects, since=0).commit(entry(shard, ["depth"])), range(3)))
    assert read_volumes(objects).bound[0].entries == 3


def test_what_is_damaged_of_a_bound_volume_is_bound_again(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    for shard in range(5):
        assert Journal(objects, since=0).commit(entry(shard, ["depth"]))
    close_volume(objects, 0)
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path, data in whole.items():
        path.write_bytes(data[: len(data) // 2])
        if path.name.startswith("volume") and "entries" not in path.name:
            with pytest.raises(StoreDamaged):
                read_ledger(objects)
        mend(objects)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == whole, path.name
    assert read_ledger(objects).status(np.arange(15), ["depth"]).tolist() == [COMMITTED] * 15


def test_an_entry_that_is_not_as_it_was_written(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    Journal(objects, since=0).commit(entry(4, ["depth"]))
    path = tmp_path / entry_key(0, 4, 0)
    path.write_bytes(path.read_bytes().replace(b'"row":13', b'"row":12'))
    with pytest.raises(StoreDamaged, match=r"digest does not match.*--repair"):
        read_ledger(objects)
    path.write_bytes(seal(entry(3, ["depth"])))
    with pytest.raises(StoreDamaged, match="another shard"):
        read_ledger(objects)


def test_nothing_is_committed_in_an_empty_ledger(tmp_path: Path) -> None:
    ledger = read_ledger(Objects(str(tmp_path)))
    assert ledger.status(ROWS, PARTS).tolist() == [PENDING] * len(ROWS)
    assert Ledger().status(ROWS, ()).tolist() == [PENDING] * len(ROWS)
    assert closed_key(0) == "ledger/000000/closed.json"


class Counted(Objects):
    """Objects that keep what was asked of them."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.listed: list[str] = []
        self.fetched: list[str] = []

    def level(self, prefix: str = "") -> dict[str, bool]:
        self.listed.append(prefix)
        return super().level(prefix)

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        self.fetched += keys
        return super().get_many(keys)


STEP = st.one_of(
    st.tuples(st.just("commit"), st.integers(0, 9), st.sets(st.sampled_from(PARTS), min_size=1)),
    st.tuples(st.just("close"), st.none(), st.none()),
    st.tuples(st.just("retire"), st.integers(0, 29), st.none()),
)


@settings(max_examples=40)
@given(st.lists(STEP, max_size=14))
def test_a_reader_that_goes_on_knows_what_a_new_one_finds(memory: Path, steps: list[tuple[str, int, set[PartName]]]) -> None:
    objects = Counted(mkdtemp(dir=memory))
    journal, reader = Journal(Objects(objects.url), since=0), LedgerReader(objects)
    fetched: list[str] = []
    for what, number, parts in steps:
        if what == "commit":
            journal.commit(entry(number, sorted(parts), failed=[0]))
        elif what == "retire":
            record_retirement(Objects(objects.url), Retirement(rows=(number,), clip_ids=(f"c{number}",), found={}))
        elif read_volumes(Objects(objects.url)).unbound:
            close_volume(Objects(objects.url), read_volumes(Objects(objects.url)).open)
        objects.listed.clear()
        objects.fetched.clear()
        mine, anew = reader.read(), read_ledger(Objects(objects.url))
        assert len(objects.listed) <= 2
        fetched += objects.fetched
        for part in PARTS:
            assert mine.status(ROWS, [part]).tolist() == anew.status(ROWS, [part]).tolist()
            assert mine.is_done(part, np.arange(10)).tolist() == anew.is_done(part, np.arange(10)).tolist()
        assert [mine.bytes_of(name) for name in mine.arrays()] == [anew.bytes_of(name) for name in anew.arrays()]
        assert [mine.failure(row, PARTS) for row in ROWS.tolist()] == [anew.failure(row, PARTS) for row in ROWS.tolist()]
        assert (mine.open_volume, mine.open_entries) == (anew.open_volume, anew.open_entries)
    assert len(fetched) == len(set(fetched))  # nothing is fetched twice


def test_a_reader_that_could_not_read_reads_it_the_next_time(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    reader = LedgerReader(objects)
    reader.read()
    for shard in range(2):
        Journal(objects, since=0).commit(entry(shard, ["depth"]))
    close_volume(objects, 0)
    table = next(tmp_path.glob("ledger/volume-*-state*"))
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    with pytest.raises(StoreDamaged):
        reader.read()
    table.write_bytes(whole)
    assert reader.read().status(np.arange(6), ["depth"]).tolist() == [COMMITTED] * 6
