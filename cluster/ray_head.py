"""Ray's head in; which nodes there are and what they offer, as it last told, out; an error once it is silent for too long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import ray

from schemas.errors import CouldNotRun, first_line

_ASK_SECONDS = 1
"""How often to ask. The shortest notice, of a spot machine on GCP or Azure, is 30 s."""
_SILENT_SHARE = 2 / 3
"""Share of the time after which Ray ends a process whose head is silent, with a status that says nothing."""


@dataclass(frozen=True)
class Told:
    """What the head told."""

    offers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Ray's id of each node that is alive → what it has in all."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Ray's id of each node that is alive → its host name."""
    ends: Mapping[str, int] = field(default_factory=dict)
    """Ray's id of each node that is told to go → when it ends, in milliseconds since 1970, or 0 if nobody said."""

    @property
    def cores(self) -> float:
        """Of all nodes together."""
        return sum(node.get("CPU", 0.0) for node in self.offers.values())


class Head:
    """Asks the head in a thread, since Ray lets nobody go who asks a head that is gone. Use as a context manager."""

    def __init__(self) -> None:
        self._told, self._at = Told(), time.monotonic()
        self._first, self._over = threading.Event(), threading.Event()
        self._reason = "it does not answer"
        ends = os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60")  # noqa: SIM112  # Ray's own spelling
        self._most_seconds = _SILENT_SHARE * float(ends)
        self._thread = threading.Thread(target=self._ask, name="ray-head", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._first.wait(self._most_seconds)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if not self.is_silent:
            self._thread.join(_ASK_SECONDS)  # or it might ask a Ray that was shut down meanwhile

    @property
    def told(self) -> Told:
        """The last that it told, some seconds old at most. Raises `CouldNotRun` if that was long ago."""
        if self.is_lost:
            raise CouldNotRun(
                f"Ray's head has been silent for {self._silent_seconds:.0f} s: {self._reason}. Once it, or another, is there, "
                "run the job again; committed units are kept."
            )
        return self._told

    @property
    def is_silent(self) -> bool:
        """Whether an answer is overdue, so that nothing else should be asked of it either."""
        return self._silent_seconds > 5 * _ASK_SECONDS

    @property
    def is_lost(self) -> bool:
        """Whether it has been silent for so long that Ray will soon end this process."""
        return self._silent_seconds > self._most_seconds

    @property
    def _silent_seconds(self) -> float:
        return time.monotonic() - self._at

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                self._told, self._at = _asked(), time.monotonic()
                self._first.set()
            except Exception as error:  # noqa: BLE001  # whatever Ray raises; it may answer again
                self._reason = first_line(error)
            self._over.wait(_ASK_SECONDS)


def _asked() -> Told:
    alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
    # Ray's own libraries ask the same; there is no public way.
    ends = ray._private.state.state.get_draining_nodes()  # noqa: SLF001
    return Told(
        offers={node["NodeID"]: node["Resources"] for node in alive},
        hosts={node["NodeID"]: node["NodeManagerHostname"] for node in alive},
        ends=ends,
    )
