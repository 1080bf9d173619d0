"""The simulator itself: it finds what small protocols do wrong, passes those that are right, and repeats what it did."""

from __future__ import annotations

import os
import random
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta

import pytest
from simulator import search
from simulator.search import Case, WentWrong, explore, replay, some_or_a_million, wander
from simulator.stand_ins import Datetime, InlineExecutor, Threading
from simulator.world import Bounds, Killed, World

NO_FAULTS = Bounds(kills=0, retries=0)


# A log that actors append to, each record created if absent


def append(world: World, text: bytes) -> int:
    """Number of the record, which may be one that an earlier request made whose answer was lost."""
    number = 0
    while not world.backend.create(f"log/{number}", text) and world.backend.get(f"log/{number}") != text:
        number += 1
    return number


def log(world: World) -> list[bytes]:
    return [world.store.get(found.key) for found in world.store.list("log/")]


def never_shrinks(world: World) -> None:
    before: list[bytes] = []

    def check() -> None:
        records = log(world)
        assert [found.key for found in world.store.list("log/")] == [f"log/{n}" for n in range(len(records))]
        assert records[: len(before)] == before, f"the log was {before}, and is {records}"
        before[:] = records

    world.invariant(check)


def three_append(world: World) -> None:
    never_shrinks(world)
    for name in ("a", "b", "c"):
        world.actor(name, lambda name=name: append(world, name.encode()))

    def each_once() -> None:
        records = log(world)
        assert len(set(records)) == len(records)
        for name, number in world.results.items():
            assert records[number] == name.encode()

    world.at_end(each_once)


@pytest.mark.parametrize(
    ("bounds", "states"),
    [
        (NO_FAULTS, 58),
        (Bounds(), 2512),
        (Bounds(late=False, errors=1), 2461),
        (Bounds(kills=3, retries=0), 410),
        (Bounds(retries=0, preemptions=2), 574),
    ],
    ids=["no-faults", "late", "at-once", "all-die", "preempted"],
)
def test_a_log_appended_by_create_if_absent_holds_in_every_order(bounds: Bounds, states: int) -> None:
    """The number of states tells of two that were taken for one: Python's hashes are others in each process."""
    assert explore(three_try if bounds.errors else three_append, bounds).states == states


def three_try(world: World) -> None:
    never_shrinks(world)
    for name in ("a", "b", "c"):
        world.actor(name, lambda name=name: append(world, name.encode()), may_raise=ConnectionError)


@some_or_a_million
def test_a_log_holds_at_random(runs: int) -> None:
    wander(three_append, runs)


def three_look_and_put(world: World) -> None:
    """The same, by looking whether a record is there, and then putting it."""
    never_shrinks(world)

    def put(text: bytes) -> None:
        number = len(world.backend.list("log/"))
        world.backend.replace(f"log/{number}", text)

    for name in ("a", "b", "c"):
        world.actor(name, lambda name=name: put(name.encode()))


@pytest.mark.parametrize("look", [explore, lambda case, bounds: wander(case, 100, bounds)], ids=["explore", "wander"])
def test_a_log_written_without_create_if_absent_is_found_out(look) -> None:
    with pytest.raises(WentWrong, match="the log was") as found:
        look(three_look_and_put, NO_FAULTS)
    with pytest.raises(WentWrong) as again:
        replay(three_look_and_put, found.value.schedule, NO_FAULTS)
    assert again.value.schedule == found.value.schedule
    # The message shows the steps, and how to take them again.
    said = str(again.value)
    assert f'replay(case, "{found.value.schedule}", Bounds(kills=0,' in said
    assert re.search(r"\n +1  [abc]  list log/ +nothing\n", said)
    assert said.count("replace log/") >= 2


# A part that gc may delete, and a log that commits it


def part_is_there_if_committed(world: World) -> None:
    def check() -> None:
        if b"commit part" in log(world):
            world.store.get("part")

    world.invariant(check)


def hasty_gc(world: World) -> None:
    """It looks at the log once, deletes, and tells nobody."""

    def gc() -> None:
        committed = [world.backend.get(found.key) for found in world.backend.list("log/")]
        for found in world.backend.list("part"):
            if b"commit part" not in committed:
                world.backend.delete([found.key])

    def driver() -> None:
        world.backend.create("part", b"values")
        append(world, b"commit part")

    part_is_there_if_committed(world)
    world.actor("gc", gc)
    world.actor("driver", driver)


def read(world: World, number: int) -> bytes | None:
    try:
        return world.backend.get(f"log/{number}")
    except FileNotFoundError:
        return None


def announcing_gc(world: World, *, reuses_keys: bool = False) -> None:
    """It says in the log what it is about to delete, and a driver that reads so gives up on the part, or makes it again."""

    def settle(text: bytes, unless: bytes) -> bool:
        """Append ``text``, unless another record stands before it."""
        number = 0
        while True:
            record = read(world, number)
            if record == unless:
                return False
            if record == text or (record is None and world.backend.create(f"log/{number}", text)):
                return True
            number += record is not None

    def gc() -> None:
        if world.backend.list("part") and settle(b"delete part", b"commit part"):
            world.backend.delete(["part"])
            append(world, b"deleted part")

    def driver() -> None:
        world.backend.create("part", b"values")
        if not settle(b"commit part", b"delete part") and reuses_keys:
            world.pause("until it is deleted", until=lambda: world.has_ended("gc") or b"deleted part" in log(world))
            if b"deleted part" in [world.backend.get(found.key) for found in world.backend.list("log/")]:
                world.backend.create("part", b"values")
                append(world, b"commit part")

    part_is_there_if_committed(world)
    world.actor("gc", gc)
    world.actor("driver", driver)


def test_a_gc_that_tells_nobody_is_found_out() -> None:
    with pytest.raises(WentWrong, match="FileNotFoundError: part"):
        explore(hasty_gc, NO_FAULTS)


def test_a_gc_that_announces_holds_whatever_is_late() -> None:
    explore(announcing_gc, Bounds(kills=2, retries=1))


def test_only_a_late_delete_shows_why_a_key_that_was_announced_is_never_committed_again() -> None:
    def case(world: World) -> None:
        announcing_gc(world, reuses_keys=True)

    explore(case, Bounds(kills=1, retries=1, late=False))
    with pytest.raises(WentWrong, match="lands") as found:
        explore(case, Bounds(kills=0, retries=1))
    assert "delete part" in str(found.value)


# What each outcome means, by all that can be seen of it


def seen(bounds: Bounds, act, *, keys: str = "", watch: bool = False) -> set[tuple[object, ...]]:
    """Every end of one actor: what it returned (None if it was killed), what is stored, and what another saw in two looks."""
    ends: set[tuple[object, ...]] = set()

    def names(found) -> str:
        return "".join(one.key for one in found)

    def case(world: World) -> None:
        for key in keys:
            world.backend.create(key, b"")
        world.actor("actor", lambda: act(world), may_raise=ConnectionError)
        if watch:
            world.actor("watch", lambda: [names(world.backend.list("")) for _ in range(2)], mortal=False)
        world.at_end(
            lambda: ends.add((world.results.get("actor"), names(world.store.list("")), *world.results.get("watch", ())))
        )

    explore(case, bounds)
    return ends


def create(world: World) -> str:
    return "made" if world.backend.create("x", b"") else "was there"


def test_killed_is_done_or_not() -> None:
    bounds = Bounds(kills=1, retries=0, late=False)
    assert seen(bounds, create) == {("made", "x"), (None, ""), (None, "x")}


def test_killed_may_land_late() -> None:
    bounds = Bounds(kills=1, retries=0)
    looks = {("", "", ""), ("x", "", ""), ("x", "", "x"), ("x", "x", "x")}  # "" at the end: it never landed
    assert seen(bounds, create, watch=True) == {("made", *look) for look in looks if look[0]} | {
        (None, *look) for look in looks
    }


def test_retried_is_done_twice() -> None:
    assert seen(Bounds(kills=0, retries=1, late=False), create) == {("made", "x"), ("was there", "x")}


def test_a_delete_sent_twice_may_land_on_what_was_made_since() -> None:
    def act(world: World) -> str:
        world.backend.delete(["x"])
        return create(world)

    at_once = seen(Bounds(kills=0, retries=1, late=False), act, keys="x")
    assert at_once == {("made", "x"), ("was there", "x")}
    assert seen(Bounds(kills=0, retries=1), act, keys="x") == at_once | {("made", "")}


def test_deleting_many_is_no_single_step() -> None:
    ends = seen(Bounds(kills=1, retries=0), lambda world: world.backend.delete(["x", "y"]), keys="xy")
    assert {left for _, left in ends} == {"", "x", "y", "xy"}
    ends = seen(Bounds(kills=1, retries=0, late=False), lambda world: world.backend.delete(["x", "y"]), keys="xy")
    assert {left for _, left in ends} == {"", "y", "xy"}


def test_an_error_reaches_the_actor() -> None:
    def act(world: World) -> str:
        try:
            return create(world)
        except ConnectionError:
            return "error"

    for late in (True, False):
        assert seen(Bounds(kills=0, retries=0, errors=1, late=late), act) == {("made", "x"), ("error", ""), ("error", "x")}


def test_nothing_of_a_killed_actor_does_anything_more() -> None:
    def act(world: World) -> None:
        try:
            create(world)
        except BaseException:
            with pytest.raises(Killed):
                time.sleep(1)
            raise
        finally:
            world.backend.create("y", b"")

    assert seen(Bounds(kills=1, retries=0, late=False), act) == {(None, ""), (None, "x"), (None, "xy")}


def test_what_an_actor_started_is_killed_with_it() -> None:
    ends = set()

    def driver(world: World) -> None:
        world.actor("writer", lambda: create(world), mortal=False)
        world.backend.list("")
        world.pause("join", until=lambda: world.has_ended("writer"))

    def case(world: World) -> None:
        world.actor("driver", lambda: driver(world))
        world.at_end(lambda: ends.add((tuple(sorted(world.results)), len(world.store.list("")))))

    explore(case, Bounds(kills=1, retries=0))
    assert ends == {(("driver", "writer"), 1), ((), 0), (("writer",), 1)}


def test_a_thread_of_the_real_code_is_an_actor_of_its_process() -> None:
    """A driver hands units to a thread that commits them in batches, as real ones do."""
    ends = set()

    def driver(world: World) -> int:
        threading, waiting, closed = Threading(world), [], []
        changed = threading.Condition()

        def commit() -> None:
            number = 0
            while True:
                with changed:
                    changed.wait_for(lambda: waiting or closed)
                    changed.wait_for(lambda: closed, timeout=1)
                    units, waiting[:] = "+".join(waiting), []
                if not units:
                    return
                world.backend.create(f"log/{number}", units.encode())
                number += 1

        thread = threading.Thread(target=commit, name="commit")
        thread.start()
        for unit in "xyz":
            world.backend.get("unit")
            with changed:
                waiting.append(unit)
                changed.notify_all()
        with changed:
            closed.append(True)
        thread.join()
        return len(log(world))

    def case(world: World) -> None:
        world.backend.create("unit", b"")
        world.actor("driver", lambda: driver(world))
        world.at_end(lambda: ends.add((world.results.get("driver"), b" ".join(log(world)))))

    explore(case, NO_FAULTS)
    whole = {b"x+y+z", b"x y+z", b"x+y z", b"x y z"}
    assert ends == {(len(text.split()), text) for text in whole}
    explore(case, Bounds(kills=1, retries=0, late=False))
    assert {text for number, text in ends if number is None} == {b"", b"x", b"x+y", b"x y", *whole}


# Waiting


def test_messages_arrive_once_and_in_order() -> None:
    received = set()

    def case(world: World) -> None:
        reports = world.mailbox("reports")
        for worker in "ab":
            world.actor(worker, lambda worker=worker: [reports.send({"worker": worker, "unit": n}) for n in range(2)])
        world.actor("driver", lambda: tuple("{worker}{unit}".format(**reports.receive()) for _ in range(4)))
        world.at_end(lambda: received.add(world.results["driver"]))

    explore(case, NO_FAULTS)
    orders = {("a0", "a1", "b0", "b1"), ("a0", "b0", "a1", "b1"), ("a0", "b0", "b1", "a1")}
    swap = str.maketrans("ab", "ba")
    assert received == orders | {tuple(name.translate(swap) for name in order) for order in orders}


def poll(world: World) -> None:
    while not world.backend.list("x"):
        time.sleep(0.5)


def test_one_that_polls_leaves_the_others_their_turn() -> None:
    def case(world: World) -> None:
        world.actor("p", lambda: poll(world))
        world.actor("q", lambda: poll(world))
        world.actor("writer", lambda: create(world))

    explore(case, NO_FAULTS)


def test_a_run_that_cannot_end_is_found_out() -> None:
    def case(world: World) -> None:
        world.actor("p", lambda: poll(world))
        world.actor("writer", lambda: create(world))

    with pytest.raises(WentWrong, match=r"Endless.*after 50 steps"):
        explore(case, Bounds(kills=1, retries=0, steps=50))


def test_actors_that_wait_for_each_other_are_found_out() -> None:
    def case(world: World) -> None:
        first, second = world.mailbox("first"), world.mailbox("second")
        world.actor("a", lambda: (first.receive(), second.send(1)))
        world.actor("b", lambda: (second.receive(), first.send(1)))

    with pytest.raises(WentWrong, match=r"Stuck: nobody can go on: a: receive first; b: receive second"):
        explore(case)


def test_an_actors_own_error_fails_the_run() -> None:
    def case(world: World) -> None:
        world.actor("a", lambda: world.backend.get("nothing"))
        world.actor("b", lambda: create(world))

    with pytest.raises(WentWrong, match=r"FileNotFoundError: nothing \(raised by a\)"):
        explore(case)


def test_hours_pass_for_everyone() -> None:
    ages = set()

    def case(world: World) -> None:
        world.backend.create("old", b"")
        world.actor("time", lambda: world.pass_hours(25))

        def gc() -> bool:
            world.backend.create("now", b"")
            age = world.backend.modified("now") - world.backend.modified("old")
            return age > timedelta(hours=24)

        world.actor("gc", gc)
        world.at_end(lambda: ages.add(world.results["gc"]))

    explore(case, NO_FAULTS)
    assert ages == {True, False}


# The same choices, the same run


def dicing(world: World) -> None:
    def act() -> None:
        for _ in range(3):
            key = f"{uuid.uuid4().hex}-{os.urandom(2).hex()}-{time.monotonic():.0f}-{Datetime.now(UTC)}"
            world.backend.create(key, b"")
            time.sleep(random.random())

    for name in ("a", "b"):
        world.actor(name, act)


def test_a_run_that_dices_is_the_same_when_repeated() -> None:
    schedule = "a b b a b:retried b#1:lands b a:killed b"
    assert replay(dicing, schedule) == replay(dicing, schedule)
    assert explore(dicing, Bounds(kills=1, retries=0, preemptions=1)).runs > 10


def test_a_seed_is_one_run() -> None:
    def failed(seed: int) -> str:
        with pytest.raises(WentWrong, match=f"^seed {seed}: RuntimeError: seen") as found:
            wander(case, 1, seed=seed)
        return str(found.value)

    def case(world: World) -> None:
        three_append(world)

        def fail() -> None:
            raise RuntimeError("seen")

        world.at_end(fail)

    texts = [failed(seed) for seed in range(20)]
    assert texts == [failed(seed) for seed in range(20)]
    assert len(set(texts)) > 15


def test_what_outlives_a_run_is_found_out() -> None:
    count = iter(range(1000))

    def case(world: World) -> None:
        world.actor("a", lambda: world.backend.create(f"x{next(count)}", b""))
        world.actor("b", lambda: create(world))

    with pytest.raises(WentWrong, match=r"NotRepeatable: step 2 comes after other answers"):
        explore(case)


def test_what_a_run_patches_is_put_back() -> None:
    def patched() -> tuple[object, ...]:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        return time.sleep, time.time, time.monotonic, os.urandom, random.uniform, random.getstate(), cores

    before = patched()
    explore(dicing, Bounds(kills=0, retries=0, preemptions=0))
    assert patched() == before


def pooled(executor: type) -> Case:
    def case(world: World) -> None:
        def act() -> list[bool]:
            with executor(2) as threads:
                return list(threads.map(lambda key: world.backend.create(key, b""), "xy"))

        world.actor("a", act)
        world.at_end(lambda: None)

    return case


def test_a_pool_is_asked_to_be_none() -> None:
    with pytest.raises(WentWrong, match=r"RuntimeError: create x .* InlineExecutor"):
        explore(pooled(ThreadPoolExecutor), NO_FAULTS)
    explore(pooled(InlineExecutor), NO_FAULTS)


# What a search leaves out is nothing that it would have seen


class Nothing(set):
    """Remembers nothing, so that a search leaves nothing out."""

    def __contains__(self, _: object) -> bool:
        return False


@pytest.mark.parametrize("late", [True, False], ids=["late", "at-once"])
def test_all_that_a_search_without_memory_sees_is_seen(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every end, and every change from one stored state to the next."""

    def all_seen() -> tuple[int, set[object]]:
        found: set[object] = set()

        def case(world: World) -> None:
            before: list[object] = []

            def look() -> None:
                now = (*log(world), "part" in world.store)
                found.add((*before, now))
                before[:] = [now]

            def act(name: str) -> int:
                if world.backend.list("part"):
                    world.backend.delete(["part"])
                return append(world, name.encode())

            world.backend.create("part", b"")
            world.invariant(look)
            for name in "ab":
                world.actor(name, lambda name=name: act(name))
            world.at_end(lambda: found.add(("end", tuple(sorted(world.results.items())), tuple(log(world)))))

        return explore(case, Bounds(kills=1, retries=1, late=late)).runs, found

    runs, found = all_seen()
    monkeypatch.setattr(
        search, "_Exhaustive", type("_All", (search._Exhaustive,), {"seen": property(lambda _: Nothing(), lambda *_: None)})
    )
    more_runs, all_found = all_seen()
    assert found == all_found
    assert runs < more_runs / 3


def test_every_result_of_every_order_is_seen() -> None:
    """Against a count by hand: two actors of two operations have six orders, which the log tells apart."""
    orders = set()

    def case(world: World) -> None:
        for name in "ab":
            world.actor(name, lambda name=name: [append(world, f"{name}{n}".encode()) for n in range(2)])
        world.at_end(lambda: orders.add(b" ".join(log(world))))

    explore(case, NO_FAULTS)
    assert len(orders) == 6


def test_operations_that_do_not_touch_make_no_more_runs_than_states() -> None:
    """Three actors on keys of their own: 4³ states, not the 1680 orders."""

    def case(world: World) -> None:
        for name in "abc":
            world.actor(name, lambda name=name: [world.backend.create(f"{name}{n}", b"") for n in range(3)])

    searched = explore(case, NO_FAULTS)
    assert searched.states == 4**3 - 1  # at the last one there is nothing to choose
    assert searched.runs < 3 * 4**3
