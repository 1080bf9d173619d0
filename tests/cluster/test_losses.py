"""Whose fault it was that teachers were lost."""

from __future__ import annotations

from cluster.losses import EVENTS_PER_NODE, FEWEST_EVENTS, MOMENT_SECONDS, NODE_EVENTS, NODE_SECONDS, Losses

APART = MOMENT_SECONDS + 1


def started(*nodes: str) -> Losses:
    losses = Losses()
    for node in nodes:
        losses.joined(node)
    return losses


def test_a_node_that_dies_is_one_event_however_many_teachers_it_had() -> None:
    losses = started("a", "b")
    for teacher in range(8):
        losses.lost("a", [2 * teacher, 2 * teacher + 1], now=0.1 * teacher)
    assert losses.since_done == 1
    assert not any(losses.is_suspect(unit) for unit in range(16))
    assert not losses.nothing_goes_on


def test_losses_nobody_can_place_are_events_of_their_own() -> None:
    losses = started("a")
    for _ in range(FEWEST_EVENTS):
        assert not losses.nothing_goes_on
        losses.lost("", [], now=0)
    assert losses.nothing_goes_on


def test_a_run_goes_on_while_any_unit_gets_done() -> None:
    nodes = [f"node-{n}" for n in range(64)]
    losses = started(*nodes)
    for number, node in enumerate(nodes):  # spot nodes that are all taken away before the first unit is done
        losses.lost(node, [number], now=number)
    assert not losses.nothing_goes_on
    losses.done("node-0", 0, now=100)
    for number in range(EVENTS_PER_NODE * len(nodes)):
        assert not losses.nothing_goes_on
        losses.lost(nodes[number % 64], [number], now=200 + APART * number)
    assert losses.nothing_goes_on


def test_a_unit_is_suspected_once_several_nodes_lost_teachers_with_it() -> None:
    losses = started("a", "b", "c")
    losses.lost("a", [1, 2], now=0)
    losses.lost("a", [1], now=APART)
    assert not losses.is_suspect(1)  # it may be the node
    losses.lost("b", [1, 3], now=2 * APART)
    assert [losses.is_suspect(unit) for unit in (1, 2, 3)] == [True, False, False]
    losses.acquit(1)
    assert not losses.is_suspect(1)


def test_on_a_single_node_two_moments_are_enough() -> None:
    losses = started("a")
    losses.lost("a", [1], now=0)
    losses.lost("a", [1], now=1)
    assert not losses.is_suspect(1)
    losses.lost("a", [1], now=APART)
    assert losses.is_suspect(1)


def test_a_node_is_bad_if_others_work_meanwhile() -> None:
    losses = started("a", "b")
    for event in range(NODE_EVENTS):
        assert not losses.is_bad("a")
        losses.lost("a", [event], now=event * APART)
    assert not losses.is_bad("a")  # nobody gets anything done
    losses.done("b", 9, now=NODE_EVENTS * APART)
    assert losses.is_bad("a")
    assert not losses.is_bad("b")


def test_a_node_that_fails_now_and_then_stays() -> None:
    losses = started("a", "b")
    for event in range(10):
        losses.lost("a", [event], now=event * NODE_SECONDS)
        losses.done("b", 100 + event, now=event * NODE_SECONDS + 1)
        assert not losses.is_bad("a")


def test_nodes_that_are_gone_do_not_make_a_run_patient_for_ever() -> None:
    """A thousand spot nodes have come and gone; two are left, and whatever they do fails."""
    losses = started(*(f"node-{n}" for n in range(1000)))
    losses.keep({"node-0", "node-1"})
    for event in range(FEWEST_EVENTS):
        assert not losses.nothing_goes_on
        losses.lost(f"node-{event % 2}", [event], now=APART * event)
    assert losses.nothing_goes_on


def test_nodes_that_go_before_anything_is_done_still_count() -> None:
    nodes = [f"node-{n}" for n in range(64)]
    losses = started(*nodes)
    for number, node in enumerate(nodes):
        losses.lost(node, [number], now=number)
        losses.keep(nodes[number + 1 :])
    assert not losses.nothing_goes_on
