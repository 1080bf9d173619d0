"""A check in; what it found on each node of the Ray cluster, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.ray_connection import connected
from cluster.ray_environment import adopt, shared
from schemas.errors import first_line
from schemas.job import EngineJob
from schemas.report import Check

_SECONDS = 180
"""How long a node may take; the first check of a node starts a process that imports PyTorch."""


def on_nodes(check: Callable[[], tuple[Check, ...]], settings: EngineJob) -> Iterator[tuple[Check, ...]]:
    """Run ``check`` once on every node that is alive, all at the same time. It reserves nothing, so it waits for no teacher."""
    with connected(settings):
        nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        remote = ray.remote(num_cpus=0, max_retries=0)(check_there)
        asked = {
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(check, shared()): name
            for node, name in nodes.items()
        }
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
        for answer in done:
            try:
                yield ray.get(answer)
            except ray.exceptions.RayError as error:
                yield (_silent(asked[answer], first_line(error)),)
        for answer in late:
            ray.cancel(answer, force=True)
            yield (_silent(asked[answer], f"no answer in {_SECONDS} s"),)


def check_there(check: Callable[[], tuple[Check, ...]], environment: Mapping[str, str]) -> tuple[Check, ...]:
    """The check, as a task."""
    adopt(environment)
    return check()


def _silent(name: str, found: str) -> Check:
    advice = "See that node's Ray log; replace the node, or leave it out of the cluster."
    return Check(node=name, subject="node", status="wrong", found=found, advice=advice)
