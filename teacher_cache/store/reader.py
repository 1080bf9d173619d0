"""Reading a store: targets in physical units, and nothing that the ledger does not vouch for.

Loads neither ray nor a teacher; torch only for a dataset or the heads.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import zarr
from zarr.abc.store import Store as ZarrStore

from schemas.clip import Clip
from schemas.errors import BadInput, ClipFailed, ClipPending, Forked, SignalMissing, StoreDamaged, UnknownClip
from schemas.ledger import PartName
from schemas.recipe import Recipe
from schemas.signal import SIGNALS, Shape, SignalName
from schemas.view import WHOLE, View
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import encoding
from teacher_cache.stitch import STITCHED, Alignment, overwrite, stitch
from teacher_cache.store.disk import DiskTier, ThroughDisk
from teacher_cache.store.layout import HEADS_CARD, HEADS_FILE, clock_arrays, stored_arrays
from teacher_cache.store.store import Store, open_store
from teacher_cache.views import view_signal

if TYPE_CHECKING:
    from teacher_cache.heads.frozen import FrozenHeads
    from teacher_cache.store.dataset import CachedTargets

# More requests in flight than this no longer pay, and each holds a clip in memory.
_IN_FLIGHT = 8
_CLOCK = ("timestamps", "frame_index")

Values = np.ndarray[Any, Any]


def open_cache(url: str, disk: DiskTier | None = None) -> Cache:
    """Open a store for reading, at any fsspec URL or local path, with local disk before it. Raises `StoreNotFound`."""
    return Cache(open_store(str(url)), disk)


class Cache:
    """A store as its readers see it: the state of the moment it was opened. Picklable; a copy opens anew."""

    def __init__(self, store: Store, disk: DiskTier | None = None) -> None:
        self._store, self._disk = store, disk
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, tuple[str, DiskTier | None]]:
        return open_cache, (self.url, self._disk)

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def recipe(self) -> Recipe:
        return self._store.recipe

    @property
    def size(self) -> int:
        """Height and width of the teacher's picture, in pixels: what maps and crops are measured in."""
        return self.recipe.clips.size

    @property
    def signals(self) -> tuple[SignalName, ...]:
        """The signals that the store holds."""
        return self._store.signals

    @cached_property
    def _current(self) -> dict[str, Clip]:
        return self._store.catalog().current()

    @cached_property
    def _ledger(self) -> Any:
        return self._store.ledger()

    @cached_property
    def clips(self) -> pa.Table:
        """One row a clip: clip_id, video (its uri), status (committed, failed or pending), reason, detail, row, content_digest,
        video_id, window_start, window_stop.

        ``status`` is over every signal of the store; ``row`` is the clip's place on the arrays' first axis. The last two are
        the half-open window that the clip is of its video, null where it is all of it; see `schemas.clip.Window`.
        """
        records = []
        for clip in self._current.values():
            outcome = self._ledger.outcome(clip.row, self._store.parts)
            state = {"status": "pending", "reason": None, "detail": None}
            if outcome is not None:
                state = {"status": outcome.status, "reason": outcome.reason, "detail": outcome.detail}
            records.append(clip.model_dump() | state)
        text, number = pa.string(), pa.int64()
        columns = {"clip_id": text, "video": text, "status": text, "reason": text, "detail": text, "row": number}
        schema = pa.schema(columns | {"content_digest": text, "video_id": text, "window_start": number, "window_stop": number})
        return pa.Table.from_pylist(records, schema=schema)

    def committed_ids(self) -> list[str]:
        """Ids of the clips that can be read in every signal, in the order of their rows."""
        table = self.clips
        statuses = table["status"].to_pylist()
        return [
            clip_id for clip_id, status in zip(table["clip_id"].to_pylist(), statuses, strict=True) if status == "committed"
        ]

    def read(self, signals: Sequence[str], clip_ids: Sequence[str], *, view: View = WHOLE) -> dict[str, Values]:
        """Targets of some clips, in the order asked for.

        ``signals`` may also name ``timestamps`` (float64 seconds) and ``frame_index`` (int32). Each array has the
        clips as its first axis; axes and units are those of `schemas.signal.SIGNALS`: float32, depth positive.
        ``view`` crops and mirrors the maps as `teacher_cache.views` says; give the student's frames the same view.

        Raises `SignalMissing`, `UnknownClip`, `ClipFailed` with the recorded reason, `ClipPending`, `ViewRefused`,
        `StoreDamaged` where a committed chunk is gone or fails its checksum, and `Forked` in a forked process.
        """
        self._refuse_fork()
        parts = [self._part(name) for name in signals]
        rows = [self._readable_row(clip_id, parts) for clip_id in clip_ids]
        wanted = [array for name in signals for array in self._arrays_of(name)]
        with self._store.objects.reachable(), ThreadPoolExecutor(_IN_FLIGHT) as readers:
            fetches = {(a.name, row): readers.submit(self._fetch, a, row) for a in wanted for row in rows}
            fetched = {key: future.result() for key, future in fetches.items()}
        return {name: self._seen(name, self._stack(name, rows, fetched), view) for name in signals}

    def _refuse_fork(self) -> None:
        if os.getpid() != self._process:
            raise Forked(
                f"{self.url} was opened in another process, of which this one is a fork; its connections and threads do not "
                "survive that. Start workers with multiprocessing_context='spawn', or open the store in the worker itself."
            )

    def _seen(self, name: str, values: Values, view: View) -> Values:
        return values if name in _CLOCK else view_signal(cast("SignalName", name), values, view, self.size)

    def read_video(
        self, signals: Sequence[str], video_id: str, *, align: Alignment = "disparity", seed: int = 0
    ) -> dict[str, Values]:
        """Targets of a whole video of a ``dense`` store, its windows stitched: float32, the video's frames as first axis.

        ``signals`` are of depth, flow, motion and camray; ``frame_index`` and ``timestamps`` are always there as well. Depth
        and rays are in the scale, and rays in the first camera's frame, of the first window; `teacher_cache.stitch.stitch`
        says how ``align`` brings the others there, and what ``seed`` is for. The mirrored frames of the last window are left
        out.

        Raises `BadInput` for another sampling or a signal without frames, and what `read` raises: one window that failed
        leaves a gap, so the video cannot be stitched.
        """
        if self.recipe.clips.sampling != "dense":
            raise BadInput(f"{self.url} is sampled {self.recipe.clips.sampling}; only windows of `dense` can be stitched")
        if without := [name for name in signals if name not in (*STITCHED, *_CLOCK)]:
            raise BadInput(f"{without[0]!r} has no frame axis to stitch along; {', '.join(STITCHED)} have")
        together = ("depth", "camray") if align == "joint" and {"depth", "camray"} & set(signals) else ()
        wanted = [name for name in STITCHED if name in (*signals, *together)]
        clips = sorted(self._clips_of(video_id), key=lambda clip: clip.window_start or 0)
        read = self.read([*wanted, *_CLOCK], [clip.clip_id for clip in clips])
        starts = [clip.window_start or 0 for clip in clips]
        stitched = stitch({name: list(read[name]) for name in wanted}, starts, align=align, seed=seed)
        clock = {name: overwrite(list(read[name]), starts) for name in _CLOCK}
        frames = int(clock["frame_index"].max()) + 1
        return {name: values[:frames] for name, values in (stitched | clock).items() if name in (*signals, *_CLOCK)}

    def _clips_of(self, video_id: str) -> list[Clip]:
        found = [clip for clip in self._current.values() if clip.video_id == video_id]
        if not found:
            close = difflib.get_close_matches(video_id, {clip.video_id for clip in self._current.values()}, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UnknownClip(f"the store {self.url} has no video {video_id!r}.{hint}")
        return found

    def _stack(self, name: str, rows: Sequence[int], fetched: Mapping[tuple[str, int], Values]) -> Values:
        arrays = self._arrays_of(name)
        if not rows:
            return np.empty((0, *arrays[0].shape), dtype=arrays[0].dtype if name in _CLOCK else np.float32)
        if name in _CLOCK:
            return np.stack([fetched[name, row] for row in rows])
        signal = SIGNALS[cast("SignalName", name)]
        decoder = encoding(signal.name, self.recipe.encodings[signal.name])
        return np.stack([decoder.decode(signal, {a.name: fetched[a.name, row] for a in arrays}) for row in rows])

    def _part(self, name: str) -> PartName:
        part = "clock" if name in _CLOCK else name
        if part not in self._store.parts:
            raise SignalMissing(
                f"the store {self.url} holds {', '.join(self.signals) or 'no signal'}; {name!r} is not among them. "
                "Add it to the job's `signals` and run the job again: committed signals stay as they are."
            )
        return part

    def clip(self, clip_id: str) -> Clip:
        """What the catalog says of a clip. Raises `UnknownClip`."""
        clip = self._current.get(clip_id)
        if clip is None:
            close = difflib.get_close_matches(clip_id, self._current, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UnknownClip(f"the store {self.url} has no clip {clip_id!r}, among {len(self._current)}.{hint}")
        return clip

    def _readable_row(self, clip_id: str, parts: Iterable[PartName]) -> int:
        clip = self.clip(clip_id)
        outcome = self._ledger.outcome(clip.row, parts)
        if outcome is None:
            raise ClipPending(
                f"clip {clip_id!r} is planned but not committed yet in {self.url}; run the job to its end, then open anew"
            )
        if outcome.status == "failed":
            raise ClipFailed(clip_id, str(outcome.reason), str(outcome.detail), self.url)
        return clip.row

    @cached_property
    def _group(self) -> zarr.Group:
        with self._store.objects.reachable():
            store: ZarrStore = self._store.objects.zarr_store()
            if self._disk is not None:
                digests = {key: stored.digest for key, stored in self._ledger.objects.items()}
                store = ThroughDisk(store, self._disk, digests)
            return zarr.open_group(store, mode="r", use_consolidated=False)

    @cached_property
    def _zarr_arrays(self) -> dict[str, zarr.Array[Any]]:
        return {}

    def _zarr_array(self, name: str) -> zarr.Array[Any]:
        if name not in self._zarr_arrays:
            try:
                self._zarr_arrays[name] = cast("zarr.Array[Any]", self._group[name])
            except KeyError:
                raise StoreDamaged(f"the metadata of the array {name} of {self.url} is gone") from None
        return self._zarr_arrays[name]

    def _arrays_of(self, name: str) -> tuple[StoredArray, ...]:
        if name in _CLOCK:
            return tuple(a for a in clock_arrays(self.recipe.clips.frames) if a.name == name)
        signal = cast("SignalName", name)
        shape: Shape = self._zarr_array(name).shape[1:]
        return stored_arrays(self.recipe, signal, {signal: shape})

    def _fetch(self, array: StoredArray, row: int) -> Values:
        try:
            values = np.asarray(self._zarr_array(array.name)[row])
        except (ValueError, RuntimeError) as error:
            raise StoreDamaged(
                f"row {row} of {array.name} in {self.url} cannot be read ({error}); "
                "`teacher-cache verify` lists what is damaged"
            ) from None
        # Zarr gives a missing chunk as fill values, which no encoding writes; one value tells.
        first = values.flat[0]
        if first == array.missing or (first != first and array.missing != array.missing):  # noqa: PLR0124  # NaN
            raise StoreDamaged(
                f"row {row} of {array.name} in {self.url} is committed, but its chunk is gone; "
                "`teacher-cache verify` lists what is damaged"
            )
        return values

    def dataset(self, signals: Sequence[str], seed: int | None = 0, clip_ids: Sequence[str] | None = None) -> CachedTargets:
        """A map-style torch dataset over the committed clips (or ``clip_ids``), shuffled by ``seed``; None keeps order."""
        from teacher_cache.store.dataset import CachedTargets  # noqa: PLC0415  # torch, which `status` does not need

        for name in signals:
            self._part(name)
        return CachedTargets(self, tuple(signals), tuple(clip_ids if clip_ids is not None else self.committed_ids()), seed)

    def heads(self) -> FrozenHeads | None:
        """The teacher's frozen heads as a torch module, or None for a teacher that has none."""
        from teacher_cache.heads.frozen import load_heads  # noqa: PLC0415  # torch

        found = self._store.objects.get_many([HEADS_CARD, HEADS_FILE])
        if HEADS_CARD not in found:
            return None
        if HEADS_FILE not in found:
            raise StoreDamaged(f"{self.url} has a card for its heads, but not {HEADS_FILE}")
        return load_heads(found[HEADS_FILE], found[HEADS_CARD])
