"""Decoding as Ray tasks: they run on any node that has a core to spare, with teachers or without. Loads no torch."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.errors import CacheError
from schemas.recipe import ClipRecipe
from schemas.report import Requests
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.video import Device
from teacher_cache.io.patience import expect
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.jobs.scheduler import Decoded, Span, decode_span


@dataclass(frozen=True)
class DecodedBlock:
    """The clips of a block, or what keeps the whole run from going on, as a value: Ray would wrap it in its own traceback."""

    clips: tuple[Decoded, ...]
    requests: Requests
    """To the servers that hold the videos, since the block before."""
    trouble: CacheError | None = None


def decode(span: Span, recipe: ClipRecipe, timeout_seconds: float, device: Device) -> Iterator[DecodedBlock]:
    """One value for each block of the span, whatever happens: Ray counts them when it makes a lost one again."""
    for video in {clip.video for block in span.blocks for clip in block.clips}:
        expect(video)  # the driver has read it
    blocks = decode_span(_decoder(recipe, timeout_seconds, device), span)
    trouble: CacheError | None = None
    for _ in span.blocks:
        clips: tuple[Decoded, ...] = ()
        try:
            clips = next(blocks, ())
        except CacheError as error:
            trouble = error
        yield DecodedBlock(clips, VIDEO_REQUESTS.take(), trouble)


@functools.cache
def _decoder(recipe: ClipRecipe, timeout_seconds: float, device: Device) -> Decoder:
    """This process's decoder, which goes from task to task."""
    decoder = Decoder(recipe, timeout_seconds, device)
    atexit.register(decoder.kill)
    return decoder
