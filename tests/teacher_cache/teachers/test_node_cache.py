"""Weights from a URL: fetched and converted once on a node, shared by its processes, and checked."""

from __future__ import annotations

import functools
import http.server
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from https_server import serving
from seeded_weights import seed_weights
from unsafe import unsafe

from schemas.errors import BadInput, CouldNotRun, Unreachable
from schemas.job import TeacherJob
from schemas.signal import P4D_SIGNALS
from teacher_cache.io.cache_folder import cache_folder
from teacher_cache.teachers.l4p.network import L4P
from teacher_cache.teachers.l4p.teacher import FAMILY, PRESETS, L4PTeacher
from teacher_cache.teachers.node_cache import fetched, made_once


@pytest.fixture
def node(tmp_path, monkeypatch) -> Path:
    """The cache folder of a node that has nothing yet."""
    monkeypatch.setenv("P4D_CACHE_DIR", str(tmp_path / "node"))
    return tmp_path / "node"


def write_checkpoint(path: Path, seed: int = 7) -> Path:
    model = L4P(PRESETS["tiny"])
    seed_weights(model, seed=seed)
    path.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": {f"l4p_model.{name}": t for name, t in model.state_dict().items()}}, path)
    return path


@pytest.fixture
def tiny_checkpoint(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "origin" / "tiny.ckpt")


@pytest.fixture
def web(tiny_checkpoint):
    """(URL of the checkpoint on a web server, the paths it was asked to send)."""
    sent = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            sent.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    with serving(functools.partial(Handler, directory=str(tiny_checkpoint.parent))) as url:
        yield f"{url}/tiny.ckpt", sent


def job(weights: object, dtype: str = "float32") -> TeacherJob:
    return TeacherJob(preset="tiny", weights=str(weights), dtype=dtype)


def files(node: Path, kind: str) -> list[Path]:
    return [p for p in (node / kind).iterdir() if p.suffix in {".ckpt", ".safetensors"}]


def clip() -> torch.Tensor:
    return torch.randint(0, 256, (1, 16, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


_LOAD = """
import json, sys
from schemas.job import TeacherJob
from teacher_cache.teachers.l4p.teacher import FAMILY
print("ready", flush=True)
sys.stdin.readline()
teacher = FAMILY.load(TeacherJob(preset="tiny", weights=sys.argv[1], dtype="bfloat16"), "cpu")
maps = [line.split() for line in open("/proc/self/maps") if "/converted/" in line]
print(json.dumps({"identity": teacher.identity.model_dump(), "mapped": sorted({line[4] + " " + line[5] for line in maps})}))
"""


def test_processes_that_start_together_fetch_and_convert_once(node, web, tiny_checkpoint):
    url, sent = web
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _LOAD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
        )
        for _ in range(2)
    ]
    assert [w.stdout.readline() for w in workers] == ["ready\n"] * 2
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [json.loads(w.communicate(timeout=120)[0]) for w in workers]
    assert sent == ["/tiny.ckpt"]
    assert told[0] == told[1]
    assert len(told[0]["mapped"]) == 1  # both hold the same inode: one made it, and neither made it again
    assert told[0]["identity"] == FAMILY.identify(job(tiny_checkpoint, "bfloat16")).identity.model_dump()
    assert len(files(node, "weights")) == len(files(node, "converted")) == 1
    assert not list(node.rglob("*.part"))


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_on_s3_are_the_weights_of_the_file(s3, tiny_checkpoint, dtype):
    fsspec.filesystem("s3").put_file(str(tiny_checkpoint), f"{s3}/tiny.ckpt")
    described = FAMILY.identify(job(f"{s3}/tiny.ckpt", dtype))
    teacher = FAMILY.load(job(f"{s3}/tiny.ckpt", dtype), "cpu")
    direct = L4PTeacher(
        L4P(PRESETS["tiny"]).load_checkpoint(tiny_checkpoint), FAMILY.identify(job(tiny_checkpoint, dtype)).identity, "cpu"
    )
    assert teacher.identity == described.identity == direct.identity
    signals = ("f4d", "camray") if dtype == "bfloat16" else P4D_SIGNALS  # without bfloat16 a processor takes minutes for maps
    found, wanted = teacher.raw(clip(), signals), direct.raw(clip(), signals)
    assert all(torch.equal(x, wanted[signal]) for signal, x in found.items())
    assert teacher.heads() == direct.heads()
    assert {p.dtype for p in teacher.model.parameters()} == {p.dtype for p in direct.model.parameters()}


def test_weights_replaced_at_their_url_are_fetched_anew(s3, node, tmp_path, tiny_checkpoint):
    fs = fsspec.filesystem("s3")
    fs.put_file(str(tiny_checkpoint), f"{s3}/tiny.ckpt")
    before = FAMILY.identify(job(f"{s3}/tiny.ckpt")).identity
    fs.put_file(str(write_checkpoint(tmp_path / "other.ckpt", seed=8)), f"{s3}/tiny.ckpt")
    assert FAMILY.identify(job(f"{s3}/tiny.ckpt")).identity.weights != before.weights
    assert len(files(node, "weights")) == 2


def test_what_is_whole_is_not_fetched_or_made_again(node, web):
    url, sent = web
    FAMILY.load(job(url), "cpu")
    before = {p: p.stat().st_mtime_ns for p in node.rglob("*.*")}
    FAMILY.load(job(url), "cpu")
    assert sent == ["/tiny.ckpt"]
    assert {p: p.stat().st_mtime_ns for p in node.rglob("*.*")} == before


@pytest.mark.parametrize("kind", ["weights", "converted"])
@pytest.mark.parametrize("damage", ["a byte", "the end", "all of it", "its digest"])
def test_a_damaged_entry_is_noticed_and_made_again(node, web, kind, damage):
    url, sent = web
    wanted = FAMILY.load(job(url), "cpu").raw(clip(), ["f4d"])["f4d"]
    (entry,) = files(node, kind)
    data = entry.read_bytes()
    if damage == "a byte":
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        entry.with_suffix(".new").write_bytes(changed)
        entry.with_suffix(".new").rename(entry)
    elif damage == "the end":
        entry.with_suffix(".new").write_bytes(data[:-100])
        entry.with_suffix(".new").rename(entry)
    elif damage == "all of it":
        entry.unlink()
    else:
        entry.with_name(f"{entry.name}.digest").write_text("sha256:0")
    assert torch.equal(FAMILY.load(job(url), "cpu").raw(clip(), ["f4d"])["f4d"], wanted)
    assert entry.read_bytes() == data
    assert len(sent) == (2 if kind == "weights" else 1)


def test_a_process_killed_while_it_fetched_leaves_nothing_in_the_way(node):
    code = (
        "import os\nfrom teacher_cache.teachers.node_cache import made_once\n"
        "def make(part):\n    part.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
        "made_once('weights', ['key'], '.bin', make)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [p.read_bytes() for p in node.rglob("*.part")] == [b"half"]
    assert made_once("weights", ["key"], ".bin", lambda part: part.write_bytes(b"whole")).read_bytes() == b"whole"
    assert not list(node.rglob("*.part"))


def made(content=b"whole") -> Path:
    return made_once("weights", ["key"], ".bin", lambda part: part.write_bytes(content))


def test_what_is_kept_is_this_user_s_alone(node):
    file = made()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [file.parent, *file.parent.iterdir()]}
    assert modes == {"weights": 0o700} | {f"{file.name}{more}": 0o600 for more in ("", ".digest", ".lock")}
    assert node.is_dir()


UNSAFE = unsafe(folder=0o775, file=0o666)


@pytest.mark.parametrize("what", ["folder", "file", "digest", "lock"])
@pytest.mark.parametrize("told", UNSAFE)
@pytest.mark.usefixtures("node")
def test_weights_that_others_can_write_are_not_used(told, what):
    """Whoever can write there can write a digest, too."""
    file = made()
    beside = {"folder": file.parent, "file": file}.get(what, file.with_name(f"{file.name}.{what}"))
    if what == "lock":
        file.unlink()  # as long as it is there, no lock is needed
    UNSAFE[told](beside)
    link = "|is a link|Too many levels of symbolic links" if told == "is a link" else ""
    with pytest.raises(CouldNotRun, match=rf"({told}{link}).*name another folder in P4D_CACHE_DIR"):
        made()


@pytest.mark.usefixtures("node")
def test_weights_of_another_digest_than_the_job_states_are_refused(tiny_checkpoint):
    right = FAMILY.identify(job(tiny_checkpoint)).identity.weights
    asked = job(tiny_checkpoint).model_copy(update={"weights_digest": right})
    assert FAMILY.identify(asked).identity.weights == right
    write_checkpoint(tiny_checkpoint, seed=9)
    with pytest.raises(BadInput, match=r"`teacher.weights_digest` asks for sha256:"):
        FAMILY.identify(asked)


def test_weights_on_this_machine_stay_where_they_are(node, tiny_checkpoint):
    assert fetched(str(tiny_checkpoint)) == fetched(f"file://{tiny_checkpoint}") == tiny_checkpoint
    FAMILY.load(job(tiny_checkpoint), "cpu")
    assert not node.exists()
    FAMILY.load(job(tiny_checkpoint, "bfloat16"), "cpu")  # rounded once for all workers
    assert len(files(node, "converted")) == 1
    assert not (node / "weights").exists()


def test_the_folder_is_the_users_cache_unless_named(monkeypatch):
    monkeypatch.delenv("P4D_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/cache")
    assert cache_folder() == Path("/scratch/cache/p4d-cache")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "p4d-cache"


@pytest.mark.usefixtures("node")
def test_weights_that_cannot_be_had_are_one_clear_error(s3, web, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"there are no weights at s3://bucket/none.ckpt"):
        FAMILY.identify(job(f"{s3}/none.ckpt"))
    with pytest.raises(BadInput, match="cannot use teleport://x"):
        FAMILY.identify(job("teleport://x"))
    with pytest.raises(BadInput, match="holds credentials"):
        FAMILY.identify(job("s3://key:hidden@bucket/tiny.ckpt"))
    with pytest.raises(BadInput, match=r"there are no weights at https://localhost:\d+/none.ckpt"):
        FAMILY.identify(job(f"{web[0].rpartition('/')[0]}/none.ckpt"))
    with pytest.raises(Unreachable, match=r"cannot reach https://localhost:9/tiny.ckpt: Cannot connect to host"):
        FAMILY.identify(job("https://localhost:9/tiny.ckpt"))
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("P4D_CACHE_DIR", str(tmp_path / "a file"))
    with pytest.raises(CouldNotRun, match=r"Not a directory.*name another folder in P4D_CACHE_DIR"):
        FAMILY.identify(job(web[0]))
