"""Video URIs in, their footage out, in order: several decoder processes behind one stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol, Self, TypeVar

from schemas.clip import Segment, VideoInfo
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips.decoder import Decoder

Result = TypeVar("Result")


class Prober(Protocol):
    """Opens videos, many at once, wherever that is."""

    def probe_segments(self, videos: Iterable[tuple[str, Sequence[Segment | None]]]) -> Iterator[list[VideoInfo | VideoError]]:
        """`Decoder.probe_segments` of each video and its segments, in order; a video's error is that of all of them."""


class DecoderPool:
    """Several decoder processes behind one ordered stream of answers. Use as a context manager."""

    def __init__(self, recipe: ClipRecipe, processes: int, timeout_seconds: float) -> None:
        self._decoders = [Decoder(recipe, timeout_seconds) for _ in range(processes)]
        self._free = list(self._decoders)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decoder")

    def probe_segments(self, videos: Iterable[tuple[str, Sequence[Segment | None]]]) -> Iterator[list[VideoInfo | VideoError]]:
        """See `Prober`."""
        lengths: deque[int] = deque()

        def asked() -> Iterator[Callable[[Decoder], list[VideoInfo | VideoError]]]:
            for uri, segments in videos:
                lengths.append(len(segments))
                yield partial(Decoder.probe_segments, uri=uri, segments=segments)

        for found in self._stream(asked(), ahead=2):
            length = lengths.popleft()
            yield [found] * length if isinstance(found, VideoError) else found

    def _stream(self, asked: Iterable[Callable[[Decoder], Result]], ahead: int) -> Iterator[Result | VideoError]:
        waiting: deque[Future[Result | VideoError]] = deque()
        limit = len(self._decoders) * ahead
        try:
            for ask in asked:
                waiting.append(self._threads.submit(self._asked, ask))
                if len(waiting) >= limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _asked(self, ask: Callable[[Decoder], Result]) -> Result | VideoError:
        decoder = self._free.pop()  # there are as many threads as decoders
        try:
            return ask(decoder)
        except VideoError as error:
            return error
        finally:
            self._free.append(decoder)

    def close(self) -> None:
        """Cancel waiting probes and kill the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
