"""Several stores of the same clips in, one `Targets` out: a second teacher's signals beside the first one's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.clip import Clip, FailureReason
from schemas.errors import BadInput, ClipFailed, JoinRefused, SignalMissing
from schemas.signal import SIGNAL_NAMES, SIGNALS, Shape
from schemas.view import WHOLE, View
from teacher_cache.geometry.stitch import Alignment
from teacher_cache.reader.cache import Cache, chosen
from teacher_cache.reader.fetch import Reading
from teacher_cache.reader.for_training import ForTraining
from teacher_cache.reader.selection import EVERYTHING, Entries, Selection, entries, shared
from teacher_cache.reader.stored import StoredBatch
from teacher_cache.reader.video import read_stitched
from teacher_cache.store.chunk import Empty
from teacher_cache.store.layout import CLOCK_ARRAYS

if TYPE_CHECKING:
    from teacher_cache.teachers.heads.frozen import FrozenHeads

ClipSet = Literal["common", "same"]

_FRAME_CHOICE = ("frames", "sampling", "fps", "shots")
_CONTENT = ("content_digest", "window_start", "window_stop", "segment_start", "segment_end", "flipped")
_CUT_SHORT: FailureReason = "decode_error"
_STATUSES = pa.array(["committed", "pending", "failed"])


def join_caches(
    caches: Mapping[str, Cache], *, choose: Mapping[str, str] | None = None, clips: ClipSet = "common"
) -> JoinedCache:
    """Join named stores by clip id: ``join_caches({"l4p": open_cache(…), "classical": open_cache(…)})``.

    A signal that one store holds keeps its plain name. One that several stores hold is read by store, as ``classical:flow``;
    ``choose`` decides which store the plain ``flow`` means: ``{"flow": "classical"}``. With ``clips="common"``, clips that
    some store lacks are left out; with ``"same"``, they are an error.

    Raises `JoinRefused` if the stores do not hold the same frames: their clip recipes differ in frames, sampling or fps, or a
    clip differs in content or window. They may have resized frames differently, since every recipe keeps the whole picture,
    but stores with maps must agree on its size. Raises `BadInput` for invalid store names and choices.
    """
    return JoinedCache(dict(caches), dict(choose or {}), clips)


class JoinedCache(ForTraining):
    """Several stores as one `Targets`; see `join_caches`. Picklable: a copy opens them again."""

    def __init__(self, caches: dict[str, Cache], choose: dict[str, str], clips: ClipSet) -> None:
        self.caches, self._choose, self._clip_set = caches, choose, clips
        self._require_names()
        self._require_frame_choice()
        self._cut_short: dict[str, tuple[str, str]] = {}
        """Id of a clip of other frames → what is told of it, and the store's URL."""
        self.clips: pa.Table = self._joined_clips()
        """As `Cache.clips`, for the joined clips, without ``row``. ``status`` is the worst over all stores (failed, pending,
        committed), and ``store`` names the store that has it; null if all committed the clip. A clip of which fewer frames
        decoded for one store than for another has failed in that one: its targets there are of other frames."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return JoinedCache, (self.caches, self._choose, self._clip_set)

    @property
    def url(self) -> str:
        """Every store's name and URL, for messages."""
        return " and ".join(map(self._named, self.caches))

    @property
    def size(self) -> int:
        """As `Cache.size`, of the stores with maps, which all agree; of the first store if none has maps."""
        return next(cache.size for cache in (*self._with_maps().values(), *self.caches.values()))

    @property
    def signals(self) -> tuple[str, ...]:
        """Every name that can be read: ``flow`` if one store holds it or was chosen, ``classical:flow`` if several hold it."""
        names: list[str] = []
        for signal in SIGNAL_NAMES:
            holders = self._holders(signal)
            if len(holders) == 1 or signal in self._choose:
                names.append(signal)
            if len(holders) > 1:
                names.extend(f"{holder}:{signal}" for holder in holders)
        return tuple(names)

    def clip(self, clip_id: str) -> Clip:
        """The clip's entry in the first store's catalog. Raises `UnknownClip`, naming the store, if any store lacks it."""
        return [cache.clip(clip_id) for cache in self.caches.values()][0]  # noqa: RUF015  # every store is asked

    def committed_ids(self, where: pc.Expression | None = None) -> list[str]:
        """Ids of the clips that are committed in every signal of every store, in the first store's row order.

        ``where`` chooses among them by the columns of `clips`, as in `Cache.committed_ids`.
        """
        if where is not None:
            return chosen(self.clips, where, self.url)
        ids: list[str] = self.clips.filter(pc.equal(self.clips["status"], "committed"))["clip_id"].to_pylist()
        return ids

    def shape(self, name: str) -> Shape:
        """As `Cache.shape`, for a name in `signals`."""
        holder, signal = self._home(name)
        return self.caches[holder].shape(signal)

    def read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
        view: View = WHOLE,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `Cache.read`, for names in `signals`. Errors name the store that they come from."""
        found = self.begin_read(signals, clip_ids, layers=layers, frames=frames).result()
        return {
            name: self.caches[holder].seen(signal, found[name], view)
            for name, (holder, signal) in ((name, self._home(name)) for name in signals)
        }

    def begin_read(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> Reading[dict[str, np.ndarray[Any, Any]]]:
        """`read`, begun and not waited for."""
        self.require_clips(clip_ids)
        wanted = self._wanted(signals, Selection(layers=layers, frames=frames))
        found = {holder: self.caches[holder].begin_read(names, clip_ids, **some) for holder, (names, some) in wanted.items()}
        homes = {name: self._home(name) for name in signals}
        answer = {name: found[holder].answer[signal] for name, (holder, signal) in homes.items()}
        return Reading.together(list(found.values()), answer)

    def read_stored(
        self,
        signals: Sequence[str],
        clip_ids: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> StoredBatch:
        """As `Cache.read_stored`, for names in `signals`."""
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
        """`read_stored`, begun and not waited for."""
        self.require_clips(clip_ids)
        wanted = self._wanted(signals, Selection(layers=layers, frames=frames))
        found = {
            holder: self.caches[holder].begin_stored(names, clip_ids, empty, **some) for holder, (names, some) in wanted.items()
        }
        homes = {name: self._home(name) for name in signals}
        parts = {name: found[holder].answer.parts[signal] for name, (holder, signal) in homes.items()}
        forms = {name: found[holder].answer.forms[signal] for name, (holder, signal) in homes.items()}
        return Reading.together(list(found.values()), StoredBatch(tuple(clip_ids), parts, forms))

    def error_bound(self, name: str) -> float:
        """As `Cache.error_bound`, for a name in `signals`."""
        holder, signal = self._home(name)
        return self.caches[holder].error_bound(signal)

    def phrases(self, clip_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """As `Cache.phrases`, of the store that holds ``objects``."""
        return self.caches[self._home("objects")[0]].phrases(clip_ids)

    def require_clips(self, clip_ids: Sequence[str]) -> None:
        """Raise `UnknownClip`, naming the store, for a clip that some store lacks; `ClipFailed` if its frames differ."""
        for cache in self.caches.values():
            cache.require_clips(clip_ids)
        for clip_id in clip_ids:
            if clip_id in self._cut_short:
                text, store = self._cut_short[clip_id]
                raise ClipFailed(clip_id, _CUT_SHORT, text, store)

    def read_video(
        self, signals: Sequence[str], video_id: str, *, align: Alignment = "disparity", seed: int = 0
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `Cache.read_video`, for plain names of signals: choose among stores that hold the same."""
        first = next(iter(self.caches.values()))
        if first.recipe.clips.sampling != "dense":
            raise BadInput(f"{self.url} are sampled {first.recipe.clips.sampling}; only `dense` windows can be stitched")
        return read_stitched(self.read, first.clips_of_video(video_id), signals, align, seed)

    def _wanted(self, signals: Sequence[str], selection: Selection) -> dict[str, tuple[list[str], Selection]]:
        """Store's name → its signals among these, and what of the selection concerns them."""
        self.entries(signals, selection)
        wanted: dict[str, list[str]] = defaultdict(list)
        for holder, signal in map(self._home, signals):
            wanted[holder].append(signal)
        return {holder: (names, shared(names, selection)) for holder, names in wanted.items()}

    def entries(self, signals: Sequence[str], selection: Selection = EVERYTHING) -> dict[str, Entries]:
        """As `Cache.entries`, for names in `signals`."""
        return entries({name: self.shape(name)[0] for name in signals}, selection)

    @property
    def version(self) -> dict[str, int]:
        """Every store's name and version."""
        return {name: cache.version for name, cache in self.caches.items()}

    def heads(self) -> FrozenHeads | None:
        """The frozen heads that decode ``f4d``, or None if no store holds it. Raises `SignalMissing` if several do."""
        return self.caches[self._home("f4d")[0]].heads() if self._holders("f4d") else None

    def _named(self, name: str) -> str:
        return f"{name} ({self.caches[name].url})"

    def _holders(self, signal: str) -> list[str]:
        return [name for name, cache in self.caches.items() if signal in cache.signals]

    def _with_maps(self) -> dict[str, Cache]:
        """The stores whose signals are laid over the teacher's frame."""
        return {
            name: cache
            for name, cache in self.caches.items()
            if any({"x", "ray_x"} & set(SIGNALS[signal].dims) for signal in cache.signals)
        }

    def _home(self, name: str) -> tuple[str, str]:
        """(store's name, signal) that ``name`` refers to."""
        holder, colon, signal = name.rpartition(":")
        if name in CLOCK_ARRAYS:
            return next(iter(self.caches)), name
        if colon and holder in self.caches and signal in self.caches[holder].signals:
            return holder, signal
        holders = self._holders(name)
        if name in self._choose or len(holders) == 1:
            return self._choose.get(name, *holders[:1]), name
        if not holders:
            held = "; ".join(f"{self._named(store)} holds {_listed(cache.signals)}" for store, cache in self.caches.items())
            raise SignalMissing(
                f"{name!r} is in no store: {held}. "
                "Join a store that has it, or add it to a job's `signals` and run the job again."
            )
        raise SignalMissing(
            f"{name!r} is in {' and '.join(map(self._named, holders))}; ask for {' or '.join(f'{h}:{name}' for h in holders)}, "
            f"or join with choose={{{name!r}: {holders[0]!r}}}"
        )

    def _require_names(self) -> None:
        if not self.caches or any(not name or ":" in name for name in self.caches):
            raise BadInput(f"a join needs at least one store, and names without a colon; these are {list(self.caches)}")
        if self._clip_set not in ("common", "same"):
            raise BadInput(f"`clips` is {self._clip_set!r}; use common or same")
        for signal, name in self._choose.items():
            if name not in self._holders(signal):
                raise BadInput(
                    f"choose takes {signal!r} from {name!r}, which does not hold it; it is in {_listed(self._holders(signal))}"
                )

    def _require_frame_choice(self) -> None:
        for fields, caches in ((_FRAME_CHOICE, self.caches), (("size",), self._with_maps())):
            for field in fields:
                values = {name: getattr(cache.recipe.clips, field) for name, cache in caches.items()}
                if len(set(values.values())) > 1:
                    said = ", ".join(f"{value!r} in {self._named(name)}" for name, value in values.items())
                    raise JoinRefused(
                        f"these stores do not hold the same frames: clips.{field} is {said}; run one of the jobs into a new "
                        "store with the other's value"
                    )

    def _joined_clips(self) -> pa.Table:
        tables = {name: cache.clips.drop_columns(["row"]).combine_chunks() for name, cache in self.caches.items()}
        ids = {name: table["clip_id"].combine_chunks() for name, table in tables.items()}
        if self._clip_set == "same":
            self._require_same(ids)
        common = reduce(lambda left, right: left.filter(pc.is_in(left, value_set=right)), ids.values())
        aligned = {name: table.take(pc.index_in(common, value_set=ids[name])) for name, table in tables.items()}
        for left, right in combinations(aligned, 2):
            self._require_content(aligned[left], left, aligned[right], right)
        return _worst(self._without_other_frames(aligned))

    def _without_other_frames(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """The tables, in which a clip has failed where more frames at its end were undecodable than for another store."""
        committed = np.array([pc.equal(table["status"], "committed").to_numpy() for table in tables.values()])
        lacking = np.where(committed, [table["undecodable_tail_frames"].to_numpy() for table in tables.values()], -1)
        least = np.where(committed, lacking, np.iinfo(lacking.dtype).max).min(0)
        return {name: self._failed(table, name, least, lacking[number]) for number, (name, table) in enumerate(tables.items())}

    def _failed(self, table: pa.Table, name: str, least: NDArray[np.int64], lacking: NDArray[np.int64]) -> pa.Table:
        wrong = lacking > least
        if not wrong.any():
            return table
        texts = [
            f"{more} frames at its end did not decode for this store, and {fewer} for another: its targets are of other frames"
            for more, fewer in zip(lacking[wrong].tolist(), least[wrong].tolist(), strict=True)
        ]
        for clip_id, text in zip(table["clip_id"].filter(pa.array(wrong)).to_pylist(), texts, strict=True):
            self._cut_short.setdefault(clip_id, (text, self.caches[name].url))
        marked = {"status": ["failed"] * len(texts), "reason": [_CUT_SHORT] * len(texts), "detail": texts}
        for column, values in marked.items():
            put = pc.replace_with_mask(table[column].combine_chunks(), pa.array(wrong), pa.array(values, table[column].type))
            table = _with(table, column, put)
        return table

    def _require_same(self, ids: Mapping[str, pa.Array]) -> None:
        for (lacking, there), (holder, held) in permutations(ids.items(), 2):
            absent = held.filter(pc.invert(pc.is_in(held, value_set=there)))
            if len(absent):
                raise JoinRefused(
                    f"{self._named(lacking)} lacks {len(absent)} clips of {self._named(holder)}, such as "
                    f"{absent[0].as_py()!r}; run its job over them too, or join with clips='common'"
                )

    def _require_content(self, left: pa.Table, left_name: str, right: pa.Table, right_name: str) -> None:
        for column in _CONTENT:
            differs = pc.fill_null(
                pc.not_equal(left[column], right[column]), fill_value=False
            )  # null for a clip that was never decoded
            if pc.any(differs).as_py():
                clip_id, old, new = (
                    values.filter(differs)[0].as_py() for values in (left["clip_id"], left[column], right[column])
                )
                raise JoinRefused(
                    f"{pc.sum(differs).as_py()} clips are not the same in both stores: {column} of {clip_id!r} is {old!r} in "
                    f"{self._named(left_name)} and {new!r} in {self._named(right_name)}; a video changed between the two runs, "
                    "so run the older store's job again"
                )


def _worst(tables: Mapping[str, pa.Table]) -> pa.Table:
    """The first table, with each row's worst status over all tables and the name of the table that it comes from."""
    joined, *others = (table.append_column("store", pa.repeat(name, len(table))) for name, table in tables.items())
    for table in others:
        worse = pc.greater(*(pc.index_in(status, value_set=_STATUSES) for status in (table["status"], joined["status"])))
        for column in ("status", "reason", "detail", "store"):
            joined = _with(joined, column, pc.if_else(worse, table[column], joined[column]))
    committed = pc.equal(joined["status"], "committed")
    return _with(joined, "store", pc.if_else(committed, pa.scalar(None, pa.string()), joined["store"]))


def _with(table: pa.Table, column: str, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, values)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
