"""What a store and several joined ones give alike: datasets, streams of batches, and the objects of clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from schemas.regions import RegionObject
from teacher_cache.encodings.objects import unpacked_objects
from teacher_cache.reader.region_stats import RegionStats, region_stats
from teacher_cache.reader.selection import Entries, Selection
from teacher_cache.reader.targets import Targets

if TYPE_CHECKING:
    import torch

    from teacher_cache.reader.datasets import CachedTargets, StoredTargets
    from teacher_cache.reader.stored import StoredBatch
    from teacher_cache.reader.stream import Readable, TargetStream

    class _Store(Targets, Readable, Protocol):
        def entries(self, signals: Sequence[str], selection: Selection = ...) -> dict[str, Entries]: ...

        def read_stored(
            self,
            signals: Sequence[str],
            clip_ids: Sequence[str],
            *,
            layers: Sequence[int] | None = None,
            frames: Sequence[int] | None = None,
        ) -> StoredBatch: ...

        def objects(self, clip_ids: Sequence[str]) -> list[tuple[RegionObject, ...]]: ...

        def error_bound(self, name: str) -> float: ...

        def phrases(self, clip_ids: Sequence[str]) -> list[tuple[str, ...]]: ...


class ForTraining:
    """Methods of `Cache` and `JoinedCache`. torch is imported when one is called: `status` does not need it."""

    def dataset(
        self: _Store,
        signals: Sequence[str],
        seed: int | None = 0,
        clip_ids: Sequence[str] | None = None,
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> CachedTargets:
        """A map-style torch dataset over the committed clips (or ``clip_ids``), in that order: item i is the i-th clip.

        ``seed`` is of the sampler that `CachedTargets.batches` gives, which shuffles; None has it keep the order.
        ``clip_ids=cache.committed_ids(where)`` chooses by the list's columns; ``layers`` and ``frames`` as in `Cache.read`.
        Raises `SignalMissing`, and `BadInput` for layers or frames that are not there.
        """
        from teacher_cache.reader.datasets import CachedTargets  # noqa: PLC0415  # torch

        ids = tuple(clip_ids if clip_ids is not None else self.committed_ids())
        return CachedTargets(self, tuple(signals), ids, seed, _kept(self, signals, layers, frames))

    def objects(self: _Store, clip_ids: Sequence[str]) -> list[tuple[RegionObject, ...]]:
        """The objects of each clip, found or not, by their numbers: from the signal ``objects``, without label maps.

        Raises `SignalMissing`, and what `Cache.read` raises.
        """
        values = self.read(["objects"], clip_ids)["objects"]
        return [unpacked_objects(one, named) for one, named in zip(values, self.phrases(clip_ids), strict=True)]

    def region_stats(self: _Store, clip_ids: Sequence[str]) -> RegionStats:
        """Area, and mean depth, flow and motion of each clip's objects over time, from the label maps and the maps there are.

        Some clips at a time are read and let go, so that thousands take no more memory than their numbers. Raises
        `SignalMissing` without ``regions`` and ``objects``, `BadInput` for maps of another size, and what `Cache.read` raises.
        """
        return region_stats(self, clip_ids)

    def stored_dataset(
        self: _Store,
        signals: Sequence[str],
        seed: int | None = 0,
        clip_ids: Sequence[str] | None = None,
        *,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> StoredTargets:
        """A torch dataset of whole batches in the form of `read_stored`, to be decoded on the trainer's device.

        Raises what `dataset` raises.
        """
        from teacher_cache.reader.datasets import StoredTargets  # noqa: PLC0415  # torch

        ids = tuple(clip_ids if clip_ids is not None else self.committed_ids())
        return StoredTargets(self, tuple(signals), ids, seed, _kept(self, signals, layers, frames))

    def stream(
        self: _Store,
        signals: Sequence[str],
        batches: Iterable[Sequence[str]],
        *,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
        layers: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> TargetStream:
        """The targets of batch after batch of clip ids, on ``device``, read ``prefetch`` batches ahead by threads.

        ``batches`` is one rank's `ResumableBatchSampler`, such as ``cache.dataset(signals).batches(8)``, or any iterable of
        lists of clip ids, which has no position to resume from. See `TargetStream`. ``layers`` and ``frames`` are those of
        `Cache.read`. Raises what `dataset` raises.
        """
        import torch  # noqa: PLC0415

        from teacher_cache.reader.stream import TargetStream  # noqa: PLC0415  # torch

        return TargetStream(
            self, signals, batches, torch.device(device), prefetch, selection=_kept(self, signals, layers, frames)
        )


def _kept(store: _Store, signals: Sequence[str], layers: Sequence[int] | None, frames: Sequence[int] | None) -> Selection:
    """The selection, checked, for every batch."""
    selection = Selection(layers=layers, frames=frames)
    store.entries(signals, selection)
    return selection
