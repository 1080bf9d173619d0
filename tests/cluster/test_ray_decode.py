"""A process that decodes for Ray has one decoder, whichever GPUs its tasks are given."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from cluster import ray_decode
from schemas.clip import Clip
from schemas.recipe import ClipRecipe
from teacher_cache.jobs.scheduler import Block, Span

RECIPE = ClipRecipe(frames=16, sampling="uniform", preprocessing="l4p", size=56, student_size=None)


def decoders() -> set[int]:
    """The ids of this process's decoders."""
    found = psutil.Process().children()
    return {child.pid for child in found if any("decoder_program" in word for word in child.cmdline())}


@pytest.mark.own_decoders
def test_tasks_with_other_gpus_have_no_decoder_beside_the_first(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Clip(clip_id="a", row=0, video=str(videos / "scene-0.mp4"), video_id="a", content_digest=None)
    span, before, kept = Span((Block(0, 0, (clip,)),)), decoders(), []
    for gpus in ("0", "0", "1", "0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        (block,) = ray_decode.decode(span, RECIPE, 60, "cpu", None, {})
        assert block.trouble is None
        assert len(block.clips) == 1
        (one,) = decoders() - before
        kept.append(one)
    ray_decode._end()
    assert kept[0] == kept[1]
    assert len({*kept}) == 3
    assert decoders() == before
