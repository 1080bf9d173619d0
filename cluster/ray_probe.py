"""Video URIs in, their footage out, in order, by Ray tasks where decoders run."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray

from cluster.full_disks import FullDisks, NodeFull, as_told
from cluster.ray_connection import connected
from cluster.ray_decode import kept_decoder
from cluster.ray_environment import adopt, shared
from cluster.ray_head import Head
from cluster.ray_room import custom, decoder_cores
from schemas.clip import Segment, VideoInfo
from schemas.errors import CacheError, CouldNotRun, VideoError, first_line
from schemas.job import EngineJob
from schemas.recipe import ClipRecipe
from schemas.storage import Requests
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.io.stop import Stop

_LOOK_SECONDS = 0.5
"""How long one wait for an answer lasts; then the stop request and the cluster are checked."""
_VIDEOS_A_TASK = 16
_TASKS_A_CORE = 2
"""Tasks that wait or run for each core of the cluster."""

Asked = tuple[str, Sequence[Segment | None]]
"""A video's URI, and the segments of it to probe."""
Found = list[VideoInfo | VideoError]


@dataclass(frozen=True)
class Probed:
    """What a task found of each of its videos, or what stopped it, as a value: Ray would wrap a raised error."""

    found: tuple[Found, ...]
    requests: Requests
    trouble: CacheError | NodeFull | None = None


def probe(videos: Sequence[Asked], recipe: ClipRecipe, timeout_seconds: float, environment: Mapping[str, str]) -> Probed:
    """The task. ``environment`` is the driver's `shared`."""
    adopt(environment)
    decoder = kept_decoder(recipe, timeout_seconds, "cpu", None, None)
    found: list[Found] = []
    trouble: CacheError | NodeFull | None = None
    for uri, segments in videos:
        try:
            found.append(decoder.probe_segments(uri, segments))
        except VideoError as error:
            found.append([error] * len(segments))
        except CacheError as error:
            trouble = as_told(error)
            break
    return Probed(tuple(found), VIDEO_REQUESTS.take(), trouble)


class RayProber:
    """See `teacher_cache.clips.decoder_pool.Prober`."""

    def __init__(self, recipe: ClipRecipe, settings: EngineJob, head: Head, stop: Stop) -> None:
        self._head, self._settings, self._stop, self._full_disks = head, settings, stop, FullDisks()
        self._about = (recipe, settings.decode_timeout_seconds, shared())
        # A task fails only with its node; a bad video comes back as a value.
        self._probe = ray.remote(num_cpus=1, resources=settings.decoder_resources, max_retries=-1)(probe)

    def probe_segments(self, videos: Iterable[Asked]) -> Iterator[Found]:
        """Raises what a task's server raises; `CouldNotRun` if Ray is gone or nothing is answered for too long; `Stopped`."""
        videos, asked = iter(videos), deque[tuple[list[Asked], Any]]()
        try:
            while True:
                most = max(1, int(_TASKS_A_CORE * self._head.told.cores))
                while len(asked) < most and (some := list(islice(videos, _VIDEOS_A_TASK))):
                    asked.append((some, self._ask(some)))
                if not asked:
                    return
                self._wait([task for _, task in asked])
                answer: Probed = ray.get(asked[0][1])
                some, _ = asked.popleft()
                VIDEO_REQUESTS.merge(answer.requests)
                yield from answer.found
                if isinstance(answer.trouble, NodeFull):
                    self._full_disks.add(answer.trouble, self._decoding)
                    rest = some[len(answer.found) :]
                    asked.appendleft((rest, self._ask(rest)))
                elif answer.trouble is not None:
                    raise answer.trouble
        except ray.exceptions.RayError as error:
            raise CouldNotRun(f"Ray could not count frames: {first_line(error)}") from None
        finally:
            for _, task in () if self._head.is_silent else asked:
                ray.cancel(task, force=True)

    def _wait(self, tasks: Sequence[Any]) -> None:
        """Wait for the first of the tasks, for as long as some of them are answered."""
        settings, answered, since = self._settings, 0, time.monotonic()
        most = settings.start_timeout_seconds + _VIDEOS_A_TASK * settings.decode_timeout_seconds
        while not ray.wait([tasks[0]], timeout=_LOOK_SECONDS)[0]:
            _ = self._head.told  # or it would wait for a head that is gone
            if self._stop.is_set:
                raise self._stop.error("before all videos were looked at")
            ready = len(ray.wait(tasks, num_returns=len(tasks), timeout=0, fetch_local=False)[0])
            # Finding shots takes as long as videos are, so of that it is only bounded how long no node can do it.
            if ready > answered or (self._about[0].shots and self._decoding):
                answered, since = ready, time.monotonic()
            if (idle := time.monotonic() - since) > most:
                raise CouldNotRun(
                    f"no progress for {idle:.0f} s in looking at videos. That needs one free core"
                    f"{custom(settings.decoder_resources)}: see `ray status`, and add nodes that offer this, or raise "
                    "engine.start_timeout_seconds."
                )

    def _ask(self, videos: list[Asked]) -> Any:
        return self._probe.options(**self._full_disks.options).remote(videos, *self._about)

    @property
    def _decoding(self) -> Collection[str]:
        return decoder_cores(self._head.told.offers, self._settings)


@contextmanager
def prober(recipe: ClipRecipe, settings: EngineJob, stop: Stop) -> Iterator[RayProber | None]:
    """A `RayProber` on the cluster that ``RAY_ADDRESS`` names; None without one. Raises `CouldNotRun` if it does not answer."""
    if "RAY_ADDRESS" not in os.environ:
        yield None
        return
    with connected(settings, stop) as head:
        yield RayProber(recipe, settings, head, stop)
