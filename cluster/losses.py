"""Teachers that were lost, and where, in; whose fault it was out: a node's, a unit's, or everyone's.

Losses on one node at one moment are one event, however many teachers the node had. Knows nothing of Ray.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

MOMENT_SECONDS = 5.0
"""Losses on a node within this long of the first are one event: a node that dies takes its teachers within a few seconds."""
NODE_EVENTS, NODE_SECONDS = 3, 1800.0
"""A node that loses teachers at that many moments within this long is set aside, if others get work done meanwhile."""
UNIT_EVENTS = 2
"""A unit that was in work at that many events, on different nodes if there are several, is suspected."""
FEWEST_EVENTS, EVENTS_PER_NODE = 6, 3
"""With no unit done in between, a run goes on for that many events, or for this many for each of its nodes."""


@dataclass
class _Event:
    node: str
    began: float
    units: set[int] = field(default_factory=set)


class Losses:
    """Counts what was lost. Times are in seconds, by any clock that only goes forward."""

    def __init__(self) -> None:
        self._events: list[_Event] = []
        """Those that may still count against a node."""
        self.since_done = 0
        """Events since a unit was last done, or the run got on in another way."""
        self.nodes: set[str] = set()
        """Where teachers have worked."""
        self._last_done: dict[str, float] = {}
        """Node → when it last got a unit done."""
        self._of_unit: defaultdict[int, list[_Event]] = defaultdict(list)

    def joined(self, node: str) -> None:
        """A teacher began to work there."""
        self.nodes.add(node)

    def keep(self, alive: Collection[str]) -> None:
        """Forget nodes that are gone, unless something was lost since the run last got on: then they still count.

        Spot nodes come and go by the thousand; a run on 64 waits for what 64 lose.
        """
        if not self.since_done:
            self.nodes.intersection_update(alive)

    def done(self, node: str, unit: int, now: float) -> None:
        """A unit was done: the run gets on, and neither the unit nor, so far, the node is to blame."""
        self.since_done = 0
        self._last_done[node] = now
        self._of_unit.pop(unit, None)

    def lost(self, node: str, units: Collection[int], now: float) -> None:
        """A teacher was lost with these units in work. ``node`` is empty if nobody knows where it was."""
        event = next((e for e in self._events if node and e.node == node and now - e.began <= MOMENT_SECONDS), None)
        if event is None:
            event = _Event(node, now)
            self._events = [e for e in self._events if now - e.began <= NODE_SECONDS] + [event]
            self.since_done += 1
        for unit in set(units) - event.units:
            event.units.add(unit)
            self._of_unit[unit].append(event)

    def is_suspect(self, unit: int) -> bool:
        """Whether teachers were lost again and again with the unit in work, and on several nodes if there are several."""
        events = self._of_unit.get(unit, [])
        nodes = {event.node for event in events}
        return len(events) >= UNIT_EVENTS and len(nodes) >= min(UNIT_EVENTS, max(1, len(self.nodes)))

    def acquit(self, unit: int) -> None:
        """The unit was looked at, and is not to blame, or no longer."""
        self._of_unit.pop(unit, None)

    def is_bad(self, node: str) -> bool:
        """Whether a node loses its teachers while other nodes get work done, so that it is better left alone."""
        events = [event for event in self._events if event.node == node]
        if not node or len(events) < NODE_EVENTS:
            return False
        return any(when > events[0].began for other, when in self._last_done.items() if other != node)

    def progressed(self) -> None:
        """The run got on in another way: a suspect's clip was acquitted, or found guilty."""
        self.since_done = 0

    @property
    def nothing_goes_on(self) -> bool:
        """Whether so much was lost, with nothing done in between, that the run will not get on."""
        return self.since_done >= max(FEWEST_EVENTS, EVENTS_PER_NODE * len(self.nodes))
