"""A local store's log as files: what it says, and the same log saying something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import sha256_digest
from teacher_cache.store import records
from teacher_cache.store.layout import version_of
from teacher_cache.store.objects import Objects
from teacher_cache.store.table import create_table


def record_paths(store: Path) -> list[Path]:
    """The files of the log's records, in order."""
    return sorted(path for path in (store / "log").glob("*.json") if version_of(f"log/{path.name}") is not None)


def record_with(store: Path, action: str, shard: int | None = None) -> Path:
    """The first record that holds such an action, of that shard if one is given."""
    return next(path for path in record_paths(store) if any(_is(found, action, shard) for found in _actions(path)))


def _actions(path: Path) -> list[dict[str, Any]]:
    actions: list[dict[str, Any]] = json.loads(path.read_bytes())["actions"]
    return actions


def _is(found: dict[str, Any], action: str, shard: int | None) -> bool:
    return found["action"] == action and shard in (None, found.get("shard"))


def units(store: Path) -> list[dict[str, Any]]:
    """The committed units, in the order in which they were."""
    return [found for path in record_paths(store) for found in _actions(path) if found["action"] == "unit_committed"]


def rewrite(
    store: Path, change: Callable[[dict[str, Any]], object], action: str = "unit_committed", shard: int | None = None
) -> Path:
    """Change an action of a record, which is then sealed again, as are all later ones: a log of whoever may write there.

    Returns the record's file.
    """
    changed = record_with(store, action, shard)

    def rewritten(value: dict[str, Any]) -> None:
        if f"{value['version']:020d}" == changed.stem:
            change(next(found for found in value["actions"] if _is(found, action, shard)))

    reseal(store, rewritten)
    return changed


def reseal(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change each record, and seal it again."""
    tip = ""
    for path in record_paths(store):
        value = json.loads(path.read_bytes())
        del value["digest"]
        change(value)
        data = records._sealed(value | {"previous": tip})
        path.write_bytes(data)
        tip = sha256_digest(data)
    for checkpoint in (store / "log").glob("checkpoint-*"):
        checkpoint.unlink()


def forget(action: dict[str, Any]) -> None:
    """A change for `rewrite`: as if the action had never been."""
    action.clear()
    action |= {"action": "record_lost", "version": 0}


def contents(objects: Mapping[str, bytes]) -> dict[str, Any]:
    """What is equal in stores of equal work: every object but records, whose times differ, and what the records say.

    But for what they say of garbage, which is no work.
    """
    others: dict[str, Any] = {
        key: data for key, data in objects.items() if version_of(key) is None and not key.startswith("log/checkpoint-")
    }
    said = [action for key, data in objects.items() if version_of(key) is not None for action in json.loads(data)["actions"]]
    work = [action for action in said if action["action"] not in {"deleting", "deleted"}]
    return others | {"log": sorted(work, key=lambda action: json.dumps(action, sort_keys=True))}


def with_video_at(store: Path, copy: Path, uri: str) -> Path:
    """A copy of a store whose first clip's video is said to be at ``uri``; whole and sealed, as its author would leave it."""
    shutil.copytree(store, copy)
    (table,) = (copy / "log").glob("rows-*.parquet")
    rows = pq.read_table(table)
    videos = [uri, *rows["video"].to_pylist()[1:]]
    rows = rows.set_column(rows.column_names.index("video"), "video", pa.array(videos, pa.string()))
    file = create_table(Objects(str(copy)), "log/rows-0000000000", rows)
    rewrite(copy, lambda added: added.update(table=file.model_dump(mode="json")), action="rows_added")
    return copy
