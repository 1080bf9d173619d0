"""L4P's tiny network at a set pace: each forward takes `P4D_PACE` seconds at least. For tests that look at a run at work.

With this folder on PYTHONPATH it is an installed family, `paced`.
"""

from __future__ import annotations

import os
import time

from teacher_cache.teachers.l4p.teacher import FAMILY as L4P


class Wrapped:
    """A teacher that does something besides."""

    def __init__(self, teacher):
        self._teacher = teacher

    def __getattr__(self, name):
        return getattr(self._teacher, name)


class _Paced(Wrapped):
    def raw(self, frames, signals):
        end = time.monotonic() + float(os.environ.get("P4D_PACE", "0.5"))
        found = self._teacher.raw(frames, signals)
        time.sleep(max(0.0, end - time.monotonic()))
        return found


class WrappedFamily:
    """L4P in all but `load`."""

    presets = L4P.presets

    def identify(self, job):
        return L4P.identify(job)

    def forward_bytes(self, job, batch, signals):
        return L4P.forward_bytes(job, batch, signals)


class _PacedFamily(WrappedFamily):
    def load(self, job, device):
        return _Paced(L4P.load(job, device))


FAMILY = _PacedFamily()
