"""Held-out conversations and a student go in; mean losses over all of them, and pictures of some maps, come out."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from schemas.clip import FLIPPED
from schemas.errors import BadInput, CacheError
from student_train.data.pictures import plot_clip, shown
from student_train.data.samples import Collator, Sample, SampleDataset
from student_train.data.workers import begin_worker
from student_train.distill.p4d import part_name, signal_weights
from student_train.training.batches import ErrorsAsValues
from student_train.training.counts import step_counts, summed, values_of
from student_train.training.ranks import Ranks, kept
from teacher_cache.io.places import name_without_range

if TYPE_CHECKING:
    from student_train.data.frames import StudentFrames
    from student_train.distill.p4d import P4D
    from student_train.distill.student import StepLosses


def held_out(
    samples: Sequence[Sample], videos: Mapping[str, str], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(to train on, held out): about ``share`` of the videos, or images, with all conversations about all clips of each.

    ``videos``: clip id → its video in the catalog. Which videos depends on the samples' names and the seed alone. Raises
    `BadInput` if all conversations are about one.
    """
    groups = _by_video(samples, videos)
    if len(groups) < 2:
        raise BadInput(f"all {len(samples)} conversations are about one video, so none can be held out for `validation`")
    # By the name of a clip: a video's own is another where another store has it from another place.
    names = [min(_name(samples[number]) for number in group) for group in groups]
    order = sorted(range(len(groups)), key=lambda one: hashlib.sha256(f"{seed} {names[one]}".encode()).digest())
    chosen = {number for one in order[: min(len(order) - 1, math.ceil(share * len(order)))] for number in groups[one]}
    taken = [one for number, one in enumerate(samples) if number not in chosen]
    return taken, [samples[number] for number in sorted(chosen)]


def _by_video(samples: Sequence[Sample], videos: Mapping[str, str]) -> list[list[int]]:
    """The numbers of the samples about each video: all windows, shots and segments of it together."""
    clip_ids = videos.keys() & {one.clip_id for one in samples}
    in_catalog: dict[str | None, str] = {clip_id: name_without_range(videos[clip_id]) for clip_id in clip_ids}
    # A conversation whose clip has no targets names no clip, and may be about a video of which others have some.
    read_as = {one.video: in_catalog[one.clip_id] for one in samples if one.clip_id in in_catalog}
    groups = defaultdict[str, list[int]](list)
    for number, one in enumerate(samples):
        groups[in_catalog.get(one.clip_id) or read_as.get(one.video) or _name(one)].append(number)
    return list(groups.values())


def _name(sample: Sample) -> str:
    clip = sample.clip_id and sample.clip_id.removesuffix(FLIPPED)
    return str(clip or sample.video or sample.images or sample.conversation.source)


class Validation:
    """The held-out conversations of one run, on one rank.

    ``lengths``: their tokens. ``pictures``: how many clips to draw into ``folder``; ``frames_of`` reads their frames for it.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        lengths: Sequence[int],
        collator: Collator,
        *,
        batch: int,
        ranks: Ranks,
        workers: int,
        pictures: int,
        folder: Path,
        frames_of: StudentFrames,
    ) -> None:
        self.ranks, self.pictures, self.folder, self.frames_of = ranks, pictures, folder, frames_of
        self.cache, self.samples = collator.targets.cache, samples
        self._by_clip = {sample.clip_id: sample for sample in samples}
        order = sorted(range(len(samples)), key=lambda index: -lengths[index])
        together = batch * ranks.size
        passes = [order[start : start + together] for start in range(0, len(order), together)]
        shares = [indices[ranks.rank * batch : (ranks.rank + 1) * batch] for indices in passes]
        self._counted = [bool(share) for share in shares]
        self._loader: DataLoader[Any] = DataLoader(
            SampleDataset(samples),
            # A rank without a share computes something all the same: with shards, the others wait for it.
            batch_sampler=[share or indices[:1] for share, indices in zip(shares, passes, strict=True)],
            collate_fn=ErrorsAsValues(collator),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=begin_worker,
        )

    @torch.no_grad()
    def losses(self, p4d: P4D, forward: Callable[[dict[str, Any]], StepLosses], step: int) -> dict[str, float]:
        """``loss`` and each of its parts, unweighted: means over all held-out conversations, on every rank. Collective.

        ``forward``: the model on a batch, in the run's precision. What is not finite is left out. Rank 0 draws `pictures_of`
        the step. Raises `CacheError` on every rank if one cannot read its share, or rank 0 cannot draw.
        """
        drawn, errors = 0, list[CacheError]()
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        ones = dict.fromkeys(("labels", *p4d.signals), 1.0)  # sums in place of means
        for batch, is_counted in zip(self._read(), self._counted, strict=True):
            own, clip_ids = step_counts([batch]), batch.pop("clip_ids")
            wanted = self.pictures - drawn if self.ranks.is_rank_zero and clip_ids else 0
            found = forward({**batch, "counts": ones, "with_maps": wanted > 0})
            if is_counted:
                sums, counts = summed([sums, values_of({"loss": found.total, **found.parts})]), summed([counts, own])
            for clip_id, row in list(zip(clip_ids, _rows(batch), strict=True))[:wanted] if found.maps else ():
                student, teacher = (
                    {signal: of[signal][row].float().cpu().numpy() for signal in found.maps.keys() & batch["targets"].keys()}
                    for of in (found.maps, batch["targets"])
                )
                with kept(errors):
                    picture = shown(self.cache, self._by_clip[clip_id], student, teacher, self.frames_of)
                    plot_clip(self._folder_of(step) / f"clip-{drawn}.png", picture)
                drawn += 1
        self.ranks.raise_first(errors[0] if errors else None)
        told = self.ranks.gather((sums, counts))
        sums, counts = summed(each for each, _ in told), summed(each for _, each in told)
        means = {"sft": sums["sft"] / counts["labels"]}
        for signal in p4d.signals:
            if counts.get(signal):
                means[part_name(signal)] = sums[part_name(signal)] / counts[signal]
        weights = {part_name(signal): weight for signal, weight in signal_weights(p4d.recipe).items()}
        means["loss"] = sum(weights.get(name, 1.0) * value for name, value in means.items())
        return {name: value for name, value in means.items() if math.isfinite(value)}

    def _read(self) -> Iterator[dict[str, Any]]:
        for batch in self._loader:
            self.ranks.raise_first(batch if isinstance(batch, CacheError) else None)
            yield batch

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def pictures_of(self, step: int) -> list[Path]:
        """The pictures that were drawn of one step: some frames of a clip, and the teacher's and the student's maps."""
        return sorted(self._folder_of(step).glob("*.png"))


def _rows(batch: dict[str, Any]) -> list[int]:
    """The rows of a batch's videos that have targets."""
    valid = next(iter(batch["valid"].values()), torch.zeros(0))
    return [int(row) for row in valid.nonzero().flatten()]
