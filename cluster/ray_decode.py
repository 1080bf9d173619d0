"""Decoding as Ray tasks: a span of a video's clips goes in, decoded blocks come out.

The tasks run on any node with a free core, with or without teachers. Imports no torch.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.full_disks import NodeFull, as_told
from cluster.ray_environment import adopt
from schemas.errors import CacheError
from schemas.recipe import ClipRecipe
from schemas.storage import Requests
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.video import Device
from teacher_cache.io.patience import expect
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.scheduler import Decoded, Span, decode_span


@dataclass(frozen=True)
class DecodedBlock:
    """The decoded clips of a block, or the error that stops the whole run, or that its node is full.

    The error is a value, because Ray would wrap a raised one in its own traceback.
    """

    clips: tuple[Decoded, ...]
    requests: Requests
    """Requests to the servers that hold the videos, since the previous block."""
    trouble: CacheError | NodeFull | None = None


def decode(  # noqa: PLR0917
    span: Span,
    recipe: ClipRecipe,
    timeout_seconds: float,
    device: Device,
    student_size: int | None,
    environment: Mapping[str, str],
) -> Iterator[DecodedBlock]:
    """Yield exactly one value per block of the span, whatever happens: Ray relies on the count to reconstruct a lost one.

    ``environment`` is the driver's `shared`.
    """
    adopt(environment)
    for video in {clip.video for block in span.blocks for clip in block.clips}:
        expect(video)  # it existed when the driver planned the work
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")  # Ray sets it anew for each task
    blocks = decode_span(kept_decoder(recipe, timeout_seconds, device, student_size, gpus), span)
    trouble: CacheError | NodeFull | None = None
    for _ in span.blocks:
        clips: tuple[Decoded, ...] = ()
        try:
            clips = next(blocks, ())
        except CacheError as error:
            trouble = as_told(error)
        yield DecodedBlock(clips, VIDEO_REQUESTS.take(), trouble)


_kept: dict[tuple[object, ...], Decoder] = {}
"""This process's decoder, by what it is for."""


def kept_decoder(
    recipe: ClipRecipe, timeout_seconds: float, device: Device, student_size: int | None, gpus: str | None
) -> Decoder:
    """A decoder that is kept from task to task with the same GPUs: its own process sees those that it began with.

    One at a time: a process may be given every GPU of its node in turn.
    """
    wanted = (recipe, timeout_seconds, device, student_size, gpus)
    if wanted not in _kept:
        _end()
        _kept[wanted] = Decoder(recipe, timeout_seconds, device, student_size)
    return _kept[wanted]


@atexit.register
def _end() -> None:
    while _kept:
        _kept.popitem()[1].close()
