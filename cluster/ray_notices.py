"""Ray's word on nodes that are to go in; which nodes get no more work, and until when they can finish what they have, out.

Whoever ends a node tells Ray first (`ray drain-node`): Ray's autoscaler, a node's own SIGTERM handler, a pod's preStop hook, or
`cluster.spot_notice` on a spot machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from cluster.ray_head import Told
from schemas.event import NodeDraining


class Notices:
    """The nodes that were told to go, also once they are gone. A node does not come back under the same id."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        """Ray's id of a node → when it ends, as `time.time` tells it; infinity if nobody said."""

    def news(self, told: Told) -> Iterator[NodeDraining]:
        """Yields an event for each node that is newly told to go."""
        new = told.ends.keys() - self._ends.keys()
        self._ends |= {node: milliseconds / 1000 or math.inf for node, milliseconds in told.ends.items()}
        for node in sorted(new):
            left = self._ends[node] - time.time()
            yield NodeDraining(node=told.hosts.get(node, node), seconds=max(0.0, left) if math.isfinite(left) else None)

    @property
    def nodes(self) -> frozenset[str]:
        """Ray's ids of the nodes that were told to go."""
        return frozenset(self._ends)

    def is_over(self, node: str) -> bool:
        """Whether the time has passed that the node was given."""
        return self._ends.get(node, math.inf) <= time.time()
