"""A store's folder in, its clips and their targets out: written from docs/reference/store-format.md, without this project.

Beside Python it takes numpy, pyarrow, numcodecs (for zstd and blosc) and google_crc32c. It shows that the page suffices, so
whatever it needs must be there: mend the page before this file.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow.parquet as pq
from numcodecs import blosc, zstd
from pyarrow import BufferReader

AHEAD = 4
NO_CHUNK = 2**64 - 1
CLOCK = ("timestamps", "frame_index")
PARTS = ("clock", "f4d", "depth", "flow", "motion", "camray", "regions", "objects", "frames")
LOG_STEPS = {"log-step-1/512": 1 / 512, "log-step-1/64": 1 / 64}
STEPS = {"step-1/16": 1 / 16, "step-1/4": 1 / 4, "step-1/8": 1 / 8, "step-1/2": 1 / 2}


class Damaged(Exception):
    """An object is not what the format says."""


def require(holds: bool, complaint: str) -> None:
    if not holds:
        raise Damaged(complaint)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def unsealed(data: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(data)
    member = f'"digest":"{value["digest"]}"'.encode()
    rest = data.replace(b"," + member if b"," + member in data else member + b",", b"", 1)
    require(digest_of(rest) == value["digest"], "a seal is broken")
    return value


def columns(data: bytes) -> Any:
    return pq.ParquetFile(BufferReader(data), pre_buffer=False, page_checksum_verification=True).read(use_threads=False)


@dataclass
class State:
    """What the records up to ``version`` say."""

    version: int = -1
    tip: str | None = ""
    tables: list[tuple[dict[str, Any], dict[str, Any] | None]] = field(default_factory=list)
    """(table of rows, table of superseded rows) of each addition."""
    parts: dict[str, list[int]] = field(default_factory=dict)
    retired: set[int] = field(default_factory=set)
    committed: dict[tuple[str, int], tuple[int, dict[int, str]]] = field(default_factory=dict)
    """(part, shard) → (rows, row → why it failed)."""
    exact: set[tuple[str, int]] = field(default_factory=set)
    """(array, row)."""
    lost: set[int] = field(default_factory=set)

    def commit(self, shard: int, parts: Sequence[str], rows: int, failed: Sequence[dict[str, Any]]) -> None:
        for part in parts:
            self.committed[part, shard] = rows, {row["row"]: row["reason"] for row in failed}

    def apply(self, action: dict[str, Any]) -> None:
        match action["action"]:
            case "rows_added":
                self.tables.append((action["table"], action["superseded"]))
            case "part_added":
                self.parts.setdefault(action["part"], action["shape"])
            case "unit_committed":
                self.commit(action["shard"], action["parts"], action["rows"], action["failed"])
                self.exact |= {(f"{signal}_exact", row) for signal, rows in action["exact"].items() for row in rows}
            case "rows_retired":
                self.retired |= set(action["rows"])
            case "record_lost":
                self.lost.add(action["version"])
            case "records_replaced" if not set(action["versions"]) <= self.lost:
                raise Replaced
            case "store_created" | "deleting" | "deleted" | "records_replaced":
                pass
            case other:
                raise Damaged(f"no action of this version: {other}")


class Replaced(Exception):  # it is no error
    """The state is of the time before some records were replaced."""


def checkpoint(path: Path) -> State | None:
    data = path.read_bytes()
    if path.stem[-16:] != digest_of(data)[7:23]:
        return None
    table = columns(data)
    about = json.loads(table.schema.metadata[b"checkpoint"])
    state = State(about["version"], about["tip"])
    for action in about["actions"]:
        state.apply(action)
    for unit in table.to_pylist():
        state.commit(unit["shard"], unit["parts"].split(","), unit["rows"], unit["failed"])
        state.exact |= {(exact["array"], exact["row"]) for exact in unit["exact"]}
    return state


def folded(log: Path, version: int | None) -> State:
    try:
        return folded_from(log, version, sorted(log.glob("checkpoint-*.parquet"), reverse=True))
    except Replaced:
        return folded_from(log, version, [])


def folded_from(log: Path, version: int | None, checkpoints: Sequence[Path]) -> State:
    state = State()
    for path in checkpoints:
        number = int(path.name.split("-")[1])
        found = checkpoint(path) if version is None or number <= version else None
        if found is not None:
            state = found
            break
    for number in count(state.version + 1):
        path = log / f"{number:020d}.json"
        if number - 1 == version:
            break
        if not path.exists():
            later = [log / f"{number + ahead:020d}.json" for ahead in range(1, AHEAD)]
            require(path.exists() or not any(other.exists() for other in later), f"record {number} is lost")
            break
        data = path.read_bytes()
        record = unsealed(data)
        is_lost = any(action["action"] == "record_lost" for action in record["actions"])
        require(record["version"] == number, "a record has another one's number")
        require(is_lost or state.tip is None or record["previous"] == state.tip, "a record does not follow the one before")
        for action in record["actions"]:
            state.apply(action)
        state.version, state.tip = number, None if is_lost else digest_of(data)
    require(version in {None, state.version}, "there is no such version")
    return state


class Reader:
    """A store at a version; the newest, if ``version`` is None."""

    def __init__(self, store: Path, version: int | None = None) -> None:
        self.store = store
        about = json.loads((store / "zarr.json").read_bytes())["attributes"]
        require(about["format_version"] == 2, f"format version {about['format_version']} and not 2")
        self.recipe = about["recipe"]
        whole = json.dumps(self.recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        require(hashlib.sha256(whole).hexdigest() == about["fingerprint"], "the recipe is not that of the fingerprint")
        self.per_shard: int = self.recipe["layout"]["clips_per_shard"]
        self.state = folded(store / "log", version)
        self.rows = self._rows_in_force()

    def _table(self, named: dict[str, Any]) -> list[dict[str, Any]]:
        data = (self.store / named["key"]).read_bytes()
        require(digest_of(data) == named["digest"], f"{named['key']} is damaged")
        rows: list[dict[str, Any]] = columns(data).to_pylist()
        return rows

    def _rows_in_force(self) -> dict[tuple[int, int], dict[str, Any]]:
        """(clip_key, clip_check) → the row of the table."""
        rows: dict[int, dict[str, Any]] = {}
        for table, superseded in self.state.tables:
            for row in self._table(superseded) if superseded else ():
                del rows[row["row"]]
            rows |= {row["row"]: row for row in self._table(table)}
        return {(row["clip_key"], row["clip_check"]): row for row in rows.values()}

    def row(self, clip_id: str) -> int:
        """The clip's row in force. Raises `KeyError`."""
        row: int = self.rows[struct.unpack("<QQ", hashlib.blake2b(clip_id.encode(), digest_size=16).digest())]["row"]
        return row

    def status(self, row: int, parts: Sequence[str]) -> tuple[str, str | None]:
        """(what became of the row in these parts, why it failed)."""
        if row in self.state.retired:
            return "retired", None
        units = [self.state.committed.get((part, row // self.per_shard)) for part in parts]
        reasons = [unit[1][row] for unit in units if unit is not None and row in unit[1]]
        if reasons:
            return "failed", reasons[0]
        return ("pending", None) if None in units or not units else ("committed", None)

    def clips(self) -> Iterator[tuple[str, str, str | None]]:
        """(clip id, what became of it in all parts, why it failed) of each clip, in the order of rows."""
        parts = sorted(self.state.parts, key=PARTS.index)
        for row in sorted(self.rows.values(), key=lambda row: row["row"]):
            status, reason = self.status(row["row"], parts)
            yield row["clip_id"], "pending" if status == "retired" else status, reason

    def read(self, name: str, clip_id: str) -> np.ndarray:
        """The clip's targets of a signal, or one of the clock's two arrays, in physical units."""
        row = self.row(clip_id)
        require(self.status(row, ["clock" if name in CLOCK else name])[0] == "committed", f"{clip_id} is not committed")
        if name in CLOCK:
            return self._chunk(name, row)
        is_exact = (f"{name}_exact", row) in self.state.exact
        values = self._chunk(f"{name}_exact" if is_exact else name, row)
        return decoded(name, "float32-raw" if is_exact else self.recipe["encodings"][name], values)

    def objects(self, clip_id: str) -> list[dict[str, Any]]:
        """The clip's objects, by their numbers in its regions."""
        (about,) = (row for row in self.rows.values() if row["clip_id"] == clip_id)
        phrases = json.loads(about["prompt"])["phrases"]
        found = []
        for number, columns in enumerate(self.read("objects", clip_id).tolist(), start=1):
            phrase, left, top, right, bottom, score, reason = columns[:7]
            if phrase >= 0:
                bits = "".join(f"{int(column):016b}"[::-1] for column in columns[7:])
                found.append(
                    {
                        "number": number,
                        "phrase": phrases[int(phrase)] if phrase < len(phrases) else f"object {number}",
                        "box": None if left < 0 else {"left": left, "top": top, "right": right, "bottom": bottom},
                        "score": score,
                        "frames": tuple(place for place, bit in enumerate(bits) if bit == "1"),
                        "reason": (None, "no_box", "no_mask", "too_many")[int(reason)],
                    }
                )
        return found

    def _chunk(self, name: str, row: int) -> np.ndarray:
        about = json.loads((self.store / name / "zarr.json").read_bytes())
        (sharding,) = about["codecs"]
        shape = sharding["configuration"]["chunk_shape"]
        chunks = about["shape"][1] // shape[1]
        zeros = ["0"] * (len(shape) - 1)
        shard = self.store.joinpath(name, "c", str(row // self.per_shard), *zeros).read_bytes()
        index = np.frombuffer(checked(shard[-16 * chunks * self.per_shard - 4 :]), "<u8").reshape(self.per_shard, chunks, 2)
        found = index[row % self.per_shard].tolist()
        require([NO_CHUNK, NO_CHUNK] not in found, f"{name} lacks a committed clip")
        codecs = sharding["configuration"]["codecs"]
        parts = [undone(shard[start : start + length], codecs, shape, about["data_type"]) for start, length in found]
        return np.concatenate(parts)


def checked(data: bytes) -> bytes:
    require(google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little"), "a checksum fails")
    return data[:-4]


def undone(data: bytes, codecs: list[dict[str, Any]], shape: list[int], data_type: str) -> np.ndarray:
    """A chunk of one clip, by the codecs of its array, last first."""
    order = list(range(len(shape)))
    for codec in codecs:
        if codec["name"] == "transpose":
            order = codec["configuration"]["order"]
    dtype = np.dtype(data_type).newbyteorder("<")
    length = int(np.prod(shape)) * dtype.itemsize
    for codec in reversed(codecs):
        match codec["name"]:
            case "crc32c":
                data = checked(data)
            case "zstd":
                data = zstd.decompress(data)
            case "blosc":
                whole, _, packed = struct.unpack_from("<3I", data, 4)
                require((whole, packed) == (length, len(data)), "a blosc chunk has another length")
                data = blosc.decompress(data)
            case "bytes":
                require(len(data) == length, "a chunk has another length")
            case "transpose":
                pass
            case other:
                raise Damaged(f"no codec of this version: {other}")
    stored = np.frombuffer(data, dtype).reshape([shape[axis] for axis in order])
    return stored.transpose(np.argsort(order))[0]


def decoded(signal: str, encoding: str, stored: np.ndarray) -> np.ndarray:
    if encoding.startswith("channel-rms-"):
        return channel_rms(stored)
    if encoding in {"float32-raw", "float32", "uint8"}:
        return np.exp(stored) if signal == "depth" else stored
    if encoding in LOG_STEPS:
        return np.exp(stored.astype(np.float32) * np.float32(LOG_STEPS[encoding]))
    return stored.astype(np.float32) * np.float32(STEPS[encoding])


def channel_rms(rows: np.ndarray) -> np.ndarray:
    """int8 (layer, time, y + 1 rows, x, channel) → float32 (layer, time, y, x, channel)."""
    low, side = rows[:, :, :-1], rows[:, :, -1].reshape(len(rows), -1, rows.shape[-1])
    high = np.zeros(low.shape, np.int32)
    for layer, tokens in enumerate(side):
        room = tokens[6:].tobytes()
        for entry in np.frombuffer(room[: len(room) // 4 * 4], "<u4"):
            if entry:
                high[layer].flat[entry % 2**24] = np.int8(np.uint8(entry >> 24))
    scale = np.ascontiguousarray(side[:, :4].swapaxes(1, 2)).view("<f4")[:, None, None, None, :, 0]
    centre, is_delta = (side[:, None, None, None, token] for token in (4, 5))
    low = np.where(is_delta == 1, np.add.accumulate(low, axis=1, dtype=np.int8), low)
    return (low + 256 * high + centre).astype(np.float32) * scale
