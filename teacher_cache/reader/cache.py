"""A store's URL and clip ids in; targets in physical units out. Only clips that the log has committed can be read.

Imports neither Ray nor a teacher. Imports torch only for a dataset, a stream, or the heads.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.clip import Clip
from schemas.errors import BadInput, ClipFailed, ClipPending, SignalMissing, StoreDamaged, UnknownClip
from schemas.heads import HeadsCard
from schemas.log import PartName
from schemas.recipe import Recipe
from schemas.signal import SIGNALS, Shape, SignalName, exact_array
from schemas.storage import StorageOptions
from schemas.view import WHOLE, View
from teacher_cache.clips.prompts import prompt_in
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import encoding
from teacher_cache.geometry.augmentation import view_signal
from teacher_cache.geometry.stitch import Alignment
from teacher_cache.io.config import storage_options_of
from teacher_cache.io.hints import closest
from teacher_cache.reader.fetch import ChunkReader, ChunkTier, ClipsToDecode, ClipsToRead, CommittedShard, Reading, Values
from teacher_cache.reader.for_training import ForTraining
from teacher_cache.reader.selection import EVERYTHING, Entries, Selection, entries
from teacher_cache.reader.stored import DecodedForm, StoredBatch, StoredClips
from teacher_cache.reader.video import read_stitched
from teacher_cache.store.catalog import Catalog
from teacher_cache.store.chunk import Empty
from teacher_cache.store.layout import (
    CLOCK_ARRAYS,
    HEADS_CARD,
    HEADS_FILE,
    LONGEST_METADATA,
    clock_arrays,
    stored_arrays,
)
from teacher_cache.store.objects import Objects
from teacher_cache.store.records import REPAIR_ADVICE, unseal
from teacher_cache.store.state import COMMITTED, FAILED, State
from teacher_cache.store.store import Store, open_store

if TYPE_CHECKING:
    from teacher_cache.teachers.heads.frozen import FrozenHeads

# Searching this many names for a similar one takes about a second.
_HINTS_AMONG = 10_000


class _Group(NamedTuple):
    """Requested clips of one signal that are stored in the same array."""

    indices: list[int]
    """Positions of these clips in the request."""
    rows: list[int]
    """Their rows in the store."""
    array: StoredArray
    """What holds them."""


def open_cache(
    url: str,
    disk: ChunkTier | None = None,
    *,
    version: int | None = None,
    in_flight: int | None = None,
    storage_options: StorageOptions | Mapping[str, Any] | None = None,
) -> Cache:
    """Open the store at ``url`` (a local path, or an s3://, gs://, az:// or hf:// URL) to read it; ``disk`` caches its chunks.

    ``version`` opens an earlier state of the store, as `Cache.version` told it then; None opens the newest. ``in_flight`` is
    how many requests for chunks are under way at once; None takes 8, and up to 64 where the server's latency asks for more.
    ``storage_options`` says how to reach the server, where the environment does not say it, or says it for another store:
    ``{"endpoint_url": "http://minio:9000"}``, ``{"anonymous": True}``; `schemas.storage.StorageOptions` has them all.

    Raises `StoreNotFound`, `BadInput` for something else at the URL, another format version or a version that the store does
    not have, `StoreDamaged`, and `Unreachable`.
    """
    if storage_options is not None and not isinstance(storage_options, StorageOptions):
        storage_options = storage_options_of(storage_options)
    if in_flight is not None and in_flight < 1:
        raise BadInput(f"in_flight is {in_flight}; needed 1 or more, or None for what the server's latency asks for")
    return Cache(open_store(str(url), storage_options, version=version), disk, in_flight)


class _Opened:
    """What one process has of a store: connections, threads, locks, and what was read by them."""

    def __init__(self, store: Store, disk: ChunkTier | None, in_flight: int | None) -> None:
        self.store, self.disk, self.in_flight, self.process = store, disk, in_flight, os.getpid()
        self.state: State = store.state

    @cached_property
    def catalog(self) -> Catalog:
        return self.store.catalog()

    @cached_property
    def chunks(self) -> ChunkReader:
        per_shard = self.store.recipe.layout.clips_per_shard
        return ChunkReader(self.store.objects, per_shard, self._shard, self.disk, self.in_flight)

    def _shard(self, array: StoredArray, shard: int) -> CommittedShard:
        """Its names identify the content: where the store is, its first record, the shard and 64 bits of its digest."""
        store = f"{self.store.url}/{self.store.log.origin}"
        name = f"{array.name}/{shard}/{self.state.shard_digest(array.name, shard):016x}"
        return CommittedShard(self.state.shard_length(array.name, shard), store, name)

    def opened_again(self) -> _Opened:
        """The same version in a process that was forked from this one's: nothing is shared, since its locks may be held."""
        _ABANDONED.append(self)
        objects = Objects(self.store.url, self.store.objects.options)
        return _Opened(Store(objects, self.store.recipe, self.store.version), copy.copy(self.disk), self.in_flight)


_ABANDONED: list[_Opened] = []
"""A parent's, in its forked children: to take them down would wait for threads that a fork does not copy."""


class Cache(ForTraining):
    """A store, open for reading at one version: whatever is committed later, it shows the same. Open again for newer.

    Picklable, and it survives a fork: a copy, or a forked worker's, opens the same version by itself. On a server, forked
    workers read by fsspec at about twice the CPU of spawned ones; see `teacher_cache.io.forked`.
    """

    def __init__(self, store: Store, disk: ChunkTier | None = None, in_flight: int | None = None) -> None:
        self._opened = _Opened(store, disk, in_flight)

    def __reduce__(self) -> tuple[Any, tuple[str, ChunkTier | None]]:
        options = self._store.objects.options
        again = partial(open_cache, version=self.version, in_flight=self._here.in_flight, storage_options=options)
        return again, (self.url, self._here.disk)

    @property
    def _here(self) -> _Opened:
        if self._opened.process != os.getpid():
            self._opened = self._opened.opened_again()
        return self._opened

    @property
    def _store(self) -> Store:
        return self._here.store

    @property
    def _state(self) -> State:
        return self._here.state

    @property
    def _catalog(self) -> Catalog:
        return self._here.catalog

    @property
    def _chunks(self) -> ChunkReader:
        return self._here.chunks

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._store.url

    @property
    def version(self) -> int:
        """The version of the store that this shows: the number of the last record of its log that counts."""
        return self._store.version

    @property
    def recipe(self) -> Recipe:
        """All settings that determine the stored bytes: teacher, clips, encodings, layout."""
        return self._store.recipe

    @property
    def size(self) -> int:
        """Height and width of the teacher's square input frame, in pixels. Maps and crops are measured in these pixels."""
        return self.recipe.clips.size

    @property
    def signals(self) -> tuple[SignalName, ...]:
        """The signals in the store."""
        return self._store.signals

    @cached_property
    def clips(self) -> pa.Table:
        """One row per clip: clip_id, video (its URI), status (committed, failed or pending), reason, detail, row,
        content_digest, video_id, window_start, window_stop, segment_start, segment_end, flipped, undecodable_tail_frames; then
        the columns of the list of videos, such as caption or split, as the row's first run found them (one named like those
        before it has a ``_`` after it).

        A clip is ``committed`` once every signal of the store is; ``row`` is its index on the arrays' first axis.
        [window_start, window_stop) is the clip's window of its video, null for the whole video; see `schemas.clip.Window`.
        [segment_start, segment_end) is the part of the video in seconds, null for all of it; see `schemas.clip.Segment`.
        A ``flipped`` clip was taught with left and right swapped.
        ``undecodable_tail_frames`` at the end of a damaged video do not decode, and the clip was made of those before.
        """
        rows = self._catalog.current
        status = self._state.status(rows, self._store.parts)
        failures = {int(row): self._state.failure(int(row), self._store.parts) or ("", "") for row in rows[status == FAILED]}
        names = pa.array(["pending", "committed", "failed", "pending"])
        columns: dict[str, Any] = {name: self._catalog.table(rows, [name])[name] for name in ("clip_id", "video")}
        columns["status"] = names.take(pa.array(status))
        for field, name in enumerate(("reason", "detail")):
            texts = [failures[row][field] for row in rows[status == FAILED].tolist()]
            columns[name] = _scattered(texts, status == FAILED)
        rest = ["row", "content_digest", "video_id", "window_start", "window_stop", "segment_start", "segment_end", "flipped"]
        columns |= zip(rest, self._catalog.table(rows, rest).columns, strict=True)
        columns["undecodable_tail_frames"] = pa.array(self._state.undecodable_tails(rows))
        return pa.table(columns | self._catalog.listed_columns(rows, columns))

    def committed_ids(self, where: pc.Expression | None = None) -> list[str]:
        """Ids of the clips that are committed in every signal, sorted: in what order they were committed does not matter.

        ``where`` chooses among them by the columns of `clips`: ``pyarrow.compute.field("split") == "train"``. Raises `BadInput`
        for a column that is not there.
        """
        if where is not None:
            return sorted(chosen(self.clips, where, self.url))
        return sorted(self._catalog.table(self.committed_rows, ["clip_id"])["clip_id"].to_pylist())

    @property
    def committed_rows(self) -> NDArray[np.int64]:
        """Rows of the clips that are committed in every signal, ascending: int64 (clip,), as `clips` has them in ``row``."""
        rows = self._catalog.current
        committed: NDArray[np.int64] = rows[self._state.status(rows, self._store.parts) == COMMITTED]
        return committed

    def shape(self, name: str) -> Shape:
        """Shape of one clip in what `read` returns under ``name``. Raises `SignalMissing`."""
        self._part(name)
        return self._form(name).shape

    def read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
        view: View = WHOLE,
    ) -> dict[str, Values]:
        """Targets of ``clip_ids``, in that order, by name. Decodes each clip while the next ones are fetched.

        Each array is (clip, …), with the axes, units and dtype of `schemas.signal.SIGNALS`; depth is positive. ``signals``
        may also name ``timestamps`` (clip, frame), float64 seconds, and ``frame_index`` (clip, frame), int32.

        ``layers`` of ``f4d`` and ``frames`` of what has frames are places on these axes, ascending: ``layers=[3],
        frames=range(4)`` gives what ``["f4d"][:, [3]]`` and ``["depth"][:, 0:4]`` of the whole would, and fetches and decodes
        no more than their chunks, a layer or four frames each. Frames do not concern ``f4d``, whose time is in tokens.

        ``view`` crops and mirrors the maps (`teacher_cache.geometry.augmentation`); give the student's frames the same view.

        Raises `BadInput` for layers or frames that are not there, `SignalMissing`, `UnknownClip`, `ClipFailed` with the
        recorded reason, `ClipPending`, `ViewRefused`, `StoreDamaged` if a committed chunk is missing or fails its checksum, and
        `Unreachable`.
        """
        found = self.begin_read(signals, clip_ids, layers=layers, frames=frames).result()
        return {name: self.seen(name, values, view) for name, values in found.items()}

    def begin_read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> Reading[dict[str, Values]]:
        """`read`, begun and not waited for."""
        return self._begin(self._groups(signals, clip_ids), len(clip_ids), Selection(layers=layers, frames=frames))

    def read_rows(self, signals: Sequence[str], rows: NDArray[np.int64]) -> dict[str, Values]:
        """`read`, by rows instead of ids: who goes through a store by `committed_rows` needs no names.

        Raises `BadInput` for a row that is not committed, and what `read` raises.
        """
        parts = [self._part(name) for name in signals]
        status = self._state.status(rows, parts)
        for index in np.flatnonzero((rows < 0) | (status != COMMITTED))[:1].tolist():
            raise BadInput(f"row {rows[index]} of {self.url} is not committed in {', '.join(signals)}; see `committed_rows`")
        return self._begin({name: self._groups_of(name, rows) for name in signals}, len(rows), EVERYTHING).result()

    def _begin(self, held: Mapping[str, list[_Group]], clips: int, selection: Selection) -> Reading[dict[str, Values]]:
        chosen = self.entries(list(held), selection)
        values: dict[str, Values] = {}
        wanted = []
        for name, groups in held.items():
            form, some = self._form(name).of(chosen[name]), chosen[name]
            values[name] = self._chunks.buffers.empty((clips, *form.shape), form.dtype)
            wanted += [ClipsToDecode(g.array, g.rows, [values[name][i] for i in g.indices], form.decode, some) for g in groups]
        return self._chunks.begin_each(wanted, values)

    def read_stored(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> StoredBatch:
        """The same targets as they are stored, to be moved to a device and dequantised there by `StoredBatch.decode`.

        Raises what `read` raises.
        """
        return self.begin_stored(signals, clip_ids, layers=layers, frames=frames).result()

    def begin_stored(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        empty: Empty | None = None,
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> Reading[StoredBatch]:
        """`read_stored`, begun and not waited for. ``empty`` allocates the arrays' memory."""
        chosen = self.entries(signals, Selection(layers=layers, frames=frames))
        held = self._groups(signals, clip_ids)
        wanted = (ClipsToRead(group.array, group.rows, chosen[name]) for name, groups in held.items() for group in groups)
        reading = self._chunks.begin(wanted, empty)
        read = reading.answer
        parts = {
            name: tuple(StoredClips(group.indices, {group.array.name: read[group.array.name]}) for group in groups)
            for name, groups in held.items()
        }
        return reading.of(StoredBatch(tuple(clip_ids), parts, {name: self._form(name).of(chosen[name]) for name in held}))

    def seen(self, name: str, values: Values, view: View) -> Values:
        """What `read` gives for the whole, as a view shows it."""
        return values if name in CLOCK_ARRAYS else view_signal(cast("SignalName", name), values, view, self.size)

    def read_video(
        self, signals: Sequence[str], video_id: str, *, align: Alignment = "disparity", seed: int = 0
    ) -> dict[str, Values]:
        """Targets of a whole video of a ``dense`` store, stitched from its windows: float32 (frame, …), the video's frames.

        ``signals`` may be depth, flow, motion and camray; ``frame_index`` and ``timestamps`` are always included. Depth and
        rays have the scale of the first window, and rays its first camera's coordinates;
        `teacher_cache.geometry.stitch.stitch` explains ``align`` and ``seed``. The last window's mirrored frames are dropped.

        Raises `BadInput` for another sampling or a signal without a frame axis, and what `read` raises: a failed window
        leaves a gap, so its video cannot be stitched.
        """
        if self.recipe.clips.sampling != "dense":
            raise BadInput(f"{self.url} is sampled {self.recipe.clips.sampling}; only `dense` windows can be stitched")
        return read_stitched(self.read, self.clips_of_video(video_id), signals, align, seed)

    def clips_of_video(self, video_id: str) -> list[Clip]:
        """The catalog's entries of a video's clips. Raises `UnknownClip` if there is none."""
        found = [clip for clip in self._catalog.clips(self._catalog.rows_of_videos([video_id])) if clip.video_id == video_id]
        if not found:
            raise UnknownClip(f"the store {self.url} has no video {video_id!r}.{self._hint(video_id, 'video_id')}")
        return found

    def _hint(self, name: str, column: str) -> str:
        rows = self._catalog.current
        if len(rows) > _HINTS_AMONG:
            return ""
        close = closest(name, self._catalog.table(rows, [column])[column].to_pylist())
        return f" Did you mean {close!r}?" if close else ""

    def _groups(self, signals: Sequence[str], clip_ids: Sequence[str]) -> dict[str, list[_Group]]:
        """Name in ``signals`` → the clips, grouped by the arrays that store them."""
        parts = [self._part(name) for name in signals]
        rows = np.array(self._readable_rows(clip_ids, parts), np.int64)
        return {name: self._groups_of(name, rows) for name in signals}

    def _groups_of(self, name: str, rows: NDArray[np.int64]) -> list[_Group]:
        is_exact = self._state.is_exact(exact_array(name), rows)
        groups = []
        for optional in (False, True):
            indices = np.flatnonzero(is_exact == optional)
            arrays = [array for array in self._arrays_of(name) if array.optional == optional]
            groups += [_Group(indices.tolist(), rows[indices].tolist(), array) for array in arrays]
        return [group for group in groups if group.indices]

    def _form(self, name: str) -> DecodedForm:
        if name in CLOCK_ARRAYS:
            (array,) = self._arrays_of(name)
            return DecodedForm(array.shape, array.dtype, None, None)
        signal = cast("SignalName", name)
        return DecodedForm(self._shape(signal), np.dtype(SIGNALS[signal].dtype), signal, self.recipe.encodings[signal])

    def entries(self, signals: Sequence[str], selection: Selection = EVERYTHING) -> dict[str, Entries]:
        """Name → the entries of its first axis that a selection means; None for all. Raises `SignalMissing`, `BadInput`."""
        return entries({name: self.shape(name)[0] for name in signals}, selection)

    def _part(self, name: str) -> PartName:
        part = "clock" if name in CLOCK_ARRAYS else name
        if part not in self._store.parts:
            raise SignalMissing(
                f"the store {self.url} holds {', '.join(self.signals) or 'no signal'}; {name!r} is not among them. "
                "Add it to the job's `signals` and run the job again: committed signals stay as they are."
            )
        return part

    def clip(self, clip_id: str) -> Clip:
        """The clip's entry in the catalog. Raises `UnknownClip`."""
        return self._catalog.clips(np.array([self._row(clip_id)]))[0]

    def error_bound(self, name: str) -> float:
        """The largest error of a signal's stored values: of depth relative, of others in their unit. Raises `SignalMissing`."""
        self._part(name)
        signal = cast("SignalName", name)
        return encoding(signal, self.recipe.encodings[signal]).bound

    def phrases(self, clip_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """The phrases that each clip's row gave the teacher; none for a teacher that takes none. Raises `UnknownClip`."""
        self.require_clips(clip_ids)
        rows, order = np.unique(self._catalog.rows_of(clip_ids), return_inverse=True)
        texts = self._catalog.table(rows, ["prompt"])["prompt"].to_pylist()
        found = [() if text is None else prompt_in(text).phrases for text in texts]
        return [found[index] for index in order.tolist()]

    def require_clips(self, clip_ids: Sequence[str]) -> None:
        """Raise `UnknownClip` for one that the catalog does not have."""
        for index in np.flatnonzero(self._catalog.rows_of(clip_ids) < 0)[:1].tolist():
            self._row(clip_ids[index])

    def _row(self, clip_id: str) -> int:
        row = int(self._catalog.rows_of([clip_id])[0])
        if row < 0:
            count = len(self._catalog.current)
            raise UnknownClip(
                f"the store {self.url} has no clip {clip_id!r} among its {count}.{self._hint(clip_id, 'clip_id')}"
            )
        return row

    def _readable_rows(self, clip_ids: Sequence[str], parts: Sequence[PartName]) -> list[int]:
        rows = self._catalog.rows_of(clip_ids)
        status = self._state.status(rows, parts) if parts else np.full(len(rows), COMMITTED)  # of nothing, nothing is lacking
        for index in np.flatnonzero((rows < 0) | (status != COMMITTED)).tolist():
            clip_id, row = clip_ids[index], self._row(clip_ids[index])
            if status[index] == FAILED:
                raise ClipFailed(clip_id, *(self._state.failure(row, parts) or ("", "")), self.url)
            raise ClipPending(
                f"clip {clip_id!r} is planned but not committed yet in {self.url}; let the job finish, then reopen the store"
            )
        return [int(row) for row in rows]

    def _arrays_of(self, name: str) -> tuple[StoredArray, ...]:
        if name in CLOCK_ARRAYS:
            return tuple(a for a in clock_arrays(self.recipe.clips.frames) if a.name == name)
        signal = cast("SignalName", name)
        return stored_arrays(self.recipe, signal, {signal: self._shape(signal)})

    def _shape(self, signal: SignalName) -> Shape:
        return self._store.shapes[signal]

    def heads(self) -> FrozenHeads | None:
        """The teacher's frozen heads as a torch module, or None for a teacher without heads. Raises `StoreDamaged`."""
        from teacher_cache.teachers.heads.frozen import load_heads  # noqa: PLC0415  # torch

        card, file = self._store.objects.get(HEADS_CARD, LONGEST_METADATA), self._store.objects.get(HEADS_FILE)
        if card is None and file is None:
            return None
        if card is None or file is None:
            missing = HEADS_CARD if card is None else HEADS_FILE
            raise StoreDamaged(f"{missing} of {self.url} is missing, and the other half of its heads is there; {REPAIR_ADVICE}")
        return load_heads(file, unseal(HeadsCard, card, HEADS_CARD, self.url))


def chosen(clips: pa.Table, where: pc.Expression, url: str) -> list[str]:
    """Ids of the committed clips of a `Cache.clips` for which ``where`` holds. Raises `BadInput`, naming the columns."""
    try:
        found = clips.filter((pc.field("status") == "committed") & where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise BadInput(
            f"cannot choose clips of {url} where {where}: {str(error).splitlines()[0]}. Its columns are "
            f"{', '.join(f'{field.name} ({field.type})' for field in clips.schema)}."
        ) from None
    ids: list[str] = found["clip_id"].to_pylist()
    return ids


def _scattered(texts: Sequence[str], where: NDArray[np.bool_]) -> pa.Array:
    """The texts, in order, at the positions where ``where`` is true; null elsewhere."""
    return pa.array(texts, pa.string()).take(pa.array(np.maximum(np.cumsum(where) - 1, 0), mask=~where))
