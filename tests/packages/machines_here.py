"""A provider of machines for Ray's autoscaler, each of them one more node of Ray on this machine. For tests."""

from __future__ import annotations

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class MachinesHere(FakeMultiNodeProvider):
    """Ray's own for tests, which fails where a type of node says its memory."""

    def create_node_with_resources_and_labels(self, node_config, tags, count, resources, labels):
        offered = {name: amount for name, amount in resources.items() if name != "memory"}  # a node finds its own
        super().create_node_with_resources_and_labels(node_config, tags, count, offered, labels)
