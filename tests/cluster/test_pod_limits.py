"""A run with Ray, under what the manifests leave a pod: a root that cannot be written, no capabilities, no new privileges.

The kernel enforces it, in a mount namespace of the test's own, where tmpfs stands for the volumes. The user stays root, without
its powers, since Python may lie where others cannot read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Jobs

ROOT = Path(__file__).resolve().parents[2]
VOLUMES = "/mnt"

INSIDE = """
set -e
mount --make-rprivate /
for place in $(cut -d ' ' -f 2 /proc/self/mounts | sort -u); do
  case "$place" in /proc*|/sys*|/dev*) ;; *) mount -o remount,ro,bind "$place" ;; esac
done
mount -t tmpfs volumes "$VOLUMES"
mkdir "$VOLUMES/files"
mount --bind "$FILES" "$VOLUMES/files"
mount -o remount,ro,bind "$VOLUMES/files"
mount -t tmpfs shm /dev/shm
mkdir "$TMPDIR"
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all bash -c '
  ! touch "$HOME/no" /tmp/no 2> /dev/null && ! chown 1 "$TMPDIR" 2> /dev/null && exec "$@"
' run "$@"
"""


def may_make_a_mount_namespace() -> bool:
    tools = all(map(shutil.which, ("setpriv", "unshare")))
    return tools and os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


def test_a_run_with_ray_writes_nowhere_but_in_its_volumes(jobs: Jobs) -> None:
    if not may_make_a_mount_namespace():
        pytest.skip("no right to a mount namespace here: the limits of a pod were not tried")
    engine = {"kind": "ray", "batch": 2, "threads_per_teacher": 1}
    for number in (0, 1):
        shutil.copy(jobs.videos / f"scene-{number}.mp4", jobs.folder)
    job = jobs.write(f"{VOLUMES}/store", engine=engine, videos={"glob": f"{VOLUMES}/files/*.mp4"}, signals=["depth"])
    environment = {
        "FILES": str(jobs.folder),
        "VOLUMES": VOLUMES,
        "TMPDIR": f"{VOLUMES}/tmp",
        "P4D_CACHE_DIR": f"{VOLUMES}/cache/p4d",
        "PYTHONPATH": str(ROOT),
    }
    own = [str(Path(sys.executable).parent / "teacher-cache"), "run", f"{VOLUMES}/files/{job.name}", "--json"]
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", INSIDE, "inside", *own],
        capture_output=True, text=True, timeout=300, env=os.environ | environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"]["committed"] == 2
