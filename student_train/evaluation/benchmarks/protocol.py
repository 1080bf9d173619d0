"""One protocol for all benchmarks: what files each has and from where, how its records are read, asked and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import ArrowException

from schemas.errors import BadInput
from schemas.evaluation import PublishedRow, Unevaluated
from student_train.evaluation.benchmarks.item import Item, ItemError, Record
from student_train.evaluation.benchmarks.parsing import Parser
from teacher_cache.clips.list_formats import json_objects
from teacher_cache.io.places import is_utf8


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark: its files, prompt, parser and means."""

    name: str
    title: str
    origin: str
    """Where its files are published, and under which licence."""
    files: tuple[str, ...]
    """Patterns below its folder: the files of the first that is there hold its records."""
    media: tuple[str, ...]
    """Folders of videos and images that must lie beside; one of them is enough."""
    items: Callable[[Record, int], Iterable[Item]]
    """The items of a record and its index. Raises `ItemError`."""
    prompt: Callable[[Item, float | None], str]
    """The text after the images and the video. The float: the video's length in seconds, if it is to be told."""
    parse: Parser
    """The official reading of a response."""
    frames: int = 16
    """Frames of a video that are shown."""
    new_tokens: int = 16
    """Longest response, in tokens."""
    count: int | None = None
    """Published number of items."""
    is_macro: bool = False
    """Whether its own figure is the mean over tasks, not over questions."""
    draws: bool = False
    """Whether a response without a letter counts as a random one."""
    clamps: bool = False
    """Whether footage of fewer frames than are shown has each once."""
    notes: tuple[str, ...] = ()
    """What makes its scores differ from published ones."""
    published: tuple[PublishedRow, ...] = ()


@dataclass(frozen=True)
class Read:
    """What a benchmark's folder holds."""

    source: str
    """The file of its records."""
    items: tuple[Item, ...]
    unread: tuple[Unevaluated, ...]
    """Records that cannot be asked, each with the reason."""


def read(benchmark: Benchmark, root: Path, file: Path | None = None) -> Read:
    """The items under a folder. ``file``: the records' file, in place of the benchmark's own.

    A record that is no item costs itself alone. Raises `BadInput` if the files are not there or hold no record.
    """
    files = _files(benchmark, root) if file is None else [file]
    items: list[Item] = []
    unread: list[Unevaluated] = []
    seen: set[str] = set()
    for index, record in enumerate(record for path in files for record in _records(path)):
        try:
            found = list(benchmark.items(record, index))
        except ItemError as error:
            name = str(record.get("id", index))
            name = name if is_utf8(name) else ascii(name)
            unread.append(Unevaluated(id=name, video="", reason="item_unreadable", detail=f"item {index}: {error}"))
            continue
        items += (item if item.id not in seen else _renamed(item, index) for item in found)
        seen.update(item.id for item in found)
    if not items and not unread:
        raise BadInput(f"{files[0]} holds no question; needed at least one")
    return Read(str(files[0]), tuple(items), tuple(unread))


def _renamed(item: Item, index: int) -> Item:
    """Answers are kept by id, and some files have one twice."""
    return replace(item, id=f"{item.id} (item {index})")


def _files(benchmark: Benchmark, root: Path) -> list[Path]:
    if not root.is_dir():
        wrong = f"{root} is a file, not a folder" if root.exists() else f"there is no folder {root}"
        raise BadInput(f"{wrong}; {needed(benchmark)}")
    files: list[Path] = next((found for pattern in benchmark.files if (found := sorted(root.glob(pattern)))), [])
    has_media = not benchmark.media or any((root / name).is_dir() for name in benchmark.media)
    if files and has_media:
        return files
    held = ", ".join(sorted(path.name + "/" * path.is_dir() for path in root.iterdir())[:8]) or "nothing"
    lacks = "videos or images are" if files else "file of questions is"
    raise BadInput(f"{root} does not hold {benchmark.title}: found {held}; its {lacks} missing; {needed(benchmark)}")


def needed(benchmark: Benchmark) -> str:
    """What a benchmark's folder must hold, and where that comes from."""
    media = f", and the folder {' or '.join(f'{name}/' for name in benchmark.media)}" if benchmark.media else ""
    return f"needed {' or '.join(benchmark.files)}{media}, from {benchmark.origin}"


def _records(path: Path) -> Iterator[Record]:
    try:
        if path.suffix == ".parquet":
            yield from _rows(path)
        else:
            yield from json_objects(path, f"cannot read the questions of {path}")
    except FileNotFoundError:
        raise BadInput(f"there is no file of questions {path}") from None
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the questions of {path}: {getattr(error, 'strerror', None) or error}") from None


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()
