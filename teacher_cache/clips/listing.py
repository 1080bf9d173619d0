"""A bucket's prefix in; the keys under it and what identifies each object out, in columns, by many pages at once.

A server gives a page of a thousand keys in some 100 ms, one after the other: ten million would take 17 minutes. But it begins
at any key that it is told, so the range of keys is split wherever a thread is idle, and the halves are listed at once. No key
becomes a Python object on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.storage import DEFAULT_STORAGE
from teacher_cache.io.bucket import Bucket, UnlistableKey, is_asked_for_as_it_is
from teacher_cache.io.places import protocol
from teacher_cache.io.remote import filesystem, reach
from teacher_cache.io.request_counts import VIDEO_REQUESTS, counting

LISTED = pa.schema({"key": pa.string(), "identity": pa.string()})
"""Schema of a table of objects: the key, and what tells that the object changed, ``etag:SIZE:ETAG``; null if its server gives
no ETag."""

THREADS = 32
"""Requests that are under way at once. S3 answers 5,500 a second for each prefix."""

_SPLIT_AFTER = 3
"""Pages of a range before it is worth splitting, at first and again."""
_SPLITS_A_PAGE = 4
"""How often a range is split before its next page comes: at first nobody knows where keys lie, and most halves are empty."""


@dataclass(frozen=True)
class Page:
    """Some of a bucket's objects that follow each other by their keys, without folders' placeholders."""

    objects: pa.Table
    """As `LISTED`."""
    end: str | None
    """The last key that was looked at; None if no other follows."""


def identities(sizes: Any, etags: Any) -> pa.Array:
    """What rows keep of objects' sizes (int64) and ETags: see `LISTED`."""
    plain = pc.ascii_trim(pc.ascii_ltrim(etags, "W/"), '"')
    plain = pc.if_else(pc.equal(plain, ""), pa.scalar(None, pa.string()), plain)
    return pc.binary_join_element_wise("etag", pc.cast(sizes, pa.string()), plain, ":")


def listed(url: str, pattern: str | None = None) -> pa.Table:
    """The objects whose keys begin with that of ``url``, and match a ``pattern`` (RE2): a table of `LISTED`, by key.

    Raises `Unreachable`.
    """
    prefix = split(url)[1]
    first = _Range(prefix[:-1], after_all_of(prefix))
    # Other servers' clients filter what comes after a key, and would list everything again for each range.
    _Lister(Pages(url).after, pattern, first, THREADS if protocol(url) == "s3" else 1).run()
    tables: list[pa.Table] = []
    found: _Range | None = first
    while found is not None:
        tables += found.tables
        found.tables = []  # ranges know each other, and would hold all of it until they are collected
        found = found.following
    return pa.concat_tables([LISTED.empty_table(), *tables])


def after_all_of(prefix: str) -> str | None:
    """A key after all that begin with the prefix, and before all others that come after it; None if none is needed."""
    return f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}" if prefix and ord(prefix[-1]) < _MOST else None


def split(url: str) -> tuple[str, str]:
    """A URL's bucket, as a URL, and the key."""
    scheme, _, bucket, *key = url.split("/", 3)
    return f"{scheme}//{bucket}", "".join(key)


# --- ranges of keys, split among threads ---


@dataclass(eq=False)
class _Range:
    """Keys after ``after``, before ``until``."""

    after: str
    until: str | None
    tables: list[pa.Table] = field(default_factory=list)
    following: _Range | None = None
    half_of: _Range | None = None
    splits: int = 0
    """How often it was split since its last page."""
    rests: int = _SPLIT_AFTER
    """Pages until it may be split again: some, once a half of it had keys."""


class _Lister:
    """Threads that list ranges, and split one another's."""

    def __init__(self, pages: Callable[[str], Iterator[Page]], pattern: str | None, first: _Range, threads: int) -> None:
        self._pages, self._pattern, self._threads = pages, pattern, threads
        self._waiting = [first]
        self._active: list[_Range] = []
        self._changed = threading.Condition()
        self._failed = False

    def run(self) -> None:
        with ThreadPoolExecutor(self._threads, thread_name_prefix="list") as threads:
            for done in [threads.submit(self._work) for _ in range(self._threads)]:
                done.result()

    def _work(self) -> None:
        while (mine := self._next()) is not None:
            try:
                self._list(mine)
            except BaseException:
                self._failed = True
                raise
            finally:
                with self._changed:
                    self._active.remove(mine)
                    self._changed.notify_all()

    def _next(self) -> _Range | None:
        with self._changed:
            while not self._waiting:
                if self._failed or not self._active:
                    return None
                if not self._split():
                    self._changed.wait()
            self._active.append(self._waiting.pop())
            return self._active[-1]

    def _split(self) -> bool:
        """Halve one of the ranges that are being listed, one that had many pages."""
        for one in sorted(self._active, key=lambda one: len(one.tables), reverse=True):
            is_worth_it = one.rests <= 0 and one.splits < _SPLITS_A_PAGE
            if is_worth_it and (middle := between(one.after, one.until)) is not None:
                other = _Range(middle, one.until, following=one.following, half_of=one)
                # A range begins after a key, so the middle itself, if there is such a key, is the earlier one's.
                one.until, one.following, one.splits = f"{middle}\0", other, one.splits + 1
                self._waiting.append(other)
                return True
        return False

    def _list(self, mine: _Range) -> None:
        for page in self._pages(mine.after):
            found = page.objects
            if self._pattern is not None:
                found = found.filter(pc.match_substring_regex(found["key"], self._pattern))
            with self._changed:
                is_last = page.end is None or (mine.until is not None and page.end >= mine.until)
                if is_last and mine.until is not None:
                    found = found.filter(pc.less(found["key"], mine.until))
                mine.tables.append(found)
                if mine.half_of is not None and len(found) and len(mine.tables) == 1:
                    mine.half_of.rests = _SPLIT_AFTER
                if is_last or self._failed:
                    return
                mine.after, mine.splits, mine.rests = str(page.end), 0, mine.rests - 1
                self._changed.notify_all()


_PLACES = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
"""Characters at which a range is split, in order."""
_LEAST, _MOST = 0x1F, 0x7F


def between(low: str, high: str | None) -> str | None:
    """A key between two, about halfway; None if none is found that a listing can begin after. ``high`` may be beyond all."""
    for depth in range(len(low) + 1):
        first = ord(low[depth]) if depth < len(low) else _LEAST
        is_tied = high is not None and high[:depth] == low[:depth]
        last = ord(high[depth]) if high is not None and is_tied and depth < len(high) else _MOST
        if places := [place for place in _PLACES if first < ord(place) < last]:
            middle = low[:depth] + places[len(places) // 2]
            return middle if is_asked_for_as_it_is(middle) else None
    return None


# --- pages ---


class Pages:
    """The pages of the objects of a URL's bucket and folder. One connection, which threads may share."""

    def __init__(self, url: str, bucket: Bucket | None = None) -> None:
        """``bucket``: that of the URL, if there is a connection to it."""
        self._url = url
        self._place, prefix = split(url)
        self._folder = prefix.rpartition("/")[0]
        self._bucket = bucket or Bucket(self._place, DEFAULT_STORAGE)

    def after(self, key: str = "") -> Iterator[Page]:
        """The pages of the objects whose keys come after a key, in order. Raises `Unreachable`."""
        end, count = key, 0
        found: Iterator[Any] | None = None

        def following() -> Any:
            nonlocal found
            found = found or self._bucket.pages(self._folder, end)
            try:
                return next(found, None)
            except BaseException:
                found = None  # what has raised is over, and asked again it would seem to be at its end
                raise

        try:
            while (some := reach(self._url, following)) is not None:
                VIDEO_REQUESTS.add("list")
                page = self._page(pa.record_batch(some), end)
                count, end = count + 1, max(end, str(page.end))
                yield page
        except UnlistableKey:
            VIDEO_REQUESTS.add("list")
            yield from self._plain(end)
        else:
            if not count:
                VIDEO_REQUESTS.add("list")

    def _page(self, some: pa.RecordBatch, after: str) -> Page:
        keys = pc.cast(some["path"], pa.string())
        sizes = pc.cast(some["size"], pa.int64())
        end = keys[-1].as_py()
        objects = pa.table([keys, identities(sizes, pc.cast(some["e_tag"], pa.string()))], schema=LISTED)
        is_object = pc.greater(sizes, 0)
        if not pc.all(is_object).as_py():  # obstore gives no slash at the end of a placeholder's key
            found = zip(keys.to_pylist(), is_object.to_pylist(), strict=True)
            is_object = pa.array([has_bytes or self._bucket.is_object(key) for key, has_bytes in found])
            objects = objects.filter(is_object)
        if after:
            objects = objects.filter(pc.greater(objects["key"], after))
        return Page(objects, end)

    def _plain(self, after: str) -> Iterator[Page]:
        """By s3fs, which takes any key and ten times as long: obstore refuses one with an empty part, a dot as a part, ….

        Raises `Unreachable`.
        """
        fs, _ = filesystem(self._url)
        about = {"Bucket": self._place.rpartition("/")[2], "Prefix": f"{self._folder}/" if self._folder else ""}
        is_last = False
        while not is_last:
            asked = about | ({"StartAfter": after} if after else {})
            with counting(VIDEO_REQUESTS, fs):
                answer = reach(self._url, partial(fs.call_s3, "list_objects_v2", **asked))
            found = answer.get("Contents", [])
            is_last = not answer.get("IsTruncated")
            after = found[-1]["Key"] if found else after
            found = [one for one in found if not one["Key"].endswith("/")]
            keys = pa.array([one["Key"] for one in found], pa.string())
            sizes, etags = pa.array([one["Size"] for one in found], pa.int64()), [one.get("ETag", "") for one in found]
            objects = pa.table([keys, identities(sizes, pa.array(etags, pa.string()))], schema=LISTED)
            yield Page(objects, None if is_last else after)
