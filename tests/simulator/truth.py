"""What a store holds in; what no store may hold found out, without the code that reads logs.

Only the bytes of a shard are read by the real code, which has tests of its own against other readers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from simulator.memory_store import MemoryStore
from simulator.real_store import SHAPES, RealStore, once, recipe_of, values_of

from schemas.log import PARTS
from schemas.signal import SIGNALS
from teacher_cache.encodings.registry import encoding
from teacher_cache.store.chunk import clip_buffer, decode_chunks
from teacher_cache.store.layout import checkpoint_version, stored_arrays
from teacher_cache.store.log import Log, checkpoint_file, read_checkpoint
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import unpack_clips

_FAR = 0.01
"""Relative. Values of two runs, and those of encodings, are nearer to each other; those of two clips are further apart."""


@dataclass(frozen=True)
class Unit:
    """What is committed of one part of a shard."""

    rows: range
    failed: dict[int, str]
    """Row → reason."""
    exact: frozenset[int]
    objects: dict[str, tuple[str, int]]
    """Key → (digest, length)."""


@dataclass(frozen=True)
class Said:
    """What a log says."""

    clips_per_shard: int
    chain: str = ""
    """Digest of all records."""
    tip: str | None = ""
    """Digest of the last one; None where it replaces one that was lost."""
    version: int = -1
    units: dict[tuple[str, int], Unit] = field(default_factory=dict)
    """(part, shard) → what is committed of it."""
    clips: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Row → its clip, and the number that the clip's frames show."""
    current: dict[str, int] = field(default_factory=dict)
    """Clip → row."""
    parts: frozenset[str] = frozenset()
    retired: frozenset[int] = frozenset()
    announced: frozenset[str] = frozenset()

    def outcome(self, row: int) -> str:
        """``committed``, ``pending``, ``retired``, or why the row failed."""
        if row in self.retired:
            return "retired"
        units = [self.units.get((part, row // self.clips_per_shard)) for part in PARTS if part in self.parts]
        failed = [unit.failed[row] for unit in units if unit is not None and row in unit.failed]
        return failed[0] if failed else "committed" if units and None not in units else "pending"

    def outcomes(self) -> dict[str, str]:
        """Clip → how it came out."""
        return {clip: self.outcome(row) for clip, row in self.current.items()}

    def committed(self) -> list[str]:
        return sorted(clip for clip, outcome in self.outcomes().items() if outcome == "committed")


class Unreadable(Exception):
    """A record is as the world damaged it."""


class Truth:
    """Looks at a store after each change."""

    def __init__(self, real: RealStore, damaged: Collection[str] = ()) -> None:
        """``damaged``: keys of the objects that the world damages, or has damaged."""
        self._store, self._per_shard, self._damaged = real.world.store, real.clips_per_shard, frozenset(damaged)
        self._before: list[bytes] = []
        real.world.invariant(self.check)

    def said(self, version: int | None = None) -> Said:
        """What the log says, up to a version."""
        said = Said(self._per_shard)
        for data in self._records()[: None if version is None else version + 1]:
            said = once(_folded, (said.chain, data), said, data, self._store)
        return said

    def check(self) -> None:
        """Raise `AssertionError` if the store is not as it must be."""
        try:
            records, said = self._records(), self.said()
        except Unreadable:
            self._before = []
            return
        for number, (was, now) in enumerate(zip_longest(self._before, records[: len(self._before)])):
            assert was == now or f"log/{number:020d}.json" in self._damaged, f"record {number} changed, or is gone"
        self._before = records
        for (part, _), unit in said.units.items():
            for key, (digest, length) in unit.objects.items():
                if key not in self._damaged:
                    assert key in self._store, f"{key} is committed, and gone"
                    data = self._store.get(key)
                    assert (once(_digest, data, data), len(data)) == (digest, length), f"{key} has other bytes than committed"
                    once(_require_values, (part, unit.rows, *_wanted(said, unit, key), key, data), said, part, unit, key, data)
        hit = {shard_number(key) for key in self._damaged}
        assert all(row // self._per_shard in hit for row in said.retired), f"good rows are retired: {set(said.retired)}"
        if not any(key.startswith("log/") for key in self._damaged):
            self._check_checkpoints(records)

    def _check_checkpoints(self, records: list[bytes]) -> None:
        """A state that begins at a checkpoint is that of all records."""
        for found in self._store.list("log/checkpoint-"):
            version, data = checkpoint_version(found.key), self._store.get(found.key)
            assert version is not None
            chain = tuple(records[: version + 1])
            once(_require_the_same_state, (chain, data), version, found.key, data, self._per_shard)

    def _records(self) -> list[bytes]:
        found = [(one.key, self._store.get(one.key)) for one in self._store.list("log/0")]
        for number, (key, data) in enumerate(found):
            if key in self._damaged and not once(_is_sealed, data, data):
                raise Unreadable
            assert key == f"log/{number:020d}.json", f"record {number} is missing"
        return [data for _, data in found]


def shard_number(key: str) -> int:
    """The shard in the key of a shard's object; -1 in another's."""
    parts = key.split("/")
    return int(parts[2]) if len(parts) > 2 and parts[1] == "c" else -1


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _is_sealed(data: bytes) -> bool:
    try:
        body = json.loads(data)
        digest = body.pop("digest")
    except (ValueError, KeyError):
        return False
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest == _digest(text.encode())


def _folded(said: Said, data: bytes, store: MemoryStore) -> Said:
    """What is said once a record is appended. Raises `AssertionError` for what none may say."""
    assert _is_sealed(data), "a record is damaged"
    record: dict[str, Any] = json.loads(data)
    assert record["version"] == said.version + 1
    is_lost = any(action["action"] == "record_lost" for action in record["actions"])
    assert is_lost or said.tip in {None, record["previous"]}, "a record does not follow the one before it"
    chain, tip = _digest(said.chain.encode() + data), None if is_lost else _digest(data)
    said = replace(said, version=record["version"], chain=chain, tip=tip)
    for action in record["actions"]:
        match action["action"]:
            case "unit_committed":
                said = replace(said, units=said.units | dict(_committed(said, action)))
            case "rows_added":
                said = _with_rows(said, action, store)
            case "part_added":
                said = replace(said, parts=said.parts | {action["part"]})
            case "rows_retired":
                said = replace(said, retired=said.retired | set(action["rows"]))
            case "deleting":
                named = {key for unit in said.units.values() for key in unit.objects}
                assert not named & set(action["keys"]), "gc announces what is committed"
                said = replace(said, announced=said.announced | set(action["keys"]))
            case "deleted":
                assert said.announced >= set(action["keys"]), "gc deleted what it had not announced"
            case other:
                assert other in {"store_created", "record_lost", "records_replaced"}
    return said


def _committed(said: Said, action: dict[str, Any]) -> Iterator[tuple[tuple[str, int], Unit]]:
    shard, first = action["shard"], action["shard"] * said.clips_per_shard
    assert not said.announced & set(action["objects"]), "a key that gc announced is committed"
    for part in action["parts"]:
        assert (part, shard) not in said.units, f"{part} of shard {shard} is committed twice"
        yield (
            (part, shard),
            Unit(
                rows=range(first, first + action["rows"]),
                failed={row["row"]: row["reason"] for row in action["failed"]},
                exact=frozenset(action["exact"].get(part, ())),
                objects={
                    key: (about["digest"], about["length"])
                    for key, about in action["objects"].items()
                    if key.split("/")[0] in {array.name for array in _arrays(part)}
                },
            ),
        )


def _with_rows(said: Said, action: dict[str, Any], store: MemoryStore) -> Said:
    added = {row["row"]: (row["clip_id"], ord(row["content_digest"])) for row in _table(action["table"], store)}
    assert sorted(added) == [action["first_row"] + n for n in range(action["rows"])]
    assert not said.clips.keys() & added.keys(), "a row is added twice"
    superseded = {row["row"] for row in _table(action["superseded"], store)} if action["superseded"] else set()
    for row, (clip, content) in added.items():
        before = said.current.get(clip)
        assert (before in superseded) == (before is not None), f"{clip} has two rows"
        if before is not None and said.clips[before][1] == content:
            assert said.outcome(before) != "committed", f"{clip} is committed in row {before}, and gets row {row}"
    return replace(said, clips=said.clips | added, current=said.current | {clip: row for row, (clip, _) in added.items()})


def _table(file: dict[str, Any], store: MemoryStore) -> list[dict[str, Any]]:
    data = store.get(file["key"])
    assert _digest(data) == file["digest"]
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data), use_threads=False).to_pylist()
    return rows


def _arrays(part: str) -> Any:
    return once(stored_arrays, part, recipe_of(2), part, SHAPES)


def _wanted(said: Said, unit: Unit, key: str) -> tuple[object, ...]:
    """What an object must hold."""
    return tuple(said.clips[row][1] if row in _rows_in(unit, key) else None for row in unit.rows)


def _rows_in(unit: Unit, key: str) -> list[int]:
    is_exact = key.split("/", maxsplit=1)[0].endswith("_exact")
    return [row for row in unit.rows if row not in unit.failed and (row in unit.exact) == is_exact]


def _require_values(said: Said, part: str, unit: Unit, key: str, data: bytes) -> None:
    """Each committed row of an object is what the teacher gives for its clip."""
    (array,) = (array for array in _arrays(part) if array.name == key.split("/", maxsplit=1)[0])
    clips = unpack_clips(data, array, said.clips_per_shard)
    for row in _rows_in(unit, key):
        clip, number = said.clips[row]
        assert row % said.clips_per_shard in clips, f"{key} lacks row {row}, which is committed"
        values = clip_buffer(array, 1)[0]
        decode_chunks(clips[row % said.clips_per_shard], array, values)
        expected = {"timestamps": np.array([0, number / 8]), "frame_index": np.array([0, 1])}.get(array.name)
        if expected is None:
            signal = SIGNALS[part]  # type: ignore[index]
            values = encoding(signal.name, recipe_of(2).encodings[signal.name]).decode(signal, {array.name: values})
        assert is_of(values, number, part, expected), f"row {row} of {key} is not {clip}'s"


def is_of(values: np.ndarray[Any, Any], number: int, part: str, expected: np.ndarray[Any, Any] | None = None) -> bool:
    """Whether decoded values are those of the clip whose frames show ``number``."""
    if expected is None:
        raw = values_of(number, part).astype(np.float64)  # type: ignore[arg-type]
        expected = np.exp(raw) if part == "depth" else raw
    return bool((np.abs(values - expected) <= _FAR * np.abs(expected)).all())


def _require_the_same_state(version: int, key: str, data: bytes, clips_per_shard: int) -> None:
    state = read_checkpoint(key, data, clips_per_shard)
    assert state is not None
    log = Log(Objects("memory://store"), clips_per_shard)
    log._is_begun = True  # so that it does not begin at the checkpoint
    assert checkpoint_file(log.read(version)) == checkpoint_file(state), f"{key} is not what the records say"
