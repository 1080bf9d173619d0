"""Two processes that train one student, started as torchrun starts them: `start` from a test, the rest in them.

``python two_processes.py TRAIN.yaml…`` fits one after another, which saves starting anew for each, and says what stopped one.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = (sys.executable, __file__)
COMMAND = (sys.executable, "-m", "student_train.cli", "fit")


def start(program: Sequence[str], *arguments: object, cwd: Path, processes: int = 2) -> list[subprocess.Popen[str]]:
    """Start them; the first is the one that leads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
    }
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return [
        subprocess.Popen(
            [*program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
            env=os.environ | here | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
        )
        for rank in range(processes)
    ]  # fmt: skip


def finished(started: Sequence[subprocess.Popen[str]], timeout: float = 200) -> list[tuple[int, str, str]]:
    """(status, standard output, standard error) of each; they are killed where they take too long."""
    try:
        done = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(started, done, strict=True)]


def main() -> None:
    from schemas.errors import CacheError
    from schemas.train import TrainConfig
    from student_train.training.fit import fit
    from teacher_cache.io.config import load_yaml

    for path in map(Path, sys.argv[1:]):
        if path.stem.startswith("machines"):  # as if each process were on a machine of its own
            os.environ["LOCAL_WORLD_SIZE"] = "1"
        try:
            fit(load_yaml(path, TrainConfig), resume=path.stem.endswith("resumed"))
        except CacheError as error:
            sys.stdout.write(f"{path.stem}: {error}\n")


if __name__ == "__main__":
    main()
