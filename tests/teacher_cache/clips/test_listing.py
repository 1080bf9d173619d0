"""A bucket that is listed by many ranges at once, and what identifies the videos in it. A stand-in of S3's API lists it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import listing_server
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from listing_server import ListingServer, Numbered

from schemas.errors import Unreachable
from schemas.job import VideoSource
from teacher_cache.clips import identity, listing
from teacher_cache.clips.content import content_digest
from teacher_cache.clips.identity import are_same, identities_of
from teacher_cache.clips.listing import Pages, between, listed
from teacher_cache.clips.sources import list_videos
from teacher_cache.io import bucket
from teacher_cache.io.request_counts import VIDEO_REQUESTS

Serve = Callable[[Sequence[str]], ListingServer]
PAGE = 20


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a server of such keys, of small pages, to which the environment leads."""
    from contextlib import ExitStack

    from s3fs import S3FileSystem

    monkeypatch.setattr(listing_server, "PAGE", PAGE)
    monkeypatch.setattr(bucket, "_PER_PAGE", PAGE)
    with ExitStack() as stack:

        def started(keys: Sequence[str]) -> ListingServer:
            server = stack.enter_context(listing_server.listing_server(keys))
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(S3FileSystem, "_cache", {})
            VIDEO_REQUESTS.take()
            return server

        yield started


LAYOUTS: dict[str, Sequence[str]] = {
    "a thousand a folder": Numbered(4321),
    "one after the other": [f"raw/{n:05d}.mp4" for n in range(1500)],
    "two far ends": [*(f"raw/0/{n:04d}.mp4" for n in range(300)), *(f"raw/zz/{n:04d}.mp4" for n in range(300))],
    "names as people give them": sorted(
        f"raw/{folder}/{n}.mp4" for folder in ("a b", "50%", "#1", "é", "語", "a+b", "[x]", "~", "a&b<c>") for n in range(90)
    ),
    "keys that obstore refuses": sorted(
        f"raw/{folder}/{n:03d}.mp4" for folder in ("a", "b//c", "d/./e", "new\nline", "z") for n in range(60)
    ),
    "one": ["raw/one.mp4"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_key_is_listed_once_and_in_order(serve: Serve, layout: str) -> None:
    keys = [*LAYOUTS[layout]]
    server = serve(sorted([*keys, "another/x.mp4", "raw.mp4", "rax/y.mp4", "raw/notes.txt"]))
    found = listed("s3://bucket/raw/", r"\.mp4$")
    assert found["key"].to_pylist() == keys
    about = map(server.about, keys)
    assert found["identity"].to_pylist() == [f"etag:{size}:{etag}" for size, etag in about]
    asked = VIDEO_REQUESTS.take()
    assert asked.list == server.asked["list"]
    assert asked.list <= 4 * len(keys) / PAGE + 100
    videos = list_videos(VideoSource(glob="s3://bucket/r*w/**/*.mp4")) if "\n" not in "".join(keys) else None
    assert videos is None or (videos["id"].to_pylist(), videos["uri"][0].as_py()) == (keys, f"s3://bucket/{keys[0]}")


def test_a_server_that_fails_ends_the_listing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(Numbered(4000))
    with monkeypatch.context() as patch:
        patch.setattr(
            listing_server._Answers, "do_GET", lambda answer: answer._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        )
        with pytest.raises(Unreachable, match="access to s3://bucket/raw/ was refused"):
            listed("s3://bucket/raw/")
    assert not server.asked["list"]


def test_a_listing_goes_on_where_a_server_failed_it(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than the client asks again by itself, so that the listing is begun anew in its middle."""
    server, answer = serve(Numbered(100)), listing_server._Answers.do_GET
    asked = count()

    def do_get(self: listing_server._Answers) -> None:
        if 2 <= next(asked) < 9:
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        else:
            answer(self)

    monkeypatch.setattr(listing_server._Answers, "do_GET", do_get)
    pages = [page.objects["key"].to_pylist() for page in Pages("s3://bucket/raw/").after()]
    assert [len(page) for page in pages] == [PAGE] * 5
    assert [key for page in pages for key in page] == [*server.keys]
    assert next(asked) > 9


@given(st.text(st.characters(min_codepoint=32), max_size=3), st.none() | st.text(st.characters(min_codepoint=0), max_size=3))
def test_what_is_between_is_between(low: str, high: str | None) -> None:
    assume(high is None or low < high)
    middle = between(low, high)
    assert middle is None or (low < middle and (high is None or middle < high))


def uris(keys: Sequence[str]) -> pa.ChunkedArray:
    return pa.chunked_array([[f"s3://bucket/{key}" for key in keys]], pa.string())


@pytest.mark.parametrize(("every", "kind"), [(1, "list"), (100, "head")])
def test_a_manifest_s_videos_are_looked_up_where_that_costs_least(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, every: int, kind: str
) -> None:
    """In listings where a page of them has many, and one by one where it has few; whatever their order, and however often."""
    monkeypatch.setattr(identity, "_PIECE", 300)
    keys = [*Numbered(3000)]
    server = serve(keys)
    wanted = np.random.default_rng(0).permutation([*keys[::every], "raw/gone.mp4", keys[0], "raw/gone.mp4"]).tolist()
    found = identities_of(uris(wanted), "listed").to_pylist()
    about = {key: "etag:{}:{}".format(*server.about(key)) for key in keys}
    assert found == [about.get(key) for key in wanted]
    assert VIDEO_REQUESTS.take().list == server.asked["list"]
    if kind == "list":
        assert server.asked["head"] <= 10  # what is left of a piece
        assert server.asked["list"] <= 1.5 * len(keys) / PAGE
    else:
        assert server.asked["list"] <= 8
        assert server.asked["head"] <= len(wanted) + 2


def test_a_role_that_may_not_list_asks_for_each(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [*Numbered(40)]
    server = serve(keys)
    refusal = b"<Error><Code>AccessDenied</Code></Error>"
    monkeypatch.setattr(listing_server._Answers, "do_GET", lambda answer: answer._answer(403, refusal))
    assert None not in identities_of(uris(keys), "listed").to_pylist()
    assert server.asked["head"] == len(keys)


def test_two_kinds_of_identity_are_compared_by_the_row_s(serve: Serve, tmp_path: Path) -> None:
    (key,) = keys = ["raw/a.mp4"]
    server = serve(keys)
    (tmp_path / "a.mp4").write_bytes(b"video")
    then = "etag:{}:{}".format(*server.about(key))
    digest = content_digest(str(tmp_path / "a.mp4"))

    def same(now: str | None, row: str | None, uri: str) -> bool:
        columns = (pa.chunked_array([[value]], pa.string()) for value in (now, row, uri))
        return bool(are_same(*columns)[0])

    on_s3, on_disk = f"s3://bucket/{key}", str(tmp_path / "a.mp4")
    assert same(then, then, on_s3)
    assert not same(then, f"{then}0", on_s3)
    assert same("sampled-sha256:0", then, on_s3)
    assert same("etag:5:other", digest, on_disk)
    assert not same(None, then, on_s3)
    assert not same(then, None, on_s3)
    server.content = "replaced"
    assert not same("sampled-sha256:0", then, on_s3)
    (tmp_path / "a.mp4").write_bytes(b"other")
    assert not same("etag:5:other", digest, on_disk)


def test_an_object_without_an_etag_has_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    no_etags = listing.identities(pa.array([1, 2, 3]), pa.array(['""', None, '"a-2"']))
    assert no_etags.to_pylist() == [None, None, "etag:3:a-2"]
    page = listing.Page(pa.table([["a", "b"], ["etag:1:x", None]], schema=listing.LISTED), None)
    monkeypatch.setattr(identity, "content_digest", lambda uri: f"digest of {uri}")
    found = identity._of_pages(iter([page]), "s3://bucket", ["a", "b", "c"], 0)
    assert found == ["etag:1:x", "digest of s3://bucket/b", None]
