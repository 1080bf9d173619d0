"""Nodes whose temporary folder has no room for a video in; where decoders run meanwhile, out."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from schemas.errors import CacheError
from teacher_cache.io.local_copy import NoRoom

_FULL_SECONDS = 600.0
"""How long a node is left alone; then a decoder may try again, which waits for room by itself."""
_NODE_LABEL = "ray.io/node-id"


@dataclass(frozen=True)
class NodeFull:
    """What a decoder says of its node."""

    node: str
    """Ray's id of it."""
    why: CacheError
    """The error that ends a run if no node has room."""


def as_told(error: CacheError) -> CacheError | NodeFull:
    """What a task on a node tells of an error: which node is full, or the error."""
    return NodeFull(ray.get_runtime_context().get_node_id(), error) if isinstance(error, NoRoom) else error


class FullDisks:
    """The nodes that decode nothing for now."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, full: NodeFull, decoding: Collection[str]) -> bool:
        """Note a full node; returns whether it is news. Raises what the node said if none of the ``decoding`` nodes is left."""
        is_news = full.node not in self.nodes
        self._until[full.node] = time.monotonic() + _FULL_SECONDS
        if not set(decoding) - self.nodes:
            raise full.why
        return is_news

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options of a task that decodes."""
        return {"label_selector": elsewhere(self.nodes)} if self.nodes else {}

    @property
    def nodes(self) -> set[str]:
        """Ray's ids of them."""
        now = time.monotonic()
        return {node for node, until in self._until.items() if until > now}


def elsewhere(nodes: Collection[str]) -> Mapping[str, str] | None:
    """Ray's label selector for any other node."""
    return {_NODE_LABEL: f"!in({','.join(sorted(nodes))})"} if nodes else None
