"""A store's URL in; what is in it, as figures, out: all of what the log and catalog know, and the values of some clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BadInput, StoreDamaged
from schemas.log import UnitCommitted
from schemas.recipe import FORMAT_VERSION, Recipe
from schemas.report import (
    STATS_CLIPS,
    ChannelSpread,
    ErrorStats,
    OutlierChannel,
    RepeatedContent,
    SignalStats,
    Spread,
    StatsReport,
    ValueSample,
    ValueStats,
)
from schemas.signal import SIGNALS, SignalName, exact_array
from schemas.storage import StorageOptions
from teacher_cache.io.progress import Progress, no_progress
from teacher_cache.reader.cache import Cache
from teacher_cache.report.moments import Moments
from teacher_cache.store.catalog import Catalog
from teacher_cache.store.history import DamagedRecord, records
from teacher_cache.store.layout import record_key
from teacher_cache.store.state import FAILED, clip_counts
from teacher_cache.store.store import Store, bytes_by_signal, open_store

NEAR = 0.9
"""Share of its bound from which an error is near it."""

OUTLIER = 10
"""Times the median RMS of a layer's channels from which one is an outlier."""

_EXAMPLES, _OUTLIERS_NAMED = 5, 8
_AT_ONCE = 4  # clips read together
_BINS = 1000
_FOLDED_AT_ONCE = 2**16
_MOST_MEASURES = 64

# Axes whose indices are told apart; over all others, values are taken together.
_NAMES: tuple[SignalName, ...] = ("regions", "objects")
"""Signals whose values are names or codes, which have no mean."""
_TOLD_APART = ("layer", "channel", "uv", "plucker", "rgb")
_CHANNELS: Mapping[str, tuple[str, ...]] = {
    "uv": ("u", "v"),
    "rgb": ("red", "green", "blue"),
    "plucker": tuple(f"{part} {axis}" for part in ("direction", "moment") for axis in "xyz"),
}


def store_stats(
    url: str,
    clips: int | None = STATS_CLIPS,
    seed: int = 0,
    *,
    version: int | None = None,
    progress: Progress = no_progress,
    storage_options: StorageOptions | None = None,
) -> tuple[StatsReport, Recipe]:
    """Figures of the store at ``url``, and its recipe. ``clips`` are how many clips' values to look at; None for all.

    All but the values is exact, of every clip. It reads every record of the log, and holds a few numbers for each clip, as
    opening a store does. Values take memory for four clips of a signal at a time, however many are looked at. Equal versions
    and seeds choose equal clips.

    Raises `StoreNotFound`, `StoreDamaged`, `Unreachable`, and `BadInput` for a version that is not there.
    """
    if clips is not None and clips < 0:
        raise BadInput(f"{clips} clips cannot be looked at; give 0 or more")
    store = open_store(url, storage_options, version=version)
    catalog, state, rows = store.catalog(), store.state, store.catalog().current
    cache = Cache(store)
    committed = cache.committed_rows
    failed = rows[state.status(rows, store.parts) == FAILED].tolist()
    reasons = Counter((state.failure(row, store.parts) or ("", ""))[0] for row in failed)
    videos, repeated = _contents(catalog)
    errors = _errors(store, catalog, committed, progress)
    sample = _chosen(committed, clips, seed)
    values = _values(cache, sample, progress)
    sizes = bytes_by_signal(state, store.signals)
    found = {signal: _of_values(signal, values.get(signal), store.recipe) for signal in store.signals}
    signals = {
        signal: SignalStats(
            units=SIGNALS[signal].units,
            dims=SIGNALS[signal].dims,
            shape=store.shapes[signal],
            encoding=store.recipe.encodings[signal],
            bytes=sizes[signal],
            stored_exactly=int(state.is_exact(exact_array(signal), committed).sum()),
            errors=errors.get(signal, ()),
            values=found[signal][0],
            channels=found[signal][1],
        )
        for signal in store.signals
    }
    report = StatsReport(
        store=store.url,
        fingerprint=store.recipe.fingerprint,
        format_version=FORMAT_VERSION,
        version=store.version,
        clips=clip_counts(rows, state, store.parts),
        bytes=sizes,
        failed=dict(reasons.most_common()),
        videos=videos,
        repeated=repeated,
        sample=ValueSample(clips=len(sample), of=len(committed), seed=seed),
        signals=signals,
    )
    return report, store.recipe


def _contents(catalog: Catalog) -> tuple[int, RepeatedContent]:
    """(number of videos, those of them that have another's content)."""
    videos = len(np.unique(catalog.video_keys(catalog.current)))
    rows, starts = catalog.rows_of_repeated_contents()
    ends = [*starts[1 : _EXAMPLES + 1].tolist(), len(rows)]
    examples = []
    for start, end in zip(starts[:_EXAMPLES].tolist(), ends, strict=False):
        some = np.sort(rows[start : min(end, start + _EXAMPLES)])
        examples.append(tuple(catalog.table(some, ["video_id"])["video_id"].to_pylist()))
    return videos, RepeatedContent(contents=len(starts), videos=len(rows) - len(starts), examples=tuple(examples))


@dataclass
class _Errors:
    """The errors of one signal's clips under one measure and bound."""

    measure: str
    bound: float
    rows: list[int] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    """Waiting, with their rows, to be folded."""
    count: int = 0
    relative_rms: float = 0.0
    """Their sum."""
    near: int = 0
    worst: tuple[float, int] = (-1.0, -1)
    """(error, row)."""
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS + 1, np.int64))
    """How many errors are in each thousandth of the bound; in the last one, those beyond it."""

    def fold(self) -> None:
        if not self.rows:
            return
        measured = np.array(self.measured)
        shares = measured / self.bound if self.bound else np.where(measured, np.inf, 0.0)
        self.bins += np.bincount(np.minimum(shares * _BINS, _BINS).astype(np.int64), minlength=_BINS + 1)
        self.near += int((shares >= NEAR).sum())
        self.count += len(measured)
        place = int(measured.argmax())
        self.worst = max(self.worst, (float(measured[place]), self.rows[place]))
        self.rows.clear()
        self.measured.clear()

    def stats(self, catalog: Catalog) -> ErrorStats:
        error, row = self.worst
        middle = int(np.searchsorted(np.cumsum(self.bins), (self.count + 1) // 2))
        return ErrorStats(
            measure=self.measure,
            bound=self.bound,
            clips=self.count,
            worst=error,
            worst_clip=catalog.table(np.array([row]), ["clip_id"])["clip_id"][0].as_py(),
            median=min(error, self.bound * (middle + 0.5) / _BINS),
            near_bound=self.near / self.count,
            relative_rms=self.relative_rms / self.count,
        )


def _errors(
    store: Store, catalog: Catalog, committed: NDArray[np.int64], progress: Progress
) -> dict[SignalName, tuple[ErrorStats, ...]]:
    """What the log says of every committed clip's error, by signal."""
    counted = np.zeros(store.state.rows, bool)
    counted[committed] = True
    found: dict[tuple[SignalName, str, float], _Errors] = {}
    for unit in _units(store, progress):
        for figures in unit.figures:
            kind = figures.signal, figures.measure, figures.bound
            errors = found.setdefault(kind, _Errors(figures.measure, figures.bound))
            for row, measured, relative in zip(figures.rows, figures.measured, figures.relative_rms, strict=False):
                if row < len(counted) and counted[row]:
                    errors.rows.append(row)
                    errors.measured.append(measured)
                    errors.relative_rms += relative
            if len(errors.rows) >= _FOLDED_AT_ONCE:
                errors.fold()
        if len(found) > _MOST_MEASURES:
            raise StoreDamaged(f"the log of {store.url} measures errors in more than {_MOST_MEASURES} ways, which no run does")
    for errors in found.values():
        errors.fold()
    signals = {signal for signal, _, _ in found}
    return {
        signal: tuple(errors.stats(catalog) for (of, _, _), errors in sorted(found.items()) if of == signal and errors.count)
        for signal in signals
    }


def _units(store: Store, progress: Progress) -> Iterator[UnitCommitted]:
    with progress("reading the log", store.version + 1, "records") as advance:
        for read in records(store.objects, store.version):
            if isinstance(read, DamagedRecord):
                raise StoreDamaged(f"{record_key(read.version)} of {store.url}: {read.detail}")
            yield from (action for action in read[0].actions if isinstance(action, UnitCommitted))
            advance(1)


def _chosen(committed: NDArray[np.int64], clips: int | None, seed: int) -> NDArray[np.int64]:
    """The rows to look at, ascending."""
    if clips is None or clips >= len(committed):
        return committed
    return np.sort(np.random.default_rng(seed).choice(committed, clips, replace=False, shuffle=False))


def _values(cache: Cache, rows: NDArray[np.int64], progress: Progress) -> dict[SignalName, Moments]:
    """What the clips' values come to, by signal."""
    found: dict[SignalName, Moments] = {}
    amounts = [signal for signal in cache.signals if signal not in _NAMES]
    with progress("reading values", len(rows) * len(amounts), "clips") as advance:
        for signal in amounts:
            dims = SIGNALS[signal].dims
            kept = [axis for axis, dim in enumerate(dims) if dim in _TOLD_APART]
            for start in range(0, len(rows), _AT_ONCE):
                some = rows[start : start + _AT_ONCE]
                for clip in cache.read_rows([signal], some)[signal]:
                    moments = Moments.of(clip[1:] if signal == "flow" and len(clip) > 1 else clip, kept)
                    found[signal] = found[signal].merged(moments) if signal in found else moments
                advance(len(some))
    return found


def _of_values(
    signal: SignalName, moments: Moments | None, recipe: Recipe
) -> tuple[tuple[ValueStats, ...], tuple[ChannelSpread, ...]]:
    if moments is None:
        return (), ()
    if "layer" not in SIGNALS[signal].dims:
        return _value_stats(moments, _CHANNELS.get(SIGNALS[signal].dims[-1], ("",))), ()
    layers = _layer_names(recipe, len(moments.mean))
    spreads = tuple(_spread(name, mean, rms) for name, mean, rms in zip(layers, moments.mean, moments.rms, strict=True))
    return _value_stats(moments.over_channels(), layers), spreads


def _layer_names(recipe: Recipe, count: int) -> tuple[str, ...]:
    """``layer 14``, by the encoder's numbers where the recipe has them."""
    hooks = recipe.teacher.config.get("hooks")
    numbers = hooks if isinstance(hooks, list) and len(hooks) == count else range(count)
    return tuple(f"layer {number}" for number in numbers)


def _value_stats(moments: Moments, names: tuple[str, ...]) -> tuple[ValueStats, ...]:
    columns = (np.atleast_1d(values).tolist() for values in (moments.mean, moments.std, moments.least, moments.most))
    return tuple(
        ValueStats(name=name, mean=mean, std=std, least=least, most=most)
        for name, mean, std, least, most in zip(names, *columns, strict=True)
    )


def _spread(layer: str, means: NDArray[np.float64], rms: NDArray[np.float64]) -> ChannelSpread:
    limit = OUTLIER * float(np.median(rms))
    largest = np.argsort(-rms, kind="stable")
    outliers = largest[rms[largest] > limit]
    named = (OutlierChannel(channel=int(channel), rms=float(rms[channel])) for channel in outliers[:_OUTLIERS_NAMED])
    return ChannelSpread(
        name=layer, channels=len(rms), means=_extent(means), rms=_extent(rms), outliers=len(outliers), largest=tuple(named)
    )


def _extent(values: NDArray[np.float64]) -> Spread:
    return Spread(median=float(np.median(values)), least=float(values.min()), most=float(values.max()))
