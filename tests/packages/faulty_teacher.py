"""L4P's tiny network on a machine with faults, as `P4D_FAULTY`, a JSON file, says them when they are due. For tests.

``most_clips``: as many at once as the device's memory holds. ``ecc``: Ray's ids of the nodes whose device fails. ``no_start``:
of those where no teacher starts. ``seconds``: what each batch that succeeds takes, which ends early where the file is written
anew with less. A clip that is all white ends the process.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import torch
from paced_teacher import Wrapped, WrappedFamily

from teacher_cache.teachers.l4p.teacher import FAMILY as L4P


def _faults():
    return json.loads(Path(os.environ["P4D_FAULTY"]).read_text())


def _is_at(nodes):
    import ray  # in actors alone

    return bool(nodes) and ray.get_runtime_context().get_node_id() in nodes


class _Faulty(Wrapped):
    def raw(self, frames, signals):
        faults = _faults()
        if len(frames) > faults.get("most_clips", len(frames)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if _is_at(faults.get("ecc")):
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported later")
        if bool((frames.flatten(1).float().mean(1) > 250).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        while time.monotonic() - began < _faults().get("seconds", 0):
            time.sleep(0.05)
        return self._teacher.raw(frames, signals)


class _FaultyFamily(WrappedFamily):
    def load(self, job, device):
        if _is_at(_faults().get("no_start")):
            raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
        return _Faulty(L4P.load(job, device))


FAMILY = _FaultyFamily()
