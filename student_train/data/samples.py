"""Conversations and a store go in; batches of tokens, frames, times and cached targets come out."""

from __future__ import annotations

import functools
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from schemas.clip import FLIPPED
from schemas.errors import BadInput
from schemas.mixture import MixtureSet
from schemas.train import DataConfig
from student_train.data.chat import tokenize
from student_train.data.conversations import Conversation, Place, Turn, ids_in, read_conversations
from student_train.data.frames import StudentFrames
from student_train.data.mixture import chosen, sets_of
from student_train.distill.targets import TargetBatch, TargetReader
from student_train.models.backbone import IGNORED_LABEL
from teacher_cache.io.console import printable
from teacher_cache.io.places import Roots, name_without_range

if TYPE_CHECKING:
    from student_train.data.marks import Marks
    from student_train.distill.pixel_weights import PixelWeights
    from student_train.models.backbone import Processor
    from teacher_cache import Targets
    from teacher_cache.reader.stream import ReadAhead

QUESTION = Turn("user", (Place.VIDEO, "\nDescribe this video."))
"""The question of built-in samples."""
_SHOWN = 5


@dataclass(frozen=True)
class Sample:
    """A conversation, and where its targets, frames and images are."""

    conversation: Conversation
    clip_id: str | None
    """The clip whose targets it has; None for text, for images, and for a video that the store has no targets for."""
    video: str | None
    """Path or URL of its video, if it has one."""
    images: tuple[str, ...] = ()
    """Paths or URLs of its images."""
    part: str = ""
    """The mixture's set that it is from; empty without a mixture."""
    flipped: bool = False
    """Whether its clip was taught with left and right swapped."""


class ClipInputs(NamedTuple):
    """A clip as the student gets it."""

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    """(frame, size, size, RGB)."""
    timestamps: np.ndarray[Any, np.dtype[np.float64]]
    """(frame,) seconds from the video's start."""


class Joined(NamedTuple):
    """Conversations that can be trained on, and those that were left out."""

    samples: list[Sample]
    dropped: list[str]
    """For each conversation left out: its file and index, and why."""


class SampleDataset(Dataset[Sample]):
    """Samples in order. It reads nothing: the collator reads a whole batch of targets in one request."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def load_samples(cache: Targets, config: DataConfig, seed: int = 0, *, opens_videos: bool = True) -> Joined:
    """The config's conversations, each joined with its clip; without any, one built-in sample per committed clip.

    A conversation whose clip has no targets is handled as ``config.without_targets`` says: ``stop`` raises `BadInput`. Of a
    mixture's set with a ``count``, so many are taken of those that are joined, by ``seed``. ``opens_videos``: False if the
    store has the frames, so that nobody asks where the videos are.
    """
    index = ClipIndex.of(cache)
    sets = sets_of(config)
    if not sets:
        return Joined(_built_in_samples(cache, Join(index, config, opens_videos=opens_videos)), [])
    samples: list[Sample] = []
    dropped: list[str] = []
    for name, one in sets.items():
        found, without = _joined(Join(index, of_set(config, one), opens_videos=opens_videos), name, one)
        dropped += without
        if not (without and config.without_targets == "stop"):  # all that lack targets are told at once
            samples += (found[number] for number in chosen(len(found), one.count, name, seed))
    if dropped and config.without_targets == "stop":
        raise BadInput(
            f"{len(dropped)} conversations have no targets in {cache.url}:\n{some_of(dropped)}\n"
            "Teach these videos with `teacher-cache run`, or set `data.without_targets: drop` to train without them."
        )
    alone = [sample for sample in samples if sample.video is not None and sample.clip_id is None]
    without_any = len(dropped) + len(alone)
    if without_any and not any(sample.clip_id for sample in samples):
        raise BadInput(f"none of the {without_any} conversations has targets in {cache.url}; is it the store of other videos?")
    return Joined(samples, dropped)


def of_set(config: DataConfig, one: MixtureSet) -> DataConfig:
    """The config with the roots of one set."""
    return config.model_copy(update={"video_root": one.video_root, "image_root": one.image_root})


def _joined(join: Join, name: str, one: MixtureSet) -> tuple[list[Sample], list[str]]:
    """(a set's samples, why others are left out)."""
    samples: list[Sample] = []
    dropped: list[str] = []
    for conversation in read_conversations(one.conversations, ids_in(one.leave_out)):
        try:
            samples.append(replace(join(conversation), part=name))
        except NoTargetsError as error:
            dropped.append(f"{conversation.source}: {error}")
    return samples, dropped


def some_of(lines: Sequence[str]) -> str:
    """The first few lines, indented, and how many more there are."""
    shown = "\n".join(f"  {printable(line)}" for line in lines[:_SHOWN])
    return shown + (f"\n  … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


def _built_in_samples(cache: Targets, join: Join) -> list[Sample]:
    """One question per committed clip, answered with its length, which a student can learn from the frame times."""
    clip_ids = cache.committed_ids()
    if not clip_ids:
        raise BadInput(f"the store {cache.url} has no committed clip to train on; see `teacher-cache status {cache.url}`")
    times = cache.read(["timestamps"], clip_ids)["timestamps"]  # (clip, frame) seconds
    samples = []
    for clip_id, seconds in zip(clip_ids, times, strict=True):
        answer = f"A video of {seconds[-1] - seconds[0]:.1f} seconds, seen in {len(seconds)} frames."
        turns = (QUESTION, Turn("assistant", (answer,)))
        samples.append(join(Conversation(f"clip {clip_id}", turns, clip_id=clip_id)))
    return samples


class NoTargetsError(Exception):
    """The store has no targets for a conversation's clip; the message says why."""

    def __init__(self, text: str, *, video: str | None = None, has_failed: bool = False) -> None:
        super().__init__(text)
        self.video = video
        """The video's uri in the store's catalog, if it is there."""
        self.has_failed = has_failed


class ClipIndex:
    """Finds the clip of a conversation in the rows of the store's catalog."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.by_id = {str(row["clip_id"]): row for row in rows}
        self._by_video: dict[str, list[str]] = defaultdict(list)
        for clip_id, row in self.by_id.items():
            if row["flipped"] and clip_id.removesuffix(FLIPPED) in self.by_id:
                continue  # a conversation is about the video as it is
            self._by_video[name_without_range(row["video"])].append(clip_id)
        self._ending_in = functools.cache(self._find_ending_in)  # many conversations are about one video

    @classmethod
    def of(cls, cache: Targets) -> Self:
        """The index of a store's clips."""
        return cls(cache.clips.select(["clip_id", "video", "status", "reason", "detail", "flipped"]).to_pylist())

    def find(
        self,
        conversation: Conversation,
        video_root: Sequence[str],
        is_meant: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> Mapping[str, Any]:
        """The catalog's row of the conversation's clip.

        Found by clip id, or else by video: as a clip id, as a uri, as a uri under a ``video_root``, or as the one uri that ends
        in that path, since a store is often written from another URL than the student reads. Raises `NoTargetsError` if
        there is none with targets, and `BadInput` if several match and ``is_meant`` does not leave one of their rows.
        """
        found = self._candidates(conversation, video_root)
        wanted = conversation.clip_id or conversation.video
        if not found:
            raise NoTargetsError(f"the store holds no clip of {wanted!r}")
        if len(found) > 1 and is_meant is not None:
            found = [clip_id for clip_id in found if is_meant(self.by_id[clip_id])] or found
        if len(found) > 1:
            some = ", ".join(found[:3])
            raise BadInput(f"{conversation.source}: {wanted!r} matches several clips ({some}); give the sample's `clip_id`")
        row = self.by_id[found[0]]
        if row["status"] == "failed":
            raise NoTargetsError(
                f"clip {found[0]!r} failed when it was taught: {row['reason']} ({row['detail']})", has_failed=True
            )
        if row["status"] != "committed":
            raise NoTargetsError(f"clip {found[0]!r} is {row['status']}: planned, but not taught yet", video=row["video"])
        return row

    def _candidates(self, conversation: Conversation, video_root: Sequence[str]) -> list[str]:
        if conversation.clip_id is not None:
            return [conversation.clip_id] if conversation.clip_id in self.by_id else []
        video = str(conversation.video)
        if video in self.by_id:
            return [video]
        for uri in (video, *(f"{root.rstrip('/')}/{video}" for root in video_root)):
            if (name := name_without_range(uri)) in self._by_video:
                return self._by_video[name]
        return self._ending_in("/" + video.lstrip("./"))

    def _find_ending_in(self, tail: str) -> list[str]:
        """The clips whose videos' uris end so. Backwards and sorted, those lie side by side: no other one is looked at."""
        start = tail[::-1]
        first = bisect_left(self._backwards, start)
        last = bisect_right(self._backwards, start, first, key=lambda uri: uri[: len(start)])
        return [clip_id for uri in self._backwards[first:last] for clip_id in self._by_video[uri[-2::-1]]]

    @functools.cached_property
    def _backwards(self) -> list[str]:
        return sorted(f"/{uri}"[::-1] for uri in self._by_video)


class Join:
    """Joins conversations with the clips of an index. It names places that ``config`` lets videos and images be read from."""

    def __init__(self, index: ClipIndex, config: DataConfig, *, opens_videos: bool = True) -> None:
        self._index, self._config, self._opens_videos = index, config, opens_videos
        self._find_video = functools.cache(
            Roots(config.video_root, "data.video_root").find
        )  # many conversations are about one video
        self._find_image = functools.cache(Roots(config.image_root, "data.image_root").find)

    def __call__(self, conversation: Conversation) -> Sample:
        """Raises `NoTargetsError` for a conversation to be left out, `BadInput` for a place that may not be read."""
        images = tuple(self._read_from(conversation, self._find_image, image) for image in conversation.images)
        if conversation.video is None and conversation.clip_id is None:
            return Sample(conversation, None, None, images)
        try:
            row = self._index.find(conversation, self._config.video_root)
        except NoTargetsError as error:
            in_catalog = error.video
            has_video = in_catalog is not None or conversation.video is not None
            if self._config.without_targets != "sft" or error.has_failed or not has_video:
                raise
            return Sample(conversation, None, self._video(conversation, in_catalog), images)
        video = self._video(conversation, row["video"]) if self._opens_videos else str(row["video"])
        return Sample(conversation, str(row["clip_id"]), video, images, flipped=row["flipped"])

    def _video(self, conversation: Conversation, in_catalog: str | None) -> str:
        """Where to read the video: as the catalog names it or, if it may not be read there, as the conversation does."""
        try:
            return self._read_from(conversation, self._find_video, in_catalog or str(conversation.video))
        except BadInput:
            if conversation.video is None or not self._config.video_root:
                raise
            return self._read_from(conversation, self._find_video, conversation.video)

    @staticmethod
    def _read_from(conversation: Conversation, find: Callable[[str], str], path: str) -> str:
        try:
            return find(path)
        except BadInput as error:
            raise BadInput(f"{conversation.source}: {error}") from None


def clips_of(samples: Sequence[Sample]) -> list[str | None]:
    """The clips of the samples with a video; None for one without targets."""
    return [sample.clip_id for sample in samples if sample.video is not None]


def with_flipped(samples: Sequence[Sample], cache: Targets, share: float, seed: int) -> list[Sample]:
    """The samples, of which about ``share`` of those with targets show their clip flipped; see `DataConfig.flipped_share`.

    Raises `BadInput` if the store has no flipped clips.
    """
    if not share:
        return list(samples)
    clips = cache.clips
    usable = pc.and_(clips["flipped"], pc.equal(clips["status"], "committed"))
    flipped = set(clips.filter(usable)["clip_id"].to_pylist())
    if not flipped:
        raise BadInput(
            f"`data.flipped_share` is {share:g}, and {cache.url} has no flipped clips; teach them with "
            "`clips.views: [plain, flipped]`, which leaves the others as they are, or leave it out"
        )
    drawn = np.random.default_rng(seed).random(len(samples)) < share
    return [
        replace(sample, clip_id=f"{sample.clip_id}{FLIPPED}", flipped=True)
        if is_drawn and f"{sample.clip_id}{FLIPPED}" in flipped and not _names_a_side(sample.conversation)
        else sample
        for sample, is_drawn in zip(samples, drawn.tolist(), strict=True)
    ]


# Anywhere in a word (front_left, frontLeft, northeast, counterclockwise) but for such as bright, least, beast, lowest, newest:
# a clip too many that is shown as it is costs nothing, and one too few is taught with a wrong side.
_SIDES = re.compile(
    r"left|(?<![bf])right|(?<![bflry])east|(?<![aeo])west|clockwise|(?<![a-z])o\W?clock|mirror"
    r"|(?-i:(?<![A-Za-z])[NS][EW](?![A-Za-z]))",
    re.IGNORECASE,
)


def _names_a_side(conversation: Conversation) -> bool:
    return any(_SIDES.search(turn.text) for turn in conversation.turns)


class Collator:
    """Collates samples into a batch, as `student_train.distill.student.DistilledStudent` takes it. Picklable, for workers."""

    def __init__(
        self,
        targets: TargetReader,
        frames: StudentFrames,
        processor: Processor,
        max_length: int | None = None,
        *,
        weights: PixelWeights | None = None,
        marks: Marks | None = None,
        reads_stored_frames: bool = False,
    ) -> None:
        """``reads_stored_frames``: of clips with targets; ``frames`` decodes those of other videos, and else all."""
        self.targets, self.frames, self.processor, self.max_length = targets, frames, processor, max_length
        self.weights, self.marks, self._reads_stored_frames = weights, marks, reads_stored_frames

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """A batch: ``input_ids``, ``attention_mask``, ``labels``, ``visual``, and with clips, their ``targets`` and ``valid``,
        and with a measure of pixels also ``weights``.

        The first axis of ``targets`` and ``valid`` is the samples with a video, in order. ``clip_ids`` is for messages. Raises
        what `TargetReader` raises, and `CouldNotRun` if a video or an image cannot be read.
        """
        found = self.inputs(samples)
        clip_ids = clips_of(samples)
        return found | (self.with_weights(self.targets(clip_ids), clip_ids) if any(clip_ids) else {})

    def inputs(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The batch without its targets, as `targets_ahead` gives those."""
        with_video = [sample for sample in samples if sample.video is not None]
        clips = self._clips(with_video)
        clip_ids = clips_of(samples)
        images = [self.frames.image(image) for sample in samples for image in sample.images]
        visual = self.processor.visual(
            np.stack([clip.frames for clip in clips]) if clips else None,  # (clip, frame, height, width, RGB)
            np.stack([clip.timestamps for clip in clips]) if clips else None,  # (clip, frame)
            np.stack(images) if images else None,  # (image, height, width, RGB)
        )
        return {
            **self._text(samples, iter([clip.timestamps.tolist() for clip in clips])),
            "visual": dict(visual),
            "clip_ids": [clip_id for clip_id in clip_ids if clip_id is not None],
        }

    def targets_ahead(self, batches: Iterable[Sequence[Sample]], device: torch.device) -> ReadAhead:
        """What a call adds to `inputs`, for batch after batch, on ``device``; read while the ones before are trained on."""
        return self.targets.ahead(map(clips_of, batches), device, self.with_weights)

    def with_weights(self, found: TargetBatch, clip_ids: Sequence[str | None]) -> dict[str, Any]:
        """``targets`` and ``valid``, and with a measure of pixels ``weights``."""
        return found._asdict() | ({} if self.weights is None else {"weights": self.weights(found.targets, clip_ids)})

    def _clips(self, samples: Sequence[Sample]) -> list[ClipInputs]:
        """The frames of each video: those that the teacher saw, or frames spread over the whole of a video without targets."""
        has_targets = [sample.clip_id for sample in samples if sample.clip_id is not None]
        wanted = ("timestamps", "frames" if self._reads_stored_frames else "frame_index")
        found = self.targets.read(wanted, has_targets) if has_targets else dict.fromkeys(wanted, ())
        stored = zip(*(found[name] for name in wanted), strict=True)
        clips = []
        for sample in samples:
            video = str(sample.video)
            if sample.clip_id is None:
                whole = self.frames.whole(video, self.targets.cache.shape("timestamps")[0])
                clips.append(ClipInputs(whole.frames, whole.timestamps))
                continue
            timestamps, frames = next(stored)
            if not self._reads_stored_frames:
                frames = self.frames(video, frames)[:, :, :: -1 if sample.flipped else 1]
            clips.append(ClipInputs(frames, timestamps))
        if self.marks is None:
            return clips
        texts = ["".join(turn.text for turn in sample.conversation.turns) for sample in samples]
        marked = self.marks([clip.frames for clip in clips], [sample.clip_id for sample in samples], texts)
        return [clip._replace(frames=frames) for clip, frames in zip(clips, marked, strict=True)]

    def _text(self, samples: Sequence[Sample], times: Iterator[Sequence[float]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, int64 (sample, token), cut at `max_length`, padded on the right."""
        encoded = [tokenize(s.conversation.turns, self.processor, () if s.video is None else next(times)) for s in samples]
        encoded = [(ids[: self.max_length], labels[: self.max_length]) for ids, labels in encoded]
        length = max(len(ids) for ids, _ in encoded)
        ids = torch.full((len(samples), length), int(self.processor.tokenizer.pad_token_id))
        labels = torch.full_like(ids, IGNORED_LABEL)
        mask = torch.zeros_like(ids)
        for row, (row_ids, row_labels) in enumerate(encoded):
            ids[row, : len(row_ids)] = torch.tensor(row_ids)
            labels[row, : len(row_labels)] = torch.tensor(row_labels)
            mask[row, : len(row_ids)] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
