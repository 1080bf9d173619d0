"""The signals of 4D distillation: their names, axes, units and meanings, defined once."""

from __future__ import annotations

from typing import Literal, get_args

from schemas.base import Frozen

SignalName = Literal["f4d", "depth", "flow", "motion", "camray", "regions", "objects", "frames"]
SIGNAL_NAMES: tuple[SignalName, ...] = get_args(SignalName)
P4D_SIGNALS: tuple[SignalName, ...] = ("f4d", "depth", "flow", "motion", "camray")
"""The signals of Perceptual 4D Distillation, which L4P gives; a job's, if it names none."""


class Signal(Frozen):
    """One kind of values that a store keeps of every clip."""

    name: SignalName
    dims: tuple[str, ...]
    """Axis names of one clip's array, outermost first."""
    units: str
    """Physical unit of the values; ``1`` for none."""
    meaning: str
    """What a value is, in words."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Of the values as teachers give them and as readers get them."""
    source: Literal["teacher", "decoder"] = "teacher"
    """What gives it. What the decoder gives needs no teacher."""


SIGNALS: dict[SignalName, Signal] = {
    s.name: s
    for s in (
        Signal(
            name="f4d",
            dims=("layer", "token_time", "token_y", "token_x", "channel"),
            units="1",
            meaning="raw outputs of the encoder blocks that the teacher's heads read, before any norm",
        ),
        Signal(
            name="depth",
            dims=("frame", "y", "x"),
            units="1 (positive, known up to one scale per clip)",
            meaning="distance along the optical axis",
        ),
        Signal(
            name="flow",
            dims=("frame", "y", "x", "uv"),
            units="pixels at the teacher's image size",
            meaning="backward optical flow from frame t to frame t-1, (u right, v down); frame 0 is invalid",
        ),
        Signal(
            name="motion", dims=("frame", "y", "x"), units="logit", meaning="logit that the pixel belongs to a moving object"
        ),
        Signal(
            name="camray",
            dims=("frame", "ray_y", "ray_x", "plucker"),
            units="1 (moment in the scale of depth)",
            meaning="Plücker rays, direction then moment, in the frame of the clip's first camera",
        ),
        Signal(
            name="regions",
            dims=("frame", "y", "x"),
            units="1",
            meaning="number of the object that the pixel shows, the same in all frames; 0 for none",
            dtype="uint8",
        ),
        Signal(
            name="objects",
            dims=("object", "property"),
            units="1",
            meaning="of each object that the clip's phrases name: its phrase, box, score and why it has no pixel",
        ),
        Signal(
            name="frames",
            dims=("frame", "student_y", "student_x", "rgb"),
            units="sRGB, 0 to 255",
            meaning="the clip's frames at the student's size",
            dtype="uint8",
            source="decoder",
        ),
    )
}

Shape = tuple[int, ...]
"""Shape of one clip's array."""


_EXACT = "_exact"


def exact_array(array: str) -> str:
    """Name of the array with the clips of ``array`` that its encoding cannot store within its error bound."""
    return f"{array}{_EXACT}"


def is_exact_array(array: str) -> bool:
    """Whether an array's name comes from `exact_array`."""
    return array.endswith(_EXACT)
