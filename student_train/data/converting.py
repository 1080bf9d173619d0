"""Published sets that training does not read at once go in; a file of conversations, and files of images, come out."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image
from pyarrow import ArrowException

from schemas.data import ConvertReport
from schemas.errors import BadInput
from student_train.data.conversations import Unread, conversation_of, ids_in, records_in
from student_train.data.records import captioned, in_llava_shape
from teacher_cache.clips.mixture import files_of
from teacher_cache.clips.preprocess import BAD_PICTURE
from teacher_cache.io.output_folder import written_whole

CONVERSATIONS = "conversations.jsonl"
_IMAGES = ("image_bytes", "images", "image")
_ROWS = 64
_SHOWN = 20


def convert(
    files: Sequence[str],
    out: Path,
    *,
    ask: str | None = None,
    leave_out: Sequence[str] = (),
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> ConvertReport:
    """Write ``out/conversations.jsonl``, and each different image once, as ``out/images/XX/DIGEST.png`` or as it was encoded.

    ``ask``: the question that captions answer. A record that is no conversation is left out and told. Called again after a
    stop, it writes only the images that are not there. Raises `BadInput` for files that cannot be read and for a folder that
    holds conversations, unless ``overwrite``.
    """
    target = out / CONVERSATIONS
    if target.exists() and not overwrite:
        raise BadInput(f"{target} is there already; give another --out, or --overwrite to replace it")
    dropped, images = ids_in(leave_out), _Images(out)
    left_out: list[str] = []
    written = skipped = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as draft, draft.open("w", encoding="utf-8") as lines:
            for source, record in _records(files_of(files)):
                advance(1)
                if str(record.get("id")) in dropped:
                    skipped += 1
                    continue
                try:
                    told = list(in_llava_shape(_with_files(record if ask is None else captioned(record, ask), images)))
                except BadInput as error:
                    left_out.append(f"{source}: {error}")
                    continue
                for one in told:
                    read = conversation_of(one, source)
                    if isinstance(read, Unread):
                        left_out.append(read.message)
                        continue
                    lines.write(json.dumps(one, ensure_ascii=False) + "\n")
                    written += 1
            if not written:
                said = f"{', '.join(files)}: no record is a conversation"
                said += f", but for {skipped:,} that --leave-out names" if skipped else ""
                raise BadInput("\n".join([said, *left_out[:_SHOWN]]))
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror or error}; give another --out") from None
    shown = tuple(left_out[:_SHOWN])
    return ConvertReport(
        out=str(target), conversations=written, images=len(images.names), left_out=shown, left_out_count=len(left_out)
    )


def _records(files: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and index, record), with the bytes of what Parquet holds."""
    for path in files:
        rows = _rows(path) if _is_parquet(path) else records_in(path)
        yield from ((f"{path}[{number}]", record) for number, record in enumerate(rows))


def _is_parquet(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"PAR1"
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None


def _rows(path: str) -> Iterator[Mapping[str, Any]]:
    """Some rows at a time: SAT's training file has 4.6 GB."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, use_threads=False):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise BadInput(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}") from None


class _Images:
    """Image files by their content: several questions are about one image."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.names: set[str] = set()

    def add(self, data: bytes) -> str:
        """Write the image if it is new. Returns its path below the folder. Raises `BadInput` for what is no image."""
        try:
            with Image.open(io.BytesIO(data)) as image:
                kind = str(image.format).lower()
        except BAD_PICTURE:
            raise BadInput(f"an image of {len(data)} bytes is none that Pillow reads") from None
        digest = hashlib.sha256(data).hexdigest()[:32]
        name = f"images/{digest[:2]}/{digest}.{'jpg' if kind == 'jpeg' else kind}"
        path = self._out / name
        if name not in self.names and not (path.exists() and path.stat().st_size == len(data)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as draft:
                draft.write_bytes(data)
        self.names.add(name)
        return name


def _with_files(record: Mapping[str, Any], images: _Images) -> Mapping[str, Any]:
    """The record with paths in the place of images' bytes. Raises `BadInput`."""
    if isinstance(video := record.get("video"), dict | bytes):
        if isinstance(video, bytes) or video.get("bytes"):
            raise BadInput("holds a video itself; write videos to files, and name those")
        record = {**record, "video": video.get("path")}
    name = next((name for name in _IMAGES if record.get(name)), None)
    if name is None:
        return record
    held = record[name]
    paths = [_path(one, images) for one in (held if isinstance(held, list) else [held])]
    return {**{key: value for key, value in record.items() if key not in _IMAGES}, "image": paths}


def _path(held: Any, images: _Images) -> str:
    data = held.get("bytes") if isinstance(held, dict) else held
    if isinstance(data, bytes) and data:
        return images.add(data)
    path = held.get("path") if isinstance(held, dict) else held
    if not isinstance(path, str) or not path:
        raise BadInput(f"an image is {str(held)[:40]!r}; needed a file's bytes, or a path")
    return path
