"""A case in; every run of it out, or thousands at random, until one shows what is wrong.

**A case** is a function that gets a `World` of its own for each run, and says who acts on it and what must hold::

    def two_drivers_and_gc(world: World) -> None:
        world.patch(objects, "backend_of", lambda url, options: world.backend)   # the real code's store is this world's
        world.backend.create("zarr.json", b"…")                                  # before the run, operations are no steps
        world.actor("driver", lambda: run_driver("memory://store"))              # real code, each in a thread of its own
        world.actor("late", lambda: run_driver("memory://store"), may_raise=Interrupted)
        world.actor("gc", lambda: collect_garbage("memory://store"))
        world.actor("time", lambda: world.pass_hours(25), mortal=False)          # things become old
        world.invariant(lambda: all_that_is_committed_reads(world.store))        # after every change; operations are no steps
        world.at_end(lambda: nothing_is_missing(world.results))                  # when all have ended

    def test_two_drivers_and_gc() -> None:
        explore(two_drivers_and_gc, Bounds(kills=1, retries=1))                  # every order of steps, every fault
        wander(two_drivers_and_gc, runs=2000 * FAULTS)                           # at random, for what is too large for that

What a run of it consists of:

* **Steps.** Every object operation of an actor is one: the actor waits at it, and the search chooses who goes on. So are
  ``time.sleep`` (the next comes when everyone who could go on has done so), `World.pause`, `World.pass_hours` and the messages
  of a `World.mailbox`, by which workers report to drivers. Code between two steps runs alone.
* **Faults**, as many a run as `Bounds` allow. *killed*: the actor ends at its operation, and nothing of it, no ``finally``,
  can do another. *retried*: the answer is lost, and the client sends the same again, at a later step. *error*: the actor gets
  `World.error`. With ``late`` (the default) the request stays in flight in all three and lands at any later step, or never;
  without, it was done at once or never, which makes fewer runs.
* **Failure.** An invariant that raises, an actor's own error, actors that wait for each other, a run that does not end. The
  message has every step and the line that runs it again (`replay`).

**Write cases so that** an actor does the same whenever it gets the same answers: nothing that outlives a run (patch or clear
caches by key), no threads and no ``datetime.now`` of its own (`simulator.stand_ins` has what goes in their places). The rest is
seen to: ``time.sleep`` and ``time.time`` are the server's, and ``random``, ``os.urandom`` and uuids follow from the actor and
how often it asked. The search compares the runs and says where they part. What an actor tells a check other than by the store
or its result, it says by `World.note` too: of two states that differ in nothing else, one is looked at.

**How far it reaches.** `explore` takes each step from each state once: it runs the case again for every step that it has not
taken, and stops a run where it comes to a state that another order led to. Three actors that append to one log, a kill and a
lost answer, all of which may land late, are 2,400 runs; two kills and two answers, 42,000. Bound ``preemptions``, or `wander`,
where it is more than you can wait for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from conftest import FAULTS
from simulator.crew import Crew
from simulator.world import Bounds, Choice, NotRepeatable, World, summary

Case = Callable[[World], None]

some_or_a_million = pytest.mark.parametrize(
    "runs",
    [2000 * FAULTS, pytest.param(1_000_000, marks=[pytest.mark.complete, pytest.mark.timeout(4 * 3600)])],
    ids=["some", "million"],
)
"""For a test that wanders: thousands of runs in the suite, a million where they are asked for."""


class WentWrong(AssertionError):
    """A run that failed. ``schedule`` is what `replay` takes."""

    def __init__(self, text: str, schedule: str) -> None:
        super().__init__(text)
        self.schedule = schedule


@dataclass(frozen=True)
class Searched:
    """What a search looked at, none of it wrong."""

    runs: int
    steps: int
    seconds: float
    states: int = 0
    """Different ones; an exhaustive search counts them."""

    def __str__(self) -> str:
        return f"{self.runs} runs, {self.steps} steps, {self.states} states, {self.steps / self.seconds:,.0f} steps/s"


def explore(case: Case, bounds: Bounds = Bounds(), most_runs: int = 200_000) -> Searched:  # noqa: B008  # frozen
    """Every run within the bounds. Raises `WentWrong` at the first that fails, and where they are more than ``most_runs``."""
    search, runs, steps, began = _Exhaustive(), 0, 0, time.perf_counter()
    with Crew() as crew:
        while True:
            steps += len(_run(case, bounds, search, crew).trace)
            runs += 1
            if not search.has_more():
                return Searched(runs, steps, time.perf_counter() - began, len(search.seen))
            if runs == most_runs:
                raise AssertionError(
                    f"not all looked at in {runs} runs of {steps / runs:.0f} steps: make the case smaller, or bound it"
                )


def wander(case: Case, runs: int, bounds: Bounds = Bounds(kills=2, retries=2), seed: int = 0) -> Searched:  # noqa: B008  # frozen
    """Runs at random, one for each seed from ``seed`` on. Raises `WentWrong` at the first that fails."""
    steps, began = 0, time.perf_counter()
    with Crew() as crew:
        for number in range(seed, seed + runs):
            steps += len(_run(case, bounds, _Random(number), crew, f"seed {number}: ").trace)
    return Searched(runs, steps, time.perf_counter() - began)


def replay(case: Case, schedule: str, bounds: Bounds = Bounds()) -> str:  # noqa: B008  # frozen
    """The run that a failure's message names, step by step, and on from there without faults; its steps as text."""
    with Crew() as crew:
        return _story(_run(case, bounds, _Recorded(schedule), crew))


class _Exhaustive:
    """Depth first: each run repeats the choices of the one before it up to the last that has another choice left."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.futures: dict[tuple[str, int], int] = {}
        self._path: list[_Fork] = []
        self._step = 0

    def known(self) -> int:
        """Steps of the next run that were taken before, the last of which comes before the new one."""
        return max(len(self._path) - 1, 0)

    def __call__(self, world: World, choices: list[Choice]) -> Choice | None:
        step = self._step
        if step == len(self._path):
            state = world.state()
            if state in self.seen:
                return None
            self.seen.add(state)
            self._path.append(_Fork(state, choices, [world.foresee(choice) for choice in choices], world.waiting()))
            self._path[-1].skip(self.seen)
        fork = self._path[step]
        # The state is compared where the runs are to part: it holds all the answers before.
        if fork.choices != choices or (step == len(self._path) - 1 and fork.state != world.state()):
            was, now = "; ".join(fork.waiting), "; ".join(world.waiting())
            raise NotRepeatable(
                f"step {step + 1} comes after other answers, or other bytes, than before: at {was}; now at {now}"
            )
        self._step += 1
        return choices[fork.taken] if fork.taken < len(choices) else None

    def has_more(self) -> bool:
        """Whether there is another run; makes ready for it."""
        self._step = 0
        while self._path:
            self._path[-1].taken += 1
            self._path[-1].skip(self.seen)
            if self._path[-1].taken < len(self._path[-1].choices):
                return True
            self._path.pop()
        return False


@dataclass(slots=True)
class _Fork:
    state: int
    choices: list[Choice]
    lead_to: list[int | None]
    """The states that the choices lead to, where they are known beforehand."""
    waiting: tuple[str, ...]
    taken: int = 0

    def skip(self, seen: set[int]) -> None:
        """Pass over choices that lead to what was seen."""
        while self.taken < len(self.choices) and self.lead_to[self.taken] in seen:
            self.taken += 1


class _Random:
    """Each seed has its own manner: how long an actor goes on, how soon faults come, how late requests land."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._goes_on = self._chance.choice((0.0, 0.5, 0.9))
        self._fault = self._chance.choice((0.01, 0.05, 0.2))
        self._lands = self._chance.choice((0.02, 0.1, 0.5))

    def __call__(self, world: World, choices: list[Choice]) -> Choice:
        chance, kinds = self._chance, {"do": [], "end": [], "lands": [], "fault": []}
        for choice in choices:
            kinds.get(choice.what, kinds["fault"]).append(choice)
        plain = kinds["do"] or kinds["end"]
        if kinds["lands"] and (not plain or chance.random() < self._lands):
            return chance.choice(kinds["lands"])
        if kinds["fault"] and (not plain or chance.random() < self._fault):
            return chance.choice(kinds["fault"])
        is_last = world.last is not None and plain[0].who == world.last.name
        return plain[0] if is_last and chance.random() < self._goes_on else chance.choice(plain)


class _Recorded:
    def __init__(self, schedule: str) -> None:
        self._left = [Choice.of(text) for text in reversed(schedule.split(" "))] if schedule else []

    def __call__(self, _: World, choices: list[Choice]) -> Choice:
        choice = self._left.pop() if self._left else choices[0]
        if choice not in choices:
            raise NotRepeatable(f"the schedule has {choice} now; there are {', '.join(map(str, choices))}")
        return choice


def _run(
    case: Case, bounds: Bounds, choose: Callable[[World, list[Choice]], Choice | None], crew: Crew, seed: str = ""
) -> World:
    world = World(crew, bounds, choose)
    if isinstance(choose, _Exhaustive):
        world.checked_from, world.futures = choose.known(), choose.futures
    try:
        case(world)
        world.run()
    finally:
        world.undo_patches()
    if world.failure is not None:
        raise WentWrong(_report(world, seed), world.schedule()) from world.failure
    return world


def _report(world: World, seed: str) -> str:
    failure = world.failure
    notes = "".join(f" ({note})" for note in getattr(failure, "__notes__", ()))
    again = f'replay(case, "{world.schedule()}", {world.bounds})'
    return f"{seed}{type(failure).__name__}: {failure}{notes}\nafter these steps:\n{_story(world)}\nagain: {again}"


def _story(world: World) -> str:
    """A line for each step: who, what, how it came out."""
    rows = [
        (choice.who, str(operation or ""), summary(answer) if choice.what == "do" else answer)
        for choice, operation, answer in world.trace
    ]
    who, what = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return "\n".join(f"{n:>4}  {a:<{who}}  {b:<{what}}  {said}".rstrip() for n, (a, b, said) in enumerate(rows, 1))
