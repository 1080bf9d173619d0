"""A scene and its rendered truth in; marked objects and questions with exact answers out.

The kinds are R4D-Bench's (4D-RGPT, arXiv 2512.17012, section 4), plus three that need no region: the camera's movement, as in
VSTI-Bench, the scene's mean depth, and the video's length. Every question is multiple choice, with options in a fixed order, so
that a blind guess is worth the same throughout. Questions whose answer is close to the border between two options are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from schemas.evaluation import SceneTask
from schemas.regions import Box, RegionObject
from teacher_cache.regions.marks import draw_marks as draw_objects
from teacher_cache.scenes.geometry import Box as UprightBox
from teacher_cache.scenes.geometry import DoubleArray
from teacher_cache.scenes.render import SceneTruth
from teacher_cache.scenes.scene import Scene, SceneObject

_LEAST_SHARE = 0.004
"""Smallest share of the first frame's pixels of a marked object."""
_MOST_MARKS = 4
_BORDER = 0.06
"""Smallest relative distance of a number from the borders between options."""
_MEAN_BORDER = 0.01
"""The same for means over a video, which differ little between scenes."""
_DOMINANT = 1.4
"""How many times larger a movement must be in one direction than in the other, to be the answer."""
_STILL_METRES = 0.03

_SPEEDS = (0.5, 0.75, 1.1)
_PATHS = (0.8, 1.3, 2.0)
_DISTANCES = (3.6, 4.4, 5.2)
_HEIGHTS = (0.5, 0.65, 0.8)
_MEAN_DEPTHS = (4.95, 5.3, 5.65)
_SECONDS = (1.3, 1.7, 2.3)

_DIRECTIONS = ("to the left", "to the right", "towards the camera", "away from the camera", "it stays in its place")
_TURNS = ("clockwise", "counterclockwise", "it does not turn")
_CAMERA = ("to the left", "to the right", "it hardly moves")
_COUNTS = ("1 or none", "2", "3", "4 or more")


@dataclass(frozen=True)
class Mark:
    """An object that questions call ``<obj_N>``, located in the first frame."""

    number: int
    """N, from 1."""
    instance: int
    """Index into ``scene.objects``."""
    box: tuple[float, float, float, float]
    """(left, top, right, bottom) in image widths and heights."""

    @property
    def name(self) -> str:
        """``<obj_N>``."""
        return f"<obj_{self.number}>"


@dataclass(frozen=True)
class SceneQuestion:
    """A multiple-choice question."""

    task: SceneTask
    """Kind of the question."""
    text: str
    options: tuple[str, ...]
    right: int
    """Index of the right option."""
    value: float | None = None
    """The exact number that the right option stands for, in the options' unit; for the camera's movement, its displacement in
    metres. None for what is no number."""

    @property
    def names_mark(self) -> bool:
        """Whether it mentions a marked object, and so needs the marked first frame."""
        return any("<obj_" in text for text in (self.text, *self.options))


_Answered = tuple[str, tuple[str, ...], int] | tuple[str, tuple[str, ...], int, float]
"""(text, options, index of the right option, and the number behind it if there is one)."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """The inputs of the question generators."""

    scene: Scene
    truth: SceneTruth
    marks: tuple[Mark, ...]
    paths: tuple[DoubleArray, ...]
    """Per object (frame, 3): its centre in the first camera's coordinates, metres."""

    @property
    def seconds(self) -> float:
        return float(self.truth.times_seconds[-1] - self.truth.times_seconds[0])

    def thing(self, mark: Mark) -> SceneObject:
        return self.scene.objects[mark.instance]

    def path_metres(self, mark: Mark) -> float:
        return float(np.linalg.norm(np.diff(self.paths[mark.instance], axis=0), axis=1).sum())


def mark_objects(truth: SceneTruth, seed: int) -> tuple[Mark, ...]:
    """Up to four objects that are large enough in the first frame, numbered in random order by ``seed``."""
    first = truth.instance[0]
    shown = [i for i in range(int(first.max()) + 1) if (first == i).mean() >= _LEAST_SHARE]
    order = np.random.default_rng([seed, 2]).permutation(shown)[:_MOST_MARKS]
    return tuple(Mark(number, int(instance), _bounds(first == instance)) for number, instance in enumerate(order, start=1))


def scene_questions(scene: Scene, truth: SceneTruth, marks: Sequence[Mark]) -> list[SceneQuestion]:
    """Every question that the truth answers clearly. Equal scenes give equal questions."""
    to_first = np.linalg.inv(scene.camera.pose(float(truth.times_seconds[0])).matrix())
    world = [np.stack([o.trajectory.pose(float(t)).translation for t in truth.times_seconds]) for o in scene.objects]
    asked = _Asked(scene, truth, tuple(marks), tuple(p @ to_first[:3, :3].T + to_first[:3, 3] for p in world))
    return [SceneQuestion(task, *answered) for task, make in _MAKERS.items() for answered in make(asked)]


def draw_marks(frame: npt.NDArray[np.uint8], instance: npt.NDArray[np.int16], marks: Sequence[Mark]) -> npt.NDArray[np.uint8]:
    """The first frame with each marked object outlined and numbered.

    ``frame`` (y, x, RGB) and ``instance`` (y, x) are the clip's first. Returns uint8 (y, x, RGB).
    """
    return draw_objects(frame, objects_of(marks), label_map(instance, marks), style="contour")


def label_map(instance: npt.NDArray[np.int16], marks: Sequence[Mark]) -> npt.NDArray[np.uint8]:
    """The marks' numbers where their objects are, and 0 elsewhere: uint8, with the axes of ``instance``."""
    labels = np.zeros(instance.shape, np.uint8)
    for mark in marks:
        labels[instance == mark.instance] = mark.number
    return labels


def objects_of(marks: Sequence[Mark]) -> tuple[RegionObject, ...]:
    """The marked objects, as a store of regions has them, in the first frame alone."""
    names = ("left", "top", "right", "bottom")
    return tuple(
        RegionObject(
            number=mark.number,
            phrase=mark.name,
            box=Box(**dict(zip(names, mark.box, strict=True))),
            score=1.0,
            frames=(0,),
        )
        for mark in marks
    )


def _bounds(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    height, width = mask.shape
    y, x = np.nonzero(mask)
    return (
        round(float(x.min()) / width, 4),
        round(float(y.min()) / height, 4),
        round(float(x.max() + 1) / width, 4),
        round(float(y.max() + 1) / height, 4),
    )


def _translation(asked: _Asked) -> Iterator[_Answered]:
    still_too = True  # at most one static object per scene: most are static, and that answer would be right too often
    for mark in asked.marks:
        path = asked.paths[mark.instance]
        across, _, ahead = path[-1] - path[0]
        moved = asked.path_metres(mark)
        if moved < _STILL_METRES:
            if not still_too:
                continue
            right, still_too = 4, False
        elif max(abs(across), abs(ahead)) < 0.2:
            continue  # circles or spins in place: neither static nor moved anywhere
        elif abs(across) >= _DOMINANT * abs(ahead):
            right = int(across > 0)
        elif abs(ahead) >= _DOMINANT * abs(across):
            right = 2 + int(ahead > 0)
        else:
            continue
        yield f"Seen from where the camera starts, which way does {mark.name} go?", _DIRECTIONS, right


def _rotation(asked: _Asked) -> Iterator[_Answered]:
    """Upright boxes only. y points down, so a positive rotation about it is clockwise, seen from above."""
    still_too = True
    for mark in asked.marks:
        thing = asked.thing(mark)
        rate = thing.trajectory.spin_rate * thing.trajectory.spin_axis[1]
        upright = thing.trajectory.spin_axis[0] == thing.trajectory.spin_axis[2] == 0
        if not isinstance(thing.solid, UprightBox) or not (upright or thing.trajectory.spin_rate == 0):
            continue
        if 0 < abs(rate) * asked.seconds < 0.3:
            continue
        if rate == 0 and not still_too:
            continue
        right = 2 if rate == 0 else int(rate < 0)
        still_too &= rate != 0
        yield f"Seen from above, which way does {mark.name} turn?", _TURNS, right


def _counting(asked: _Asked) -> Iterator[_Answered]:
    shares = [(asked.truth.instance == i).mean(axis=(1, 2)).max() for i in range(len(asked.scene.objects))]
    if any(share < _LEAST_SHARE and o.trajectory.moving for share, o in zip(shares, asked.scene.objects, strict=True)):
        return  # a moving object is hardly visible
    moving = sum(o.trajectory.moving for o in asked.scene.objects)
    yield "How many objects move?", _COUNTS, min(max(moving, 1), 4) - 1


def _speed(asked: _Asked) -> Iterator[_Answered]:
    for mark in asked.marks:
        speed = asked.path_metres(mark) / asked.seconds
        text = f"How fast does {mark.name} move on average?"
        if speed * asked.seconds >= _STILL_METRES:
            yield from _measured(text, speed, _SPEEDS, "m/s")


def _displacement(asked: _Asked) -> Iterator[_Answered]:
    for mark in asked.marks:
        path = asked.path_metres(mark)
        if path >= _STILL_METRES:
            yield from _measured(f"How long is the way that {mark.name} goes?", path, _PATHS, "m")


def _relation(asked: _Asked) -> Iterator[_Answered]:
    for one, other in pairwise(asked.marks):
        distances = [float(asked.paths[mark.instance][0, 2]) for mark in (one, other)]
        if max(distances) >= 1.12 * min(distances):
            text = f"At the beginning, which is nearer to the camera: {one.name} or {other.name}?"
            yield text, (one.name, other.name), int(distances[1] < distances[0])


def _dimension(asked: _Asked) -> Iterator[_Answered]:
    for mark in asked.marks:
        distance = float(np.linalg.norm(asked.paths[mark.instance][0]))
        text = f"At the beginning, how far from the camera is {mark.name}?"
        yield from _measured(text, distance, _DISTANCES, "m")
        height = 2 * asked.thing(mark).solid.height
        yield from _measured(f"How tall is {mark.name}?", height, _HEIGHTS, "m")


def _ego_motion(asked: _Asked) -> Iterator[_Answered]:
    moved = asked.truth.camera_to_first[-1][:3, 3]
    across, _, ahead = moved
    if np.hypot(across, ahead) < _STILL_METRES:
        right = 2
    elif abs(across) >= 0.15:
        right = int(across > 0)
    else:
        return
    yield "Which way does the camera move?", _CAMERA, right, float(np.linalg.norm(moved))


def _scene_depth(asked: _Asked) -> Iterator[_Answered]:
    text = "On average, how far away is what the video shows?"
    yield from _measured(text, float(asked.truth.depth.mean()), _MEAN_DEPTHS, "m", border=_MEAN_BORDER)


def _duration(asked: _Asked) -> Iterator[_Answered]:
    yield from _measured("How long is the video?", asked.seconds, _SECONDS, "s")


_MAKERS: Mapping[SceneTask, Callable[[_Asked], Iterator[_Answered]]] = {
    "Translational": _translation,
    "Rotational": _rotation,
    "Counting": _counting,
    "Speed & Acceleration": _speed,
    "Displacement & Path Length": _displacement,
    "Spatial Relation": _relation,
    "Dimensional Measurement": _dimension,
    "Ego Motion": _ego_motion,
    "Scene Depth": _scene_depth,
    "Duration": _duration,
}


def _measured(text: str, value: float, limits: tuple[float, ...], unit: str, *, border: float = _BORDER) -> Iterator[_Answered]:
    """A question for the range of a number; none if it is within the relative distance ``border`` of a limit."""
    if any(abs(value / limit - 1) < border for limit in limits):
        return
    ranges = (
        f"less than {limits[0]:g} {unit}",
        *(f"{low:g} to {high:g} {unit}" for low, high in pairwise(limits)),
        f"more than {limits[-1]:g} {unit}",
    )
    yield text, ranges, sum(value > limit for limit in limits), value
