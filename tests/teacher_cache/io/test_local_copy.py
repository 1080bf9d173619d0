"""Copies of remote objects on this machine: nothing is left of them, and a full disk is named as what it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from teacher_cache.io.local_copy import local_copy
from teacher_cache.io.remote import filesystem

MEGABYTES = 4
"""Of the small disk."""


@pytest.fixture
def objects(s3: str) -> str:
    fs, _ = filesystem(s3)
    for name, megabytes in {"small": 1, "half": 2, "large": 6}.items():
        fs.pipe_file(f"bucket/{name}", os.urandom(megabytes * 10**6))
    return s3


def test_a_copy_has_no_name(objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = local_copy(f"{objects}/half")
    assert file is not None
    try:
        assert os.pread(file, 10**7, 0) == filesystem(objects)[0].cat_file("bucket/half")
        assert os.fstat(file).st_nlink == 0
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(file)
    assert local_copy(f"{objects}/nothing") is None


SAID = """
import os, threading
from teacher_cache.io import local_copy
local_copy._AGAIN_SECONDS = 0.1
for name, seconds in (("large", 0.3), ("half", 0.3), ("half", 60)):
    local_copy._WAIT_SECONDS = seconds
    held = local_copy.local_copy("OBJECTS/half") if name == "half" else os.open("/dev/null", os.O_RDONLY)
    if seconds == 60:
        threading.Timer(0.5, os.close, [held]).start()
    try:
        print("copied", os.fstat(local_copy.local_copy("OBJECTS/" + name)).st_size)
    except local_copy.NoRoom as error:
        print(error)
    if seconds != 60:
        os.close(held)
"""


def test_a_disk_without_room_is_waited_for_and_then_named(objects: str, tmp_path: Path) -> None:
    """On a real file system of four megabytes: an object beyond it, one beside another, and one once the other is closed."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    mount = f'mount -t tmpfs -o size={MEGABYTES}m none {tmp_path} && exec "$0" -c "$1"'
    said = subprocess.run(
        [*namespace, "sh", "-c", mount, sys.executable, SAID.replace("OBJECTS", objects)],
        env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    large, beside, waited = said.stdout.splitlines()
    assert f"{tmp_path} on " in large
    assert f"has no room for a copy of {objects}/large, which has 6.0 MB: 4.2 of 4.2 MB are free" in large
    assert "half, which has 2.0 MB: 2.2 of 4.2 MB are free" in beside
    assert "set TMPDIR" in beside
    assert waited == "copied 2000000"
