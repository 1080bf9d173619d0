"""A store, a manifest and conversations of someone else, which name places that are none of their business."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Jobs, is_one_clear_error
from log_files import with_video_at

from schemas.errors import BadInput
from schemas.train import DataConfig, TrainConfig
from student_train.data.samples import load_samples
from student_train.training.fit import fit
from teacher_cache import open_cache
from teacher_cache.jobs.audit import reteach
from teacher_cache.report.write import write_report
from teacher_cache.store.verify import verify

REFUSAL = r"not under the folders and URLs that may be read|cannot use"


@pytest.fixture
def metadata_service() -> Iterator[tuple[str, list[str]]]:
    """(URL of a server that gives secrets to whoever asks from this machine, what it was asked)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"SecretAccessKey": "5eCr3t"}')

        do_HEAD = do_GET  # noqa: N815  # the name that the base looks for

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/latest/meta-data", asked
        server.shutdown()


@pytest.fixture
def private(videos: Path, tmp_path: Path) -> Path:
    """A video that is nobody's business."""
    (tmp_path / "private").mkdir()
    return Path(shutil.copy(videos / "scene-0.mp4", tmp_path / "private/diary.mp4"))


@pytest.fixture
def given(videos: Path, tmp_path: Path, private: Path) -> Path:
    """A folder that videos may be read from. One is a link out of it."""
    shutil.copytree(videos, tmp_path / "given")
    (tmp_path / "given/link.mp4").symlink_to(private)
    return tmp_path / "given"


@pytest.mark.parametrize("place", ["{0}/private/diary.mp4", "{0}/given/link.mp4", "{1}", "simplecache::{1}"])
def test_a_store_that_names_another_place_shows_and_trains_nothing_of_it(
    tiny_store: Path, tmp_path: Path, given: Path, metadata_service: tuple[str, list[str]], place: str
) -> None:
    service, asked = metadata_service
    uri = place.format(tmp_path, service)
    store = str(with_video_at(tiny_store, tmp_path / "store", uri))
    first = open_cache(store).clips["clip_id"][0].as_py()
    assert open_cache(store).clip(first).video == uri
    for roots in ((), (str(given),)):
        write_report(store, [first], tmp_path / "page.html", videos=roots)
        assert "Video frame" not in (tmp_path / "page.html").read_text()
        with pytest.raises(BadInput, match=REFUSAL):
            reteach(store, 1, videos=roots)
        settings = {"store": store, "output": str(tmp_path / "run"), "steps": 1, "data": {"video_root": roots}}
        with pytest.raises(BadInput, match=REFUSAL):
            fit(TrainConfig.model_validate(settings))
    found = [(finding.kind, finding.key) for finding in verify(store).findings if finding.kind != "orphan"]
    assert found == ([("video", uri)] if service in uri else [])
    assert not asked


def test_an_honest_store_s_videos_are_shown_from_where_they_may_be_read(
    tiny_store: Path, videos: Path, tmp_path: Path, teacher_cache_command: Command
) -> None:
    shown = teacher_cache_command("view", tiny_store, "--videos", videos, "--out", tmp_path / "page.html")
    assert "Video frame" in (tmp_path / "page.html").read_text()
    assert "--videos" not in shown.out
    bare = teacher_cache_command("view", tiny_store, "--out", tmp_path / "bare.html")
    assert "Video frame" not in (tmp_path / "bare.html").read_text()
    assert "no video was read: `--videos ROOT` says where" in bare.out


@pytest.mark.parametrize("uri", ["reference://a", "zip://a.mp4::/data/a.zip", "http://127.0.0.1:9/a.mp4", "s3://b/a.mp4?v"])
def test_a_manifest_that_names_another_place_is_refused(
    jobs: Jobs, tmp_path: Path, uri: str, teacher_cache_command: Command
) -> None:
    (tmp_path / "videos.jsonl").write_text("\n".join(json.dumps({"uri": u}) for u in ("a.mp4", uri)))
    job = jobs.write(tmp_path / "store", videos={"manifest": str(tmp_path / "videos.jsonl"), "https": True})
    for name in ("plan", "run"):
        is_one_clear_error(teacher_cache_command(name, job), 2, "videos.jsonl, line 2: cannot use", uri)


def test_https_is_opened_where_it_is_asked_for(jobs: Jobs, tmp_path: Path, teacher_cache_command: Command) -> None:
    (tmp_path / "videos.jsonl").write_text('{"uri": "https://localhost:9/a.mp4"}')
    source = {"manifest": str(tmp_path / "videos.jsonl")}
    done = teacher_cache_command("plan", jobs.write(tmp_path / "store", videos=source))
    is_one_clear_error(done, 2, "1 https:// URLs, such as https://localhost:9/a.mp4", "videos.https: true")
    done = teacher_cache_command("plan", jobs.write(tmp_path / "store", videos={**source, "https": True}))
    is_one_clear_error(done, 3, "cannot reach https://localhost:9/a.mp4")


def test_conversations_read_under_their_roots_alone(tiny_store: Path, tmp_path: Path, private: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A ball."}]
    cache = open_cache(str(tiny_store))

    def load(sample: dict[str, Any], **roots: tuple[str, ...]) -> str | None:
        (tmp_path / "train.json").write_text(json.dumps([{"clip_id": "scene-1.mp4", "conversations": turns}, sample]))
        data = DataConfig(conversations=(str(tmp_path / "train.json"),), without_targets="sft", **roots)
        return load_samples(cache, data).samples[1].video

    honest = str(Path(cache.clip("scene-1.mp4").video).parent)
    for sample in ({"video": str(private)}, {"image": str(private)}, {"image": "../../etc/hostname"}):
        with pytest.raises(BadInput, match=r"train.json\[1\]: .* is not under the folders and URLs that may be read"):
            load({**sample, "conversations": turns}, video_root=(honest,), image_root=(honest,))
    sample = {"video": "diary.mp4", "conversations": turns}
    assert load(sample, video_root=(str(private.parent), honest)) == str(private)
