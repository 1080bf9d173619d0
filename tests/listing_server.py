"""A stand-in for S3's API with a bucket of any number of objects that nobody stores: it lists them, and tells of each.

`python tests/listing_server.py OBJECTS [PAGE_SECONDS]` prints its port. It answers ListObjectsV2 and HEAD, and any PUT or other
GET as a bucket without that object would; a page takes ``PAGE_SECONDS`` at least.
"""

from __future__ import annotations

import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000


class Numbered(Sequence[str]):
    """``raw/000123/clip-000123456.mp4``: a thousand a folder, in order."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> str:  # type: ignore[override]
        if not 0 <= number < self._count:
            raise IndexError
        return f"raw/{number // 1000:06d}/clip-{number:09d}.mp4"


class ListingServer(ThreadingHTTPServer):
    """Serves the bucket ``bucket`` with these keys, which must be in order."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, keys: Sequence[str], page_seconds: float = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.keys, self.page_seconds = keys, page_seconds
        self.content = ""
        """Of all objects: what their ETags depend on, with the key."""
        self.asked: Counter[str] = Counter()
        self.asking = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """What leads clients here."""
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
        return keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}"}

    def about(self, key: str) -> tuple[int, str]:
        """Size and ETag."""
        return 1_000_000 + len(key), blake2b((key + self.content).encode(), digest_size=16).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    server: ListingServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None: ...

    def _count(self, kind: str) -> None:
        with self.server.asking:
            self.server.asked[kind] += 1

    def do_HEAD(self) -> None:
        self._count("head")
        key = unquote(urlsplit(self.path).path).removeprefix("/bucket").removeprefix("/")
        place = bisect_right(self.server.keys, key)
        if key and not (place and self.server.keys[place - 1] == key):
            self._answer(404)
            return
        size, etag = self.server.about(key)
        self._answer(200, headers={"ETag": f'"{etag}"', "Content-Length": str(size)})

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
        if "list-type" not in query:
            self._count("get")
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        self._count("list")
        began = time.monotonic()
        body = self._page(query.get("prefix", ""), query.get("continuation-token") or query.get("start-after", ""))
        time.sleep(max(0.0, self.server.page_seconds - (time.monotonic() - began)))
        self._answer(200, body)

    def _page(self, prefix: str, after: str) -> bytes:
        keys = self.server.keys
        start = bisect_right(keys, max(after, prefix[:-1])) if after or prefix else 0
        found: list[str] = []
        while start < len(keys) and len(found) < PAGE:
            key = keys[start]
            if key.startswith(prefix):
                found.append(key)
            elif key > prefix:
                break
            start += 1
        is_cut = len(found) == PAGE and start < len(keys) and keys[start].startswith(prefix)
        return "".join(self._told(found, is_cut=is_cut)).encode()

    def _told(self, keys: Sequence[str], *, is_cut: bool) -> Iterator[str]:
        yield '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        yield f"<Name>bucket</Name><KeyCount>{len(keys)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
        yield f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>"
        if is_cut:
            yield f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>"
        for key in keys:
            size, etag = self.server.about(key)
            yield (
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-29T12:00:00.000Z</LastModified>"
                f"<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        yield "</ListBucketResult>"

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def listing_server(keys: Sequence[str]) -> Iterator[ListingServer]:
    """A server in threads of this process."""
    with ListingServer(keys) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with ListingServer(Numbered(int(sys.argv[1])), float(sys.argv[2]) if len(sys.argv) > 2 else 0) as made:
        sys.stdout.write(f"{made.server_port}\n")
        sys.stdout.flush()
        made.serve_forever()
