"""The Ray engine: work items go in, units are taught and written by a pool of actors, events come out.

The pool of teacher actors grows and shrinks with the cluster; decode tasks on any node feed it. The driver, in this file, holds
references to frames and never the frames. It decides which span is decoded next and which teacher gets which unit, and it hands
out the units again when a process or a node is lost.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import ray

from cluster.full_disks import FullDisks, NodeFull, elsewhere
from cluster.losses import Losses
from cluster.metrics import Metrics
from cluster.ray_connection import connected, require_resources
from cluster.ray_decode import decode
from cluster.ray_environment import shared
from cluster.ray_head import Head
from cluster.ray_nodes import on_nodes
from cluster.ray_notices import Notices
from cluster.ray_probe import RayProber, prober
from cluster.ray_room import Patience, Room
from cluster.ray_teacher import TeacherActor
from schemas.clip import Clip
from schemas.errors import CacheError, CouldNotRun, TeacherFailed, first_line
from schemas.event import EngineEvent, NodeSetAside, Note, Stopping, TeacherLost, TeacherStarted
from schemas.job import EngineJob
from schemas.log import FailedRow, WorkItem
from schemas.recipe import ClipRecipe, Recipe
from schemas.report import Check, FailedClip, UnitReport
from teacher_cache.io.stop import Stop
from teacher_cache.jobs.advice import DECODER_GPUS
from teacher_cache.jobs.memory import WorkerBytes, decoded_bytes, worker_bytes
from teacher_cache.jobs.scheduler import Block, Scheduler
from teacher_cache.jobs.unit_worker import WorkerSpec
from teacher_cache.store.store import open_store
from teacher_cache.teachers.registry import family

_LOOK_SECONDS = 0.5
"""How long one wait for answers lasts; then the stop request and the cluster are checked again."""
_CALLS_AT_ONCE = 64
"""Concurrent calls of one teacher actor: some teach, some write, and others receive blocks."""

_UNREAD_BLOCKS = 2
"""Blocks that a decode task may produce ahead of what the driver has read."""

_Answer = Callable[[Any], EngineEvent | None]


class RayEngine:
    """Runs a job on the Ray cluster that ``RAY_ADDRESS`` names; without it, starts Ray on this machine for the job."""

    def run(self, spec: WorkerSpec, items: Sequence[WorkItem], stop: Stop) -> Iterator[EngineEvent | None]:
        """Do the work items and yield an event for each thing that happens, such as a `UnitReport` per written unit.

        Once ``stop`` is set, no unit begins, and those in work are finished within the grace period. Lost teachers are
        replaced and their units done again. Raises `CouldNotRun` if Ray cannot be used, has no room for
        ``engine.min_teachers`` in time, makes no progress, or loses teachers over and over with the same unit.
        """
        store = open_store(spec.store, spec.storage_options)
        needed = worker_bytes(store.recipe, spec.shapes, family(spec.teacher.family), spec.teacher, spec.engine)
        with connected(spec.engine, stop) as head:
            require_resources(spec.engine, needed)
            if spec.teaches and not spec.engine.gpus_per_teacher and (gpus := ray.cluster_resources().get("GPU", 0)):
                yield Note(text=f"engine.gpus_per_teacher is 0, so teachers run on CPUs, and the cluster has {gpus:g} GPUs")
            with (
                _Run(spec, store.recipe, needed, items, head) as run,
                closing(Metrics({"store": spec.store}, len(items), spec.engine.min_teachers)) as metrics,
            ):
                for event in run.events(stop):
                    if event is not None:
                        metrics.record(event)
                    yield event

    def on_nodes(self, check: Callable[[], tuple[Check, ...]], settings: EngineJob) -> Iterator[tuple[Check, ...]]:
        """See `teacher_cache.jobs.doctor.ChecksNodes`."""
        return on_nodes(check, settings)

    def prober(self, recipe: ClipRecipe, settings: EngineJob, stop: Stop) -> AbstractContextManager[RayProber | None]:
        """See `teacher_cache.jobs.engine.Probes`."""
        return prober(recipe, settings, stop)


@dataclass(eq=False)
class _Teacher:
    """A teacher actor, and the units assigned to it."""

    name: str
    actor: Any
    node: str = ""
    """Ray's id of its node; empty until it has told."""
    host: str = ""
    started: TeacherStarted | None = None
    teaching: set[int] = field(default_factory=set)
    writing: set[int] = field(default_factory=set)
    tries: _Suspect | None = None
    """The suspected unit whose clips it tries out, one by one and with nothing else in work."""

    @property
    def has_room(self) -> bool:
        """Whether it can take another unit to teach: one per device, and one more waiting."""
        return self.started is not None and self.tries is None and len(self.teaching) <= len(self.started.devices)


@dataclass(eq=False)
class _Suspect:
    """A unit in work at several losses, whose clips are tried out one by one."""

    unit: int
    left: deque[Clip]
    """Clips to be tried; the first is being tried once a teacher has the suspect."""
    struck: list[str] = field(default_factory=list)
    """The nodes that lost a teacher when it tried the first of them."""
    guilty: list[FailedRow] = field(default_factory=list)


class _Run:
    """One run of the engine. Use as a context manager."""

    def __init__(self, spec: WorkerSpec, recipe: Recipe, needed: WorkerBytes, items: Sequence[WorkItem], head: Head) -> None:
        self._spec, self._engine, self._recipe, self._needed = spec, spec.engine, recipe, needed
        self._environment = shared()
        self._units_left = len(items)
        self._scheduler = Scheduler(items, ahead=1)
        self._room = Room(spec.engine, recipe.layout.clips_per_shard * decoded_bytes(recipe, spec.shapes), needed)
        self._patience = Patience(spec.engine, needed)
        self._head = head
        self._notices = Notices()
        self._teachers: list[_Teacher] = []
        self._leaving: list[_Teacher] = []
        """Teachers on nodes that are told to go. They finish what they have begun, and get nothing new."""
        self._owners: dict[int, _Teacher] = {}
        self._hired = 0
        self._losses = Losses()
        self._bad_nodes: set[str] = set()
        """Ray's ids of the nodes that get no more teachers."""
        self._full_disks = FullDisks()
        self._suspects: deque[_Suspect] = deque()
        """Suspected units that no teacher tries yet."""
        self._crashed: defaultdict[int, list[FailedClip]] = defaultdict(list)
        """Unit → its clips that this run found to bring teachers down; whoever writes the unit knows them only as failed."""
        self._blocks: defaultdict[int, dict[int, Any]] = defaultdict(dict)
        """Unit → block number → reference to a decoded block that no teacher has yet."""
        self._handed: defaultdict[int, set[int]] = defaultdict(set)
        """Unit → numbers of its blocks that a teacher has."""
        self._decoding: dict[Any, deque[Block]] = {}
        """Decode task → the blocks that it has yet to yield."""
        self._asked: dict[Any, tuple[_Teacher, _Answer]] = {}
        """Pending actor call → its teacher, and the callback for its result."""
        self._begins_more = True
        self._decode = ray.remote(
            num_returns="streaming",
            num_cpus=1,
            num_gpus=DECODER_GPUS if self._engine.decode_device == "cuda" else 0,
            resources=self._engine.decoder_resources,
            max_retries=-1,  # tasks fail only with their node; a bad video comes back as a value
            _generator_backpressure_num_objects=_UNREAD_BLOCKS,
        )(decode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._head.is_silent:  # each of these would wait for it
            return
        for task in self._decoding:
            ray.cancel(task, force=True)
        for teacher in [*self._teachers, *self._leaving]:
            ray.kill(teacher.actor)
        self._room.request(0)

    def events(self, stop: Stop) -> Iterator[EngineEvent | None]:
        while not (self._scheduler.is_finished if self._begins_more else not self._owners):
            if stop.is_set and self._begins_more:
                self._begins_more = False
                yield Stopping(reason=stop.reason, grace_seconds=self._engine.grace_seconds)
            if stop.has_lasted(self._engine.grace_seconds):
                return
            yield from self._heed_notices()
            self._staff()
            self._decode_more()
            self._hand_out()
            yield from self._answers()
            yield from self._patience.events(self._at_work)
            yield None

    @property
    def _at_work(self) -> int:
        return sum(teacher.started is not None for teacher in self._teachers)

    def _staff(self) -> None:
        """Create the actors that are missing. Those that Ray cannot place yet stay pending, where an autoscaler sees them."""
        self._room.look(self._head.told)
        self._losses.keep(self._room.nodes)
        wanted = min(self._room.teachers, self._units_left)
        most = min(self._engine.teachers, self._units_left)
        self._room.request(most if wanted < most else 0)
        while len(self._teachers) < wanted:
            self._hire()
        for teacher in [t for t in self._teachers if not t.node][: max(0, len(self._teachers) - wanted)]:
            self._let_go(teacher)  # it waits for a core that decoding needs more
        self._scheduler.ahead = self._room.units(self._crew, self._places)

    @property
    def _crew(self) -> int:
        return self._room.crew(len(self._teachers), len(self._places))

    @property
    def _places(self) -> list[str]:
        """The node of each teacher that has one."""
        return [teacher.node for teacher in self._teachers if teacher.node]

    def _let_go(self, teacher: _Teacher) -> None:
        ray.kill(teacher.actor)
        (self._leaving if teacher in self._leaving else self._teachers).remove(teacher)
        self._asked = {asked: entry for asked, entry in self._asked.items() if entry[0] is not teacher}

    def _hire(self) -> None:
        self._hired += 1
        name = f"teacher-{self._hired}"
        actor = ray.remote(TeacherActor).options(
            num_cpus=self._engine.cpus_per_teacher,
            num_gpus=self._engine.gpus_per_teacher,
            resources=self._engine.teacher_resources,
            memory=self._needed.host,
            max_concurrency=_CALLS_AT_ONCE,
            label_selector=elsewhere(self._bad_nodes | self._unfit),
        )
        teacher = _Teacher(name, actor.remote(self._spec, name, self._environment))
        self._teachers.append(teacher)
        self._ask(teacher, teacher.actor.place.remote(), partial(self._on_placed, teacher))
        self._ask(teacher, teacher.actor.start.remote(), partial(self._on_started, teacher))

    def _on_placed(self, teacher: _Teacher, place: tuple[str, str]) -> None:
        teacher.node, teacher.host = place
        self._losses.joined(teacher.node)

    def _on_started(self, teacher: _Teacher, started: TeacherStarted) -> EngineEvent:
        teacher.started = started
        return started

    def _decode_more(self) -> None:
        while len(self._decoding) < self._engine.decoders * self._crew:
            span = self._scheduler.next_span()
            if span is None:
                return
            engine = self._engine
            task = self._decode.options(**self._full_disks.options).remote(
                span,
                self._recipe.clips,
                engine.decode_timeout_seconds,
                engine.decode_device,
                self._spec.student_size,
                self._environment,
            )
            self._decoding[task] = deque(span.blocks)

    def _hand_out(self) -> None:
        """Assign units to the teachers that have room, those with the fewest units first."""
        self._try_suspects()
        while self._begins_more and self._at_work >= min(self._engine.min_teachers, self._units_left):
            free = [t for t in self._free if t is not self._reserved]
            if not free or (unit := self._scheduler.next_unit()) is None:
                return
            teacher = min(free, key=lambda t: len(t.teaching))
            teacher.teaching.add(unit)
            self._owners[unit] = teacher
            item, blocks = self._scheduler.item(unit), self._scheduler.blocks(unit)
            self._ask(teacher, teacher.actor.teach.remote(unit, item, blocks), partial(self._on_taught, teacher, unit))
            for number, block in self._blocks.pop(unit, {}).items():
                self._hand_over(teacher, unit, number, block)

    @property
    def _free(self) -> list[_Teacher]:
        return [t for t in self._teachers if t.has_room and len(t.writing) < self._engine.writers]

    @property
    def _good_nodes(self) -> set[str]:
        """The nodes where a suspect can be tried: they had a teacher, are alive, and not set aside, told to go or full."""
        return (self._losses.nodes & self._room.nodes) - self._bad_nodes - self._notices.nodes - self._full_disks.nodes

    @property
    def _unfit(self) -> set[str]:
        """The nodes where the next suspect is not to be tried: it has no room there, or was tried and there are others."""
        if not self._suspects:
            return set()
        struck = set(self._suspects[0].struck)
        return self._full_disks.nodes | (set() if self._good_nodes <= struck else struck)

    @property
    def _reserved(self) -> _Teacher | None:
        """The teacher that gets nothing new, to try the next suspect once it is idle."""
        if not self._suspects:
            return None
        fit = [t for t in self._free if t.node not in self._unfit]
        return min(fit, key=lambda t: len(t.teaching) + len(t.writing), default=None)

    def _try_suspects(self) -> None:
        """Give a suspect to a teacher that has nothing else in work."""
        while self._suspects and self._begins_more:
            teacher = self._reserved
            if teacher is None:
                self._make_way()
                return
            if teacher.teaching or teacher.writing:
                return
            teacher.tries = self._suspects.popleft()
            self._try_next(teacher)

    def _make_way(self) -> None:
        """If all teachers are where the suspect is not to be tried, let an idle one go: the next is hired elsewhere."""
        if all(t.node in self._unfit for t in self._teachers):
            idle = [t for t in self._free if not t.teaching and not t.writing]
            for teacher in idle[:1]:
                self._let_go(teacher)

    def _try_next(self, teacher: _Teacher) -> None:
        suspect = teacher.tries
        assert suspect is not None
        if suspect.left:
            item = self._scheduler.item(suspect.unit).model_copy(update={"clips": (suspect.left[0],), "settled": ()})
            self._ask(teacher, teacher.actor.try_out.remote(item), partial(self._on_tried, teacher))
            return
        teacher.tries = None
        self._settle(suspect)

    def _on_tried(self, teacher: _Teacher, full: NodeFull | None) -> EngineEvent | None:
        assert teacher.tries is not None
        if full is not None:
            self._suspects.appendleft(teacher.tries)
            teacher.tries = None
            return self._note(full, {*self._places, *self._good_nodes})
        teacher.tries.left.popleft()
        teacher.tries.struck.clear()
        self._losses.progressed()
        self._try_next(teacher)
        return None

    def _settle(self, suspect: _Suspect) -> None:
        """Begin a suspected unit again, without the clips that brought a teacher down by themselves."""
        item, guilty = self._scheduler.item(suspect.unit), {row.row for row in suspect.guilty}
        clips = tuple(clip for clip in item.clips if clip.row not in guilty)
        self._scheduler.replace(
            suspect.unit, item.model_copy(update={"clips": clips, "settled": (*item.settled, *suspect.guilty)})
        )
        self._losses.acquit(suspect.unit)
        self._blocks.pop(suspect.unit, None)
        self._scheduler.begin_again(suspect.unit)

    def _hand_over(self, teacher: _Teacher, unit: int, number: int, block: Any) -> None:
        self._handed[unit].add(number)
        self._ask(teacher, teacher.actor.take.remote(unit, number, block), partial(self._on_taken, teacher, unit, number))

    def _on_taken(self, teacher: _Teacher, unit: int, number: int, full: NodeFull | None) -> EngineEvent | None:
        if full is None:
            return None
        note = self._note(full, self._room.decoding(self._places))
        if self._owners.get(unit) is teacher:  # or the unit was given back, and all of it is decoded again
            self._handed[unit].discard(number)
            self._scheduler.decode_again(unit, number)
        return note

    def _note(self, full: NodeFull, decoding: Collection[str]) -> Note | None:
        """Leave a full node alone; what to say of it, if it is news. Raises if no other node decodes the same."""
        is_news = self._full_disks.add(full, decoding)
        return Note(text=f"{first_line(full.why)}. Other nodes decode meanwhile") if is_news else None

    def _on_taught(self, teacher: _Teacher, unit: int, is_taught: bool) -> None:
        teacher.teaching.discard(unit)
        if not is_taught:
            self._put_back(unit)
            return
        teacher.writing.add(unit)
        self._handed.pop(unit, None)
        self._scheduler.taught(unit)
        self._ask(teacher, teacher.actor.write.remote(unit), partial(self._on_written, teacher, unit))

    def _on_written(self, teacher: _Teacher, unit: int, report: UnitReport) -> EngineEvent:
        teacher.writing.discard(unit)
        del self._owners[unit]
        self._scheduler.finish(unit)
        self._units_left -= 1
        self._losses.done(teacher.node, unit, time.monotonic())
        return report.model_copy(update={"failures": (*report.failures, *self._crashed.pop(unit, ()))})

    def _ask(self, teacher: _Teacher, asked: Any, answer: _Answer) -> None:
        self._asked[asked] = teacher, answer

    def _answers(self) -> Iterator[EngineEvent]:
        """Wait for actor calls and decode tasks, process those that are ready, and yield their events."""
        tasks = [task for task, blocks in self._decoding.items() if not blocks or self._scheduler.claim_slot(blocks[0].unit)]
        waited = [*self._asked, *tasks]
        if not waited:
            time.sleep(_LOOK_SECONDS)
            return
        ready, _ = ray.wait(waited, num_returns=len(waited), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(waited, num_returns=1, timeout=_LOOK_SECONDS, fetch_local=False)
        for found in ready:
            self._patience.something_happened()
            if found in self._decoding:
                self._on_block(found)
            elif found in self._asked:  # calls of a teacher found dead in this loop are already dropped
                yield from self._answer(found)

    def _on_block(self, task: Any) -> None:
        """Take the next block of a decode task, or note its end."""
        blocks = self._decoding[task]
        try:
            ref = next(task)
        except StopIteration:
            del self._decoding[task]
            return
        block = blocks.popleft()
        owner = self._owners.get(block.unit)
        is_known = block.number in self._handed.get(block.unit, ()) or block.number in self._blocks.get(block.unit, ())
        if is_known or not self._scheduler.expects(block):
            return  # decoded a second time after a teacher was lost, or no longer needed
        if owner is None:
            self._blocks[block.unit][block.number] = ref
        else:
            self._hand_over(owner, block.unit, block.number, ref)

    def _answer(self, asked: Any) -> Iterator[EngineEvent]:
        teacher, answer = self._asked.pop(asked)
        try:
            result = ray.get(asked)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ray.exceptions.RayError):
                raise  # a bug in this program
            yield from self._lose(teacher, error)
            return
        except ray.exceptions.RayError as error:
            yield from self._lose(teacher, error)
            return
        if isinstance(result, TeacherFailed):
            yield from self._lose(teacher, result)
            return
        if isinstance(result, CacheError):
            raise result
        event = answer(result)
        if event is not None:
            yield event

    def _lose(self, teacher: _Teacher, error: Exception) -> Iterator[EngineEvent]:
        """Drop a teacher whose process, node, device or input frames are lost, and put its units back in the queue."""
        reason = first_line(error)
        if teacher.node in self._notices.nodes or getattr(error, "preempted", False):
            yield self._dismiss(teacher, reason)
            return
        units = sorted(teacher.teaching | teacher.writing)
        # What a suspect's clip brings down is the clip's fault for now, not the node's.
        self._losses.lost("" if teacher.tries else teacher.node, units, time.monotonic())
        if self._losses.nothing_goes_on:
            raise CouldNotRun(
                f"teachers were lost at {self._losses.since_done} moments with no unit done in between; the last: {reason}. "
                "If it is memory, lower engine.batch, engine.writers or engine.teachers. Then run the job again; committed "
                "units are kept."
            )
        if teacher.tries is not None:
            self._strike(teacher.tries, teacher.node, reason)
            teacher.tries = None
        yield self._dismiss(teacher, reason)
        if teacher.node not in self._bad_nodes and self._losses.is_bad(teacher.node):
            self._bad_nodes.add(teacher.node)
            yield NodeSetAside(node=teacher.host, reason=reason)

    def _dismiss(self, teacher: _Teacher, reason: str) -> TeacherLost:
        """Drop a teacher and put its units back in the queue, whoever is to blame."""
        self._let_go(teacher)
        units = sorted(teacher.teaching | teacher.writing)
        if teacher.tries is not None:
            self._suspects.appendleft(teacher.tries)
        for unit in units:
            self._put_back(unit)
        return TeacherLost(teacher=teacher.name, node=teacher.host, reason=reason, units=len(units))

    def _heed_notices(self) -> Iterator[EngineEvent]:
        """Take nodes that are told to go out of the work: others get what is not begun there at once, the rest at the end."""
        yield from self._notices.news(self._head.told)
        for teacher in [t for t in self._teachers if t.node in self._notices.nodes]:
            self._teachers.remove(teacher)
            self._leaving.append(teacher)
            self._ask(teacher, teacher.actor.give_back.remote(tuple(teacher.teaching)), _nothing)
        for teacher in list(self._leaving):
            if self._notices.is_over(teacher.node) or not teacher.teaching | teacher.writing:
                yield self._dismiss(teacher, "its node is told to go")

    def _strike(self, suspect: _Suspect, node: str, reason: str) -> None:
        """A clip that was tried alone brought a teacher down: on two nodes, or twice on the only one, it is a failed row."""
        suspect.struck.append(node)
        self._suspects.append(suspect)
        if len(set(suspect.struck)) > 1 or (len(suspect.struck) > 1 and self._good_nodes <= set(suspect.struck)):
            clip = suspect.left.popleft()
            suspect.struck.clear()
            suspect.guilty.append(FailedRow(row=clip.row, reason="teacher_crashed", detail=reason))
            self._crashed[suspect.unit].append(
                FailedClip(clip_id=clip.clip_id, video=clip.video, reason="teacher_crashed", detail=reason)
            )
            self._losses.progressed()

    def _put_back(self, unit: int) -> None:
        del self._owners[unit]
        self._handed.pop(unit, None)
        self._blocks.pop(unit, None)
        if self._losses.is_suspect(unit) and self._scheduler.item(unit).clips:
            self._suspects.append(_Suspect(unit, deque(self._scheduler.item(unit).clips)))
        else:
            self._scheduler.begin_again(unit)


def _nothing(_: object) -> None:
    pass
