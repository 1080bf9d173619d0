"""Actors in; one run of them out, in which every object operation is a step that somebody else orders.

Each actor is real code in a thread of its own, and exactly one thread runs at any time. At an operation the actor's thread asks
``choose`` for the next steps, takes them, and hands over to the thread that has to go on, if that is another.
`simulator.search` says how a case is written.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from threading import Lock, get_ident
from typing import Any, NamedTuple

from simulator.crew import Crew, CrewThread
from simulator.memory_store import Clock, MemoryStore, mark_of

from teacher_cache.io.backend import Found


class Killed(BaseException):
    """Ends the thread of an actor that was killed. No handler of errors catches it, and each further operation raises it."""


class Stuck(Exception):
    """No actor can go on, and not all have ended."""


class Endless(Exception):
    """A run has taken more steps than it may."""


class NotRepeatable(Exception):
    """The same choices led to another run: something besides the answers of operations decides what an actor does."""


@dataclass(frozen=True)
class Bounds:
    """How much may go wrong in one run, and how long it may be."""

    kills: int = 1
    """Actors (with all that they started) killed at an operation: it was done, or not, or is still on its way."""
    retries: int = 1
    """Answers lost: the client sends the request again, and the first one was done, or is still on its way."""
    errors: int = 0
    """Operations that raise `World.error` in the actor, whether they were done or not."""
    late: bool = True
    """Whether a change that was killed, retried or failed stays in flight: it lands at any later step, or never.
    If not, it was done at once or never."""
    preemptions: int | None = None
    """How often, in an exhaustive search, an actor that could go on is interrupted by another; None: any number."""
    steps: int = 1000


class Choice(NamedTuple):
    """Who goes on, and what becomes of the operation.

    ``who`` is an actor, a request in flight (``gc#1``), or nobody. ``what``: do; killed, killed-after; retried; error,
    error-after; lands (of a request in flight); end (every actor has ended: what is in flight never lands).
    """

    who: str
    what: str

    def __str__(self) -> str:
        return self.who if self.what == "do" else f"{self.who}:{self.what}"

    @classmethod
    def of(cls, text: str) -> Choice:
        who, _, what = text.partition(":")
        return cls(who, what or "do")


@cache
def _choice(who: str, what: str) -> Choice:
    return Choice(who, what)


_CHANGES = frozenset({"create", "replace", "delete"})
_READS = frozenset({"get", "list", "head"})
_DEAD = 1
"""State of every actor that was killed."""
_FAULTS = {"killed": "kills", "retried": "retries", "error": "errors"}
# Nothing is known of these outside the actor's process: no request that could be lost, or that an error could answer.
_LOCAL = frozenset({"pause", "sleep", "send", "receive", "hours pass"})


class Operation:
    """What an actor is about to do: an object operation, or another step, such as waiting."""

    __slots__ = ("apply", "changes", "detail", "key", "kind", "mark", "rest", "sleeps", "until")

    def __init__(
        self,
        kind: str,
        key: str,
        apply: Callable[[], Any],
        detail: Any = None,
        *,
        until: Callable[[], bool] | None = None,
        rest: tuple[str, ...] = (),
        sleeps: bool = False,
    ) -> None:
        self.kind, self.key, self.apply, self.detail, self.until, self.rest = kind, key, apply, detail, until, rest
        self.sleeps = sleeps
        self.changes = kind in _CHANGES
        self.mark = 0

    def marked(self) -> int:
        """What tells it from others, reckoned where it is first asked for."""
        if not self.mark:
            self.mark = mark_of(
                self.kind, self.key, hash(self.detail) if isinstance(self.detail, bytes) else self.detail, self.rest
            )
        return self.mark

    def __str__(self) -> str:
        match self.detail:
            case bytes():
                return f"{self.kind} {self.key} ({summary(self.detail)})"
            case None:
                return f"{self.kind} {self.key}"
        return f"{self.kind} {self.key} {self.detail}"


@dataclass(eq=False, slots=True)
class Actor:
    """A thread of real code."""

    name: str
    run: Callable[[], Any]
    may_raise: tuple[type[BaseException], ...]
    mortal: bool
    process: str
    """Name of the actor that started it, and so on up: all of a process are killed together."""
    thread: CrewThread
    operation: Operation | None = None
    """At which it waits to be told to go on."""
    answer: Any = None
    error: BaseException | None = None
    history: int = 0
    """Hash of all answers so far. The actor's state is a function of them."""
    requests: int = 0
    """How many of its requests were left in flight so far."""
    numbers: int = 0
    """How often it asked for random bytes."""
    dice: random.Random | None = None
    behind: set[str] = field(default_factory=set)
    """Who goes on before it does: it sleeps again, and these have not moved since it slept before."""
    owed: set[str] = field(default_factory=set)
    """Who could have gone on when it last slept, and has not since."""
    told: bool = False
    """Whether it has noted something, or started another, since its last operation."""
    killed: bool = False
    ended: bool = False

    def state(self) -> int:
        if self.killed:
            return _DEAD
        at = self.operation.marked() if self.operation else 0
        return mark_of(self.history, at, self.ended, sorted(self.behind), sorted(self.owed))

    def moved(self, name: str) -> None:
        """Another has taken a step, or ended."""
        self.behind.discard(name)
        self.owed.discard(name)


class World:
    """One run of a case: a store, the actors that share it, and what must hold.

    Until the run, in invariants and at its end, operations are done at once and no step.
    """

    def __init__(self, crew: Crew, bounds: Bounds, choose: Callable[[World, list[Choice]], Choice | None]) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.backend = ScheduledBackend(self, self.store)
        self.bounds = bounds
        self.results: dict[str, Any] = {}
        """What the actors returned that came to their end."""
        self.error: Callable[[], Exception] = lambda: ConnectionResetError("no answer")
        """Makes the error of an operation that is to fail."""
        self.hours_ahead = 0.0
        """Of the server's clock: the clock that the actors see."""
        self.trace: list[tuple[Choice, Operation | None, Any]] = []
        """Each step: the choice, the operation, and its answer or, as text, what became of it."""
        self.failure: BaseException | None = None
        self.checked_from = 0
        """Steps before which invariants are not looked at: an earlier run has done so."""
        self.futures: dict[tuple[str, int], int] | None = None
        """(actor, answers so far) → the actor's state then, as earlier runs found it, unless it noted or started something."""
        self.last: Actor | None = None
        """Whose step was the last."""
        self.faults = {"kills": 0, "retries": 0, "errors": 0}
        self.preemptions = 0
        self.in_flight: dict[str, Operation] = {}
        self._choose = choose
        self._crew = crew
        self._actors: dict[str, Actor] = {}
        self._mailboxes: list[Mailbox] = []
        self._noted = 0
        self._invariants: list[Callable[[], object]] = []
        self._at_end: list[Callable[[], object]] = []
        self._undo = ExitStack()
        self._running: Actor | None = None
        self._ready: deque[Actor] = deque()
        """Who goes on before the next step: those that begin, and those that were killed and have not ended yet."""
        self._over = False
        self._baton = Lock()
        self._baton.acquire()
        self._checked_mark: object = None

    # What a case says

    def actor(
        self,
        name: str,
        run: Callable[[], Any],
        *,
        may_raise: type[BaseException] | tuple[type[BaseException], ...] = (),
        mortal: bool = True,
    ) -> None:
        """Add an actor. One that an actor adds is a thread of its process, and killed with it.

        An error that it raises, and which is none of ``may_raise``, fails the run.
        """
        starter = self._acting()
        if starter:
            starter.told = True
        if name in self._actors or not name or any(mark in name for mark in "#: "):
            raise ValueError(f"{name!r} is taken or no name for an actor: it has no space, colon or #")
        allowed = may_raise if isinstance(may_raise, tuple) else (may_raise,)
        process = starter.process if starter else name
        actor = Actor(name, run, allowed, mortal, process, self._crew.take())
        actor.history = starter.history if starter else 0
        actor.thread.job = lambda: self._live(actor)
        self._actors[name] = actor
        self._ready.append(actor)

    def invariant(self, check: Callable[[], object]) -> None:
        """A check that raises where something is wrong, made at first and after every step that changed what is stored.

        It may keep what it saw the last time, to compare; nothing older.
        """
        self._invariants.append(check)

    def at_end(self, check: Callable[[], object]) -> None:
        """A check made when every actor has ended."""
        self._at_end.append(check)

    def mailbox(self, name: str) -> Mailbox:
        """A new way for actors to tell each other something beside the store."""
        self._mailboxes.append(Mailbox(self, name))
        return self._mailboxes[-1]

    def patch(self, target: Any, name: str, value: Any) -> None:
        """Set an attribute for the length of this run."""
        self._undo.callback(setattr, target, name, getattr(target, name))
        setattr(target, name, value)

    def has_ended(self, name: str) -> bool:
        """Whether an actor came to its end or was killed."""
        return self._actors[name].ended or self._actors[name].killed

    # What actors say

    def note(self, fact: Any) -> None:
        """Say that an actor put down somewhere what only a check looks at. Hashable. States that differ in it are not one."""
        self._noted += mark_of(hash(fact))
        if actor := self._acting():
            actor.told = True

    def pause(self, label: str = "", until: Callable[[], bool] | None = None, *, may_time_out: bool = False) -> None:
        """A step that does nothing, taken when ``until`` holds, or if it may time out when its turn has come as after a sleep.

        ``until`` looks only at what is stored, posted or ended, and at what the actor's own process holds.
        """
        self.operate(Operation("pause", label, lambda: None, until=until, sleeps=may_time_out))

    def thread(self, kind: str, run: Callable[[], Any]) -> str:
        """Start another actor of the running actor's process. Returns its name."""
        starter = self._running
        assert starter is not None
        name = f"{starter.name}.{kind}-{len(self._siblings(starter))}".replace(" ", "-")
        self.actor(name, run, mortal=False)
        return name

    def sleep(self, seconds: float) -> None:
        """A step that passes time. A second one is taken when every actor that could go on at the first has done so."""
        self.operate(Operation("sleep", f"{seconds:g} s", lambda: self._pass(seconds), sleeps=True))

    def pass_hours(self, hours: float) -> None:
        """A step after which the server's clock says so many hours more."""
        self.operate(Operation("hours pass", f"{hours:g}", lambda: self._pass(3600 * hours)))

    def _pass(self, seconds: float) -> None:
        self.clock.passed += seconds

    def operate(self, operation: Operation) -> Any:
        """Wait for the step at which the running actor's operation is done; its answer. Done at once where no actor runs."""
        actor = self._running
        if actor is None:
            return operation.apply()
        if actor.thread.ident != get_ident():
            raise RuntimeError(
                f"{operation} came from a thread that {actor.name} started: nothing decides when it runs. Fetch one after the "
                "other where Backend.sequential says so, put an InlineExecutor in the pool's place, or make it an actor"
            )
        if actor.killed:
            raise Killed
        actor.operation = operation
        if operation.sleeps:
            others = (a for a in self._actors.values() if a is not actor and not a.ended and a.operation)
            actor.behind = actor.owed
            actor.owed = {a.name for a in others if not a.operation.sleeps and _is_due(a)}
        self._hand_over(actor)
        if actor.killed:
            raise Killed
        answer, error = actor.answer, actor.error
        actor.answer = actor.error = None
        if error is not None:
            raise error
        return answer

    def know(self, answer: Any) -> Any:
        """An answer that the running actor gets without a step, since it would be the same at any later time."""
        actor = self._running
        if actor is not None:
            if actor.killed:
                raise Killed
            actor.history = self._history(actor, answer)
        return answer

    # One run

    def run(self) -> None:
        """Run all actors to their ends, or until ``choose`` has seen enough. `failure` says what went wrong."""
        self._make_repeatable()
        self._hand_over(None)
        self._crew.give_back([actor.thread for actor in self._actors.values()])

    def undo_patches(self) -> None:
        self._undo.close()

    def schedule(self) -> str:
        """The choices so far, as `simulator.search.replay` takes them."""
        return " ".join(str(choice) for choice, _, _ in self.trace)

    def state(self) -> int:
        """Hash of all that decides how the run can go on.

        Two orders of operations that do not touch each other lead to the same state. An actor's part is the answers it got.
        """
        return self._state(tuple(actor.state() for actor in self._actors.values()))

    def _state(self, actors: tuple[int, ...]) -> int:
        flying = sorted((name, operation.marked()) for name, operation in self.in_flight.items())
        posted = [tuple(map(hash, box.posted)) for box in self._mailboxes]
        bounded = (self.preemptions, self.last and self.last.name) if self.bounds.preemptions is not None else None
        return mark_of(self.store.mark, self.clock.passed, actors, flying, posted, self._noted, self.faults, bounded)

    def foresee(self, choice: Choice) -> int | None:
        """The state that a step leads to, where it changes nothing that is stored, and that can be known without taking it."""
        actor = self._actors.get(choice.who)
        if (
            actor is None
            or choice.what not in {"do", "killed", "retried"}
            or any(a.owed or a.behind for a in self._actors.values())
        ):
            return None
        if choice.what == "do":
            return self._foresee_answer(actor)
        if actor.operation.changes and not self.bounds.late and choice.what == "retried":
            return None
        return self._foresee_fault(actor, choice.what)

    def _foresee_answer(self, actor: Actor) -> int | None:
        operation = actor.operation
        is_taken = operation.kind == "create" and operation.key in self.store
        if not (is_taken or operation.kind in _READS) or self.futures is None or self.bounds.preemptions is not None:
            return None
        try:
            answer = operation.apply()
        except FileNotFoundError as absent:
            answer = absent
        future = self.futures.get((actor.name, self._history(actor, answer)))
        return future and self._state(tuple(future if a is actor else a.state() for a in self._actors.values()))

    def _history(self, actor: Actor, answer: Any) -> int:
        """All that the actor knows once it has the answer, the time and what other threads of its process know among it."""
        if self.futures is None:  # nobody compares states
            return 0
        threads = tuple(a.history for a in self._siblings(actor) if a is not actor)
        return mark_of(actor.history, _mark(answer), self.clock.passed, threads)

    def _siblings(self, actor: Actor) -> list[Actor]:
        """The actors of one process, which share its memory."""
        return [a for a in self._actors.values() if a.process == actor.process]

    def _foresee_fault(self, actor: Actor, what: str) -> int:
        faults, in_flight, requests = dict(self.faults), dict(self.in_flight), actor.requests
        self.faults[_FAULTS[what]] += 1
        if actor.operation.changes and self.bounds.late:
            self._leave_in_flight(actor, actor.operation)
        dies = {a for a in self._actors.values() if what == "killed" and a.process == actor.process and not a.ended}
        state = self._state(tuple(_DEAD if a in dies else a.state() for a in self._actors.values()))
        self.faults, self.in_flight, actor.requests = faults, in_flight, requests
        return state

    def waiting(self) -> tuple[str, ...]:
        """What each actor is about to do."""
        return tuple(f"{a.name}: {a.operation}" for a in self._actors.values() if not a.ended)

    def _acting(self) -> Actor | None:
        """The actor whose thread asks, if one does."""
        actor = self._running
        return actor if actor and actor.thread.ident == get_ident() else None

    def _live(self, actor: Actor) -> None:
        """An actor's whole life, in its thread."""
        failure: BaseException | None = None
        try:
            if not actor.killed:
                self.results[actor.name] = actor.run()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  # told by the main thread
            failure = error if not isinstance(error, actor.may_raise) and not actor.killed else None
        actor.operation, actor.ended = None, True
        for other in self._actors.values():
            other.moved(actor.name)
        if failure:
            failure.add_note(f"raised by {actor.name}")
            self._stop(failure)
        self._hand_over(actor)

    def _hand_over(self, actor: Actor | None) -> None:
        """Take steps until somebody has to go on; let him, and wait until it is this one's turn. None: the main thread."""
        self._running = None
        if actor and self.futures is not None and not actor.killed and len(self.trace) >= self.checked_from:
            self._remember(actor)
        woken = self._running_next()
        self._running = woken
        if woken is actor:
            return
        (woken.thread.baton if woken else self._baton).release()
        if actor is None:
            self._baton.acquire()
        elif not actor.ended:
            actor.thread.baton.acquire()

    def _remember(self, actor: Actor) -> None:
        """Where its answers have led an actor: it must be the same in every run."""
        state = actor.state()
        if actor.told or actor.behind or actor.owed:
            actor.told = False
        elif self.futures.setdefault((actor.name, actor.history), state) != state:
            now = actor.operation or "its end"
            self._stop(
                NotRepeatable(f"{actor.name} came to {now}, and to something else in a run that gave it the same answers")
            )

    def _running_next(self) -> Actor | None:
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._over:
                return None
            try:
                woken = self._step()
            except BaseException as failure:  # noqa: BLE001  # told by the main thread
                self._stop(failure)
            else:
                if woken:
                    return woken

    def _stop(self, failure: BaseException | None = None) -> None:
        self.failure = self.failure or failure
        self._over = True
        for actor in self._actors.values():
            if not actor.ended and not actor.killed:
                self._kill(actor)

    def _kill(self, actor: Actor) -> None:
        actor.killed = True
        if actor not in self._ready:
            self._ready.append(actor)

    def _step(self) -> Actor | None:
        if not self.trace and self.checked_from == 0:
            self._check(always=True)
        choices = self._choices()
        if not choices:
            for check in self._at_end:
                check()
            self._stop()
            return None
        if len(self.trace) >= self.bounds.steps:
            raise Endless(f"the run has not ended after {self.bounds.steps} steps")
        choice = self._choose(self, choices)
        if choice is None:
            self._stop()
            return None
        return self._take(choice)

    # Which steps there are

    def _choices(self) -> list[Choice]:
        live = [actor for actor in self._actors.values() if not actor.ended]
        lands = [_choice(name, "lands") for name in self.in_flight]
        if not live:
            return [_choice("", "end"), *lands] if lands else []
        due = [actor for actor in live if _is_due(actor)]
        awake = [actor for actor in due if not actor.behind or _need_not_sleep(actor)] or due
        if not awake and not lands:
            raise Stuck("nobody can go on: " + "; ".join(self.waiting()))
        if self.last in awake:
            spent = self.bounds.preemptions is not None and self.preemptions >= self.bounds.preemptions
            awake = [self.last, *(() if spent else (actor for actor in awake if actor is not self.last))]
        return [_choice(actor.name, "do") for actor in awake] + lands + self._fault_choices(live)

    def _fault_choices(self, live: list[Actor]) -> list[Choice]:
        bounds, faults, found = self.bounds, self.faults, []
        may_kill, may_retry = faults["kills"] < bounds.kills, faults["retries"] < bounds.retries
        may_fail = faults["errors"] < bounds.errors
        for actor in live:
            operation = actor.operation
            both = operation.changes and not bounds.late
            if may_kill and actor.mortal:
                found += [_choice(actor.name, what) for what in (("killed", "killed-after") if both else ("killed",))]
            if may_retry and operation.changes:
                found.append(_choice(actor.name, "retried"))
            if may_fail and operation.kind not in _LOCAL:
                found += [_choice(actor.name, what) for what in (("error", "error-after") if both else ("error",))]
        return found

    # What a step does

    def _take(self, choice: Choice) -> Actor | None:
        if choice.what == "end":
            self.trace.append((choice, None, "what is in flight never lands"))
            self.in_flight.clear()
            return None
        if choice.what == "lands":
            operation = self.in_flight.pop(choice.who)
            self.trace.append((choice, operation, f"lands: {summary(operation.apply())}"))
            self._check()
            return None
        actor = self._actors[choice.who]
        for other in self._actors.values():
            other.moved(actor.name)
        return self._do(actor) if choice.what == "do" else self._spoil(actor, choice)

    def _do(self, actor: Actor) -> Actor:
        last = self.last
        if last is not None and last is not actor and not last.ended and not last.behind and _is_due(last):
            self.preemptions += 1
        self.last = actor
        actor.behind.clear()
        operation = actor.operation
        try:
            actor.answer = operation.apply()
        except FileNotFoundError as absent:
            actor.error = absent
        actor.history = self._history(actor, actor.error or actor.answer)
        self.trace.append((_choice(actor.name, "do"), operation, actor.error or actor.answer))
        self._check()
        return actor

    def _spoil(self, actor: Actor, choice: Choice) -> Actor | None:
        """A fault. What is not done at once stays in flight if such may land late."""
        operation, what = actor.operation, choice.what
        said = {"killed": "killed", "retried": "no answer, sent again", "error": "no answer, an error"}[what.partition("-")[0]]
        if operation.changes and self.bounds.late:
            said += f"; {self._leave_in_flight(actor, operation)} in flight"
        elif what in {"killed-after", "retried", "error-after"}:
            said = f"{summary(operation.apply())}, but {said}"
        self.trace.append((choice, operation, said))
        self.faults[_FAULTS[what.partition("-")[0]]] += 1
        if what.startswith("error"):
            actor.error, self.last = self.error(), actor
            actor.history = self._history(actor, actor.error)
        elif what.startswith("killed"):
            for other in self._actors.values():
                if other.process == actor.process and not other.ended:
                    self._kill(other)
        self._check()
        return actor if what.startswith("error") else None

    def _leave_in_flight(self, actor: Actor, operation: Operation) -> str:
        """Names of the requests: a server deletes many keys one after the other, and not all if it dies."""
        names = []
        for key in (operation.key, *operation.rest):
            actor.requests += 1
            names.append(f"{actor.name}#{actor.requests}")
            one = Operation("delete", key, lambda key=key: self.store.delete([key])) if operation.rest else operation
            self.in_flight[names[-1]] = one
        return ", ".join(names)

    def _check(self, *, always: bool = False) -> None:
        step, mark = len(self.trace), (self.store.mark, self.clock.passed)
        if step < self.checked_from or not (always or step == self.checked_from or mark != self._checked_mark):
            return
        self._checked_mark = mark
        for check in self._invariants:
            check()

    # What would make two runs differ

    def _make_repeatable(self) -> None:
        """For actors alone: sleeping is a step, time is the server's, and what is random (a uuid too) follows from who asks."""
        sleep, urandom = time.sleep, os.urandom
        self.patch(time, "sleep", lambda seconds: self.sleep(seconds) if self._acting() else sleep(seconds))
        for name in ("time", "monotonic", "perf_counter"):
            self.patch(time, name, self._clock_or(getattr(time, name)))
        self.patch(
            os, "urandom", lambda count: self._random_bytes(actor, count) if (actor := self._acting()) else urandom(count)
        )

        for name in ("random", "uniform", "randint", "randrange", "choice", "shuffle", "sample"):
            self.patch(random, name, self._dice_or(name, getattr(random, name)))

    def _dice_or(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def dice(*arguments: Any, **named: Any) -> Any:
            actor = self._acting()
            if actor is None:
                return real(*arguments, **named)
            actor.dice = actor.dice or random.Random(actor.name)
            return getattr(actor.dice, name)(*arguments, **named)

        return dice

    def _clock_or(self, real: Callable[[], float]) -> Callable[[], float]:
        return lambda: self.clock.seconds() + 3600 * self.hours_ahead if self._acting() else real()

    @staticmethod
    def _random_bytes(actor: Actor, count: int) -> bytes:
        actor.numbers += 1
        return hashlib.shake_128(f"{actor.name} {actor.numbers}".encode()).digest(count)


def _is_due(actor: Actor) -> bool:
    until = actor.operation.until
    return until is None or actor.operation.sleeps or until()


def _need_not_sleep(actor: Actor) -> bool:
    until = actor.operation.until
    return until is not None and until()


def _mark(answer: Any) -> object:
    """An answer, without what the order of others' changes decides: microseconds of the server's clock."""
    match answer:
        case list():
            return [(found.key, found.length, found.modified.replace(microsecond=0)) for found in answer]
        case datetime():
            return answer.replace(microsecond=0)
        case BaseException():
            return type(answer).__name__
        case bytes() | memoryview():
            return hash(answer), len(answer)
    return answer


def summary(answer: Any) -> str:
    """An answer, or what became of an operation, as a line has room for."""
    match answer:
        case _Message():
            return str(answer)
        case bytes() | memoryview():
            data = bytes(answer)
            short = len(data) <= 60 and data.isascii() and data.decode().isprintable()
            return repr(data.decode()) if short else f"{len(data)} bytes"
        case list():
            return ", ".join(found.key for found in answer[:6]) + (f", … {len(answer)}" if len(answer) > 6 else "") or "nothing"
        case BaseException():
            return "absent" if isinstance(answer, FileNotFoundError) else f"{type(answer).__name__}: {answer}"
        case None:
            return ""
    return str(answer)


class ScheduledBackend:
    """A store's operations, each a step of the actor that asks."""

    is_local = False
    sequential = True

    def __init__(self, world: World, store: MemoryStore) -> None:
        self._world, self._store = world, store

    def get(self, key: str, most: int = 2**40) -> bytes:
        return self._step("get", key, lambda: self._store.get(key, most))

    def get_range(self, key: str, start: int, stop: int) -> memoryview:
        return self._step("get", key, lambda: self._store.get_range(key, start, stop), (start, stop))

    def create(self, key: str, data: bytes) -> bool:
        return self._step("create", key, lambda: self._store.create(key, data), bytes(data))

    def replace(self, key: str, data: bytes) -> None:
        self._step("replace", key, lambda: self._store.replace(key, data), bytes(data))

    def list(self, prefix: str) -> Sequence[Found]:
        return self._step("list", prefix, lambda: self._store.list(prefix))

    def delete(self, keys: Sequence[str]) -> None:
        """One step for each key: no server deletes many at once."""
        for number, key in enumerate(keys, 1):
            rest = tuple(keys[number:])
            self._world.operate(Operation("delete", key, lambda key=key: self._store.delete([key]), rest=rest))

    def modified(self, key: str) -> datetime:
        return self._step("head", key, lambda: self._store.modified(key))

    def _step(self, kind: str, key: str, apply: Callable[[], Any], detail: Any = None) -> Any:
        return self._world.operate(Operation(kind, key, apply, detail))


class _Message(bytes):
    """A pickled message."""

    def __str__(self) -> str:
        return repr(pickle.loads(self))


class Mailbox:
    """Messages between actors, as between processes: pickled, in order, each received once."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self.posted: deque[_Message] = deque()

    def send(self, message: Any) -> None:
        data = _Message(pickle.dumps(message))
        self._world.operate(Operation("send", self._name, lambda: self.posted.append(data), data))

    def receive(self) -> Any:
        """The next message; waits for one."""
        return pickle.loads(self._world.operate(Operation("receive", self._name, self.posted.popleft, until=self.__bool__)))

    def __bool__(self) -> bool:
        return bool(self.posted)
