"""Videos in; what tells that one changed out: what its server's listing says of it, or a digest of some of its bytes.

A row keeps it with its kind before it: ``etag:SIZE:ETAG`` or ``sampled-sha256:HEX``. Two of one kind are compared; for two of
different kinds, the video is looked at as the row's was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import groupby, islice, takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.job import VideoIdentity
from schemas.storage import DEFAULT_STORAGE
from teacher_cache.clips.content import content_digest
from teacher_cache.clips.listing import Page, Pages, identities, split
from teacher_cache.clips.pictures import pictures_identity
from teacher_cache.io.bucket import BUCKETS, Bucket, is_asked_for_as_it_is, shared_bucket
from teacher_cache.io.places import Member, inside, local_path, protocol
from teacher_cache.io.remote import Refused, filesystem, reach_if_there
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

_THREADS = 32
_WORTH_A_PAGE = 12
"""Objects of a page of a listing that pay for it: a LIST costs as much as twelve HEADs."""
_PIECE, _ASKED_FOR = 2**12, 2**6
"""URIs that one thread looks up, by their order; and of those that are asked for one by one."""

Identity = str | None
"""None for a video that is not there."""


def identities_of(
    uris: pa.ChunkedArray, kind: VideoIdentity, advance: Callable[[int], None] = lambda _: None
) -> pa.ChunkedArray:
    """The identity of each video, by its URI: string, null for one that is not there. Each is looked at once.

    With ``kind`` listed, videos on S3 are looked up in listings where those hold many of them, and are asked for one by one
    otherwise; those on disks, and on servers that give no ETag, have a sampled digest all the same. Raises `Unreachable`.
    """
    order = pc.sort_indices(uris)
    ordered = uris.take(order)
    pieces = [ordered.slice(start, _PIECE).to_pylist() for start in range(0, len(ordered), _PIECE)]
    look = _listed if kind == "listed" else _sampled
    with ThreadPoolExecutor(_THREADS) as threads:
        found = pa.chunked_array([pa.array(some, pa.string()) for some in look(pieces, threads, advance)], pa.string())
    if pc.all(pc.equal(order, np.arange(len(uris)))).as_py():
        return found
    place = np.empty(len(uris), np.int64)
    place[order.to_numpy()] = np.arange(len(uris))
    return found.take(pa.array(place))


def are_same(now: pa.ChunkedArray, then: pa.ChunkedArray, uris: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Whether each video, of which ``now`` is known, is as it was ``then``: not where either is null. Raises `Unreachable`."""
    same: NDArray[np.bool_] = pc.fill_null(pc.equal(now, then), fill_value=False).to_numpy().copy()
    kinds = [pc.fill_null(pc.starts_with(column, "etag:"), fill_value=False).to_numpy() for column in (now, then)]
    is_known = now.is_valid().to_numpy() & then.is_valid().to_numpy()
    of_then: tuple[tuple[VideoIdentity, NDArray[np.bool_]], ...] = (("listed", kinds[1]), ("sampled", ~kinds[1]))
    for kind, is_of_kind in of_then:
        other = np.flatnonzero((kinds[0] != kinds[1]) & is_of_kind & is_known)
        if len(other):
            again = identities_of(uris.take(pa.array(other)), kind)
            same[other] = pc.fill_null(pc.equal(again, then.take(pa.array(other))), fill_value=False).to_numpy()
    return same


def is_unchanged(uri: str, then: Identity) -> bool:
    """Whether one video is there, and as it was ``then``. Raises `Unreachable`."""
    now = asked_for(uri) if then is not None and then.startswith("etag:") else content_digest(uri)
    return now is not None and now == then


Pieces = Sequence[Sequence[str]]
Advance = Callable[[int], None]


def _sampled(pieces: Pieces, threads: ThreadPoolExecutor, advance: Advance) -> Iterator[list[Identity]]:
    for piece in pieces:
        distinct = list(dict.fromkeys(piece))
        found = dict(zip(distinct, threads.map(content_digest, distinct), strict=True))
        advance(len(piece))
        yield [found[uri] for uri in piece]


def _listed(pieces: Pieces, threads: ThreadPoolExecutor, advance: Advance) -> Iterator[list[Identity]]:
    few = [(place, uris) for piece in pieces for place, uris in _by_bucket(piece)]
    buckets = {place: Bucket(place, DEFAULT_STORAGE) for place in dict.fromkeys(place for place, _ in few if place)}
    walks = (partial(_walked, buckets[place], place, uris) if place else partial(_asked_for, uris) for place, uris in few)
    for found in threads.map(lambda walk: walk(), walks):
        advance(len(found))
        yield found


def _by_bucket(uris: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """URIs in order, by their bucket of S3; the others a few at a time."""
    # What has a # may be a part of a tar or folder, and is no key that is listed.
    for place, some in groupby(uris, lambda uri: split(uri)[0] if protocol(uri) == "s3" and "#" not in uri else ""):
        while few := list(some if place else islice(some, _ASKED_FOR)):
            yield place, few


def _walked(bucket: Bucket, place: str, uris: list[str]) -> list[Identity]:
    """Of objects in order of their keys: from pages of the bucket's listing where these hold many of them."""
    keys, found, at, skipped = [split(uri)[1] for uri in uris], list[Identity](), 0, _WORTH_A_PAGE
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(keys[0], keys[-1], strict=False)))
    folder = keys[0][:alike].rpartition("/")[0]
    pages = Pages(f"{place}/{folder}/" if folder else f"{place}/", bucket)
    while at < len(keys):
        if len(keys) - at >= _WORTH_A_PAGE and skipped:
            try:
                found += _of_pages(pages.after(keys[at][:-1]), place, keys, at)
            except Refused:  # a role may get objects and list none
                skipped = 0
        stop = min(len(found) + skipped, len(keys)) if skipped else len(keys)
        found += _asked_for(uris[len(found) : stop])
        at, skipped = len(found), 2 * skipped
    return found


def _of_pages(pages: Iterator[Page], place: str, keys: Sequence[str], at: int) -> list[Identity]:
    """The identities of the keys from the ``at``-th on, until a page has too few of them."""
    found: list[Identity] = []
    for page in pages:
        first = at + len(found)
        stop = len(keys) if page.end is None else bisect_right(keys, page.end, first)
        there = dict(zip(page.objects["key"].to_pylist(), page.objects["identity"].to_pylist(), strict=True))
        # Of an object without an ETag the listing says nothing.
        found += [there[key] or content_digest(f"{place}/{key}") if key in there else None for key in keys[first:stop]]
        if stop == len(keys) or stop - first < _WORTH_A_PAGE:
            return found
    return found + [None] * (len(keys) - at - len(found))


def _asked_for(uris: Sequence[str]) -> list[Identity]:
    tars = lru_cache(asked_for)
    return [asked_for(uri, tars) for uri in uris]


def asked_for(uri: str, tars: Callable[[str], Identity] | None = None) -> Identity:
    """What the video's server says of it, by one request; a digest of it if it is on a disk, or the server gives no ETag.

    Of a member of a tar it says what it says of the tar, for which ``tars`` is asked. To that is added where the member lies.
    """
    part = inside(uri)
    if local_path(uri) is not None:
        return content_digest(uri)
    if isinstance(part, Member):
        return member_identity(part, (tars or asked_for)(part.place))
    if part:
        return pictures_identity(part)
    about = _head(uri)
    if about is None:
        return None
    identity: Identity = identities(pa.array([about[0]]), pa.array([about[1]]))[0].as_py()
    return identity or content_digest(uri)


def member_identity(member: Member, tar: Identity) -> Identity:
    """What identifies a member, given what identifies its tar."""
    if tar is None:
        return None
    return f"{tar}@{member.start}+{member.size}" if tar.startswith("etag:") else content_digest(member.uri)


def _head(uri: str) -> tuple[int, str] | None:
    """Length and ETag, which is empty if there is none; None if there is no such object."""
    if protocol(uri) in BUCKETS:
        place, key = split(uri)
        if is_asked_for_as_it_is(key):
            VIDEO_REQUESTS.add("get")
            return reach_if_there(uri, lambda: shared_bucket(place).head(key))
    fs, path = filesystem(uri)  # twenty times slower
    with counting(VIDEO_REQUESTS, fs, "get"):
        about = reach_if_there(uri, lambda: fs.info(path))
    if about is None:
        return None
    is_told = about["type"] == "file" and about.get("size") is not None
    return (int(about["size"]), about.get("ETag") or about.get("etag") or "") if is_told else (0, "")
