"""What is opened, what is not, and under which roots."""

from __future__ import annotations

import http.server
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from https_server import serving
from hypothesis import given
from hypothesis import strategies as st

from schemas.credentials import holds_credentials
from schemas.errors import BadInput, Unreachable
from teacher_cache.io.local_copy import local_copy
from teacher_cache.io.places import OPENED_URL, Roots, local_path, protocol, require_openable
from teacher_cache.io.remote import filesystem

REFUSED = [
    "reference://x",
    "reference::s3://bucket/a.json",
    "simplecache::https://host/a.mp4",
    "filecache::file:///etc/passwd",
    "zip://a.mp4::s3://bucket/a.zip",
    "s3://bucket/a::reference://b",
    "http://169.254.169.254/latest/meta-data/",
    "ftp://host/a",
    "sftp://host/a",
    "memory://a",
    "data:;base64,AAAA://",
    "hf://datasets/a/b",
    "github://a:b@c/d",
    "S3://bucket/a",
    "s3://bucket/a?versionId=1",
    "https://host/a#access_token=1",
    "file:///a?b",
    "://a",
]


@pytest.mark.parametrize("url", REFUSED)
def test_any_other_protocol_chain_query_or_fragment_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match=r"cannot use|holds credentials"):
        filesystem(url)
    assert not pc.match_substring_regex(pa.array([url]), OPENED_URL)[0].as_py()


@pytest.mark.parametrize("url", ["s3://b/a:b.mp4", "s3a://b/a", "gs://b/ü.mp4", "abfss://c/a", "https://host/a%20b.mp4"])
def test_other_urls_are_opened(url: str) -> None:
    require_openable(url)
    assert pc.match_substring_regex(pa.array([url]), OPENED_URL)[0].as_py()


@given(st.text(st.sampled_from("s3:/?#@ab.&=*\n"), max_size=12).map(lambda rest: "s3://" + rest))
def test_the_rule_for_columns_lets_nothing_pass_that_the_rule_for_one_refuses(url: str) -> None:
    is_openable = bool(pc.match_substring_regex(pa.array([url]), OPENED_URL)[0].as_py())
    assert not is_openable or not _is_refused(url) or holds_credentials(url)


def test_in_a_pattern_a_question_mark_is_a_wildcard() -> None:
    for pattern in ("s3://bucket/clip-??.mp4", "file:///data/?.mp4"):
        require_openable(pattern, is_pattern=True)
        with pytest.raises(BadInput):
            require_openable(pattern)
    with pytest.raises(BadInput, match="holds credentials"):
        require_openable("https://host/*.mp4?X-Amz-Signature=5eCr3t", is_pattern=True)


@pytest.mark.parametrize("name", ["a::b.mp4", "a#1?.mp4", "reference::b", "~.mp4", "%2e%2e"])
def test_a_file_s_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"video")
    fs, path = filesystem(str(tmp_path / name))
    assert fs.cat_file(path) == b"video"
    assert local_path(str(tmp_path / name)) == tmp_path / name == local_path(f"file://{tmp_path / name}")


def test_fsspec_has_no_class_for_the_protocols_that_run_code_here() -> None:
    """Whatever fsspec knows, these are the only names that reach it."""
    opened = {protocol(f"{name}://a") for name in fsspec.available_protocols()}
    refused = {name for name in opened if _is_refused(f"{name}://a")}
    assert opened - refused == {"file", "s3", "gs", "az", "https"}


def _is_refused(url: str) -> bool:
    try:
        require_openable(url)
    except BadInput:
        return True
    return False


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("videos/a.mp4", "videos/deep/b.mp4", "videos-2/c.mp4", "secret/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "videos/link.mp4").symlink_to(tmp_path / "secret/d.mp4")
    (tmp_path / "videos/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "videos/inner.mp4").symlink_to("deep/b.mp4")
    (tmp_path / "alias").symlink_to("videos")
    return tmp_path


def test_a_path_under_a_root_is_found_with_links_followed(tree: Path) -> None:
    for root in (tree / "videos", tree / "alias", f"file://{tree}/videos/"):
        roots = Roots((str(root),), "--videos")
        assert roots.find("a.mp4") == roots.find(f"{tree}/alias/a.mp4") == f"{tree}/videos/a.mp4"
        assert roots.find("inner.mp4") == roots.find(f"file://{tree}/videos/deep/../deep/b.mp4") == f"{tree}/videos/deep/b.mp4"
        assert roots.find("gone.mp4") == f"{tree}/videos/gone.mp4"
    assert Roots((f"{tree}/videos", f"{tree}/secret"), "--videos").find("link.mp4") == f"{tree}/secret/d.mp4"
    assert Roots(("/",), "--videos").find(f"{tree}/secret/d.mp4") == f"{tree}/secret/d.mp4"


@pytest.mark.parametrize(
    "path",
    ["../secret/d.mp4", "link.mp4", "folder/d.mp4", "/etc/passwd", "file:///etc/passwd", "{}/videos-2/c.mp4", "{}/videos"],
)
def test_a_path_that_leads_elsewhere_is_refused(tree: Path, path: str) -> None:
    with pytest.raises(BadInput, match=r"not under the folders and URLs that may be read, which are /.*videos \(--videos\)"):
        Roots((f"{tree}/videos",), "--videos").find(path.format(tree))


def test_a_refusal_says_what_to_add(tree: Path) -> None:
    with pytest.raises(BadInput, match=rf"a link to {tree}/secret/d.mp4, is .*add {tree}/secret to data.video_root"):
        Roots((f"{tree}/videos",), "data.video_root").find("link.mp4")
    with pytest.raises(BadInput, match=r"which are not given \(data.video_root\).*add s3://bucket/raw to data.video_root"):
        Roots((), "data.video_root").find("s3://bucket/raw/a.mp4")


@pytest.mark.parametrize(
    ("root", "inside", "outside"),
    [
        ("s3://bucket/raw", "s3a://bucket/raw/a/b.mp4", "s3://bucket/rawer/a.mp4"),
        ("s3://bucket", "s3://bucket/a.mp4", "s3://bucket-2/a.mp4"),
        ("s3://bucket/raw/", "s3://bucket/raw/a.mp4", "s3://bucket/raw/../other/a.mp4"),
        ("gs://bucket/raw", "gs://bucket/raw/a.mp4", "s3://bucket/raw/a.mp4"),
        ("https://host/raw", "https://host/raw/a%20b.mp4", "https://host/raw/%2e%2e/a.mp4"),
        ("https://host/raw", "https://host/raw/a.mp4", "https://host/raw/..%2fa.mp4"),
        ("https://host/raw", "https://host/raw/a.mp4", "https://host:8080/raw/a.mp4"),
        ("https://host/raw", "https://host/raw/a.mp4", "https://host/raw/a.mp4?b"),
        ("s3://bucket/raw", "s3://bucket/raw/a.mp4", "/bucket/raw/a.mp4"),
    ],
)
def test_a_url_under_a_root_is_found_and_no_other(root: str, inside: str, outside: str) -> None:
    assert Roots((root,), "--videos").find(inside) == inside
    with pytest.raises(BadInput):
        Roots((root,), "--videos").find(outside)


names = st.text(st.sampled_from("ab./\\%2e"), min_size=1, max_size=12)


@given(names)
def test_no_path_leads_out_of_a_local_root(path: str) -> None:
    try:
        found = Roots(("/no-such-place/root",), "--videos").find(path)
    except BadInput:
        return
    assert Path(found).resolve().is_relative_to("/no-such-place/root")


class Server(http.server.BaseHTTPRequestHandler):
    """Sends ``/to/URL`` on to URL, and answers all else with one word."""

    def do_GET(self) -> None:
        is_sent_on = self.path.startswith("/to/")
        self.send_response(302 if is_sent_on else 200)
        if is_sent_on:
            self.send_header("Location", self.path.removeprefix("/to/"))
        self.send_header("Content-Length", "0" if is_sent_on else "5")
        self.end_headers()
        if not is_sent_on and self.command == "GET":
            self.wfile.write(b"video")

    do_HEAD = do_GET  # noqa: N815  # the name that the base looks for

    def log_message(self, *_: Any) -> None: ...


def test_https_is_followed_to_https_alone() -> None:
    with serving(Server) as secure:
        for url in (f"{secure}/a.mp4", f"{secure}/to//b.mp4", f"{secure}/to/{secure}/c.mp4"):
            file = local_copy(url)
            assert file is not None
            assert os.pread(file, 100, 0) == b"video"
            os.close(file)
        with pytest.raises(Unreachable, match="sends on to a place that is not https"):
            local_copy(f"{secure}/to/http://169.254.169.254/latest/meta-data")
