"""What is asked of an S3 server, as this project counts it and as the server's own door does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_proxy import CountingProxy, each_once

from schemas.job import VideoSource
from schemas.storage import Requests
from teacher_cache.clips.content import content_digest
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.decoder_pool import DecoderPool
from teacher_cache.clips.sources import list_videos
from teacher_cache.io.remote import filesystem
from teacher_cache.io.request_counts import VIDEO_REQUESTS
from teacher_cache.store.objects import Objects

USES: dict[str, tuple[Callable[[Objects], object], Requests]] = {
    "create": (lambda o: o.create("new/key", b"x"), Requests(put=1)),
    "create what is there": (lambda o: o.create("a/1", b"x"), Requests(put=1)),
    "replace": (lambda o: o.replace("a/1", b"x"), Requests(put=1)),
    "get": (lambda o: o.get("a/1"), Requests(get=1)),
    "get what is not there": (lambda o: o.get("a/none"), Requests(get=1)),
    "get many": (lambda o: o.get_many(["a/1", "a/2", "a/none"]), Requests(get=3)),
    "a range": (lambda o: o.get_range("a/1", 0, 1), Requests(get=1)),
    "a long range": (lambda o: o.get_range("a/long", 0, 17 * 2**20), Requests(get=1)),
    "a range of what is not there": (lambda o: o.get_range("a/none", 0, 1), Requests(get=1)),
    "delete": (lambda o: o.delete_many(["a/2"]), Requests()),
    "when it was written": (lambda o: o.modified("a/1"), Requests(get=1)),
    "a listing": (lambda o: o.listing("a"), Requests(list=1)),
    "a listing of nothing": (lambda o: o.listing("none/"), Requests(list=1)),
}


@pytest.mark.parametrize("place", ["disk", "s3", "s3 that fails at first"])
def test_every_use_is_counted(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    counting: CountingProxy | None = None if place == "disk" else request.getfixturevalue("counting")
    objects = Objects("s3://bucket/store" if counting else str(tmp_path / "store"))
    for key in ("a/1", "a/2"):
        objects.create(key, b"12")
    objects.create("a/long", bytes(17 * 2**20))
    objects.take_requests()
    for name, (use, expected) in USES.items():
        if counting:
            counting.take("store")
            counting.weather = each_once("503", (b"",)) if "fails" in place else counting.weather
        use(objects)
        assert objects.take_requests() == expected, name
        if counting:
            assert counting.take("store") == expected.model_dump(), name  # what it spoils, the server never sees
            assert bool(counting.troubles) == ("fails" in place)
    assert objects.take_requests() == Requests()


def test_each_page_of_a_listing_counts(counting: CountingProxy) -> None:
    objects = Objects("s3://bucket/store")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: objects.create(f"many/{n:05d}", b""), range(1001)))
    assert objects.take_requests() == Requests(put=1001)
    counting.take("store")
    assert len(objects.listing("many/")) == 1001
    assert objects.take_requests() == Requests(list=2)
    assert counting.take("store")["list"] == 2


def test_what_the_videos_cost_is_counted(counting: CountingProxy, videos: Path) -> None:
    from schemas.recipe import ClipRecipe

    fs, _ = filesystem("s3://bucket")
    for video in videos.glob("*.mp4"):
        fs.put_file(str(video), f"bucket/raw/{video.name}")
    VIDEO_REQUESTS.take()

    def asked() -> dict[str, int]:
        ours = VIDEO_REQUESTS.take()
        assert counting.take("raw") == ours.model_dump()
        return ours.model_dump(exclude_defaults=True)

    counting.take("raw")
    uris = list_videos(VideoSource(glob="s3://bucket/raw/*.mp4"))["uri"].to_pylist()
    assert asked()["list"] >= 1  # how often s3fs lists for a glob is its own affair; that it is counted is ours
    assert None not in map(content_digest, uris)
    blocks = [3 if video.stat().st_size > 3 * 64 * 1024 else 1 for video in videos.glob("*.mp4")]
    assert asked() == {"get": 4 + sum(blocks)}
    recipe = ClipRecipe(frames=16, sampling="uniform", preprocessing="l4p", size=56, student_size=None)
    with DecoderPool(recipe, 2, 60) as pool, Decoder(recipe, 60) as decoder:
        assert len([clip for uri in uris for clip in decoder.clips(uri, [None])]) == 4
        assert asked() == {"get": 4}
        list(pool.probe_segments((uri, [None]) for uri in [*uris, "s3://bucket/raw/none.mp4"]))
        assert asked() == {"get": 5}
