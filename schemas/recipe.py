"""The recipe: everything that changes a stored byte, hashed into the store's fingerprint."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from schemas.base import Frozen, canonical_json, differences
from schemas.clip import DEFAULT_TAIL_SHARE, LARGEST_SIZE, MOST_FRAMES, Hdr, Interlaced, Preprocessing, Sampling
from schemas.prompt import PromptName
from schemas.signal import SignalName

FORMAT_VERSION = 2
"""Version of the store format: layout, log and metadata, as docs/reference/store-format.md describes it."""

Precision = Literal["float32", "bfloat16", "float16"]


_DEEPEST = 16


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """What can be hashed and compared: JSON without infinities or halves of characters, of which no stack runs out."""
    _require_depth(value, _DEEPEST)
    canonical_json(value)
    return value


def _require_depth(value: Any, most: int) -> None:
    if most < 0:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _require_depth(item, most - 1)


class TeacherIdentity(Frozen):
    """The frozen teacher, identified by what it computes and not by where its file is."""

    family: str
    """``l4p``, ``classical``, …"""
    config: Annotated[dict[str, Any], AfterValidator(_plain)]
    """The family's configuration, with all defaults resolved (for L4P: widths, depth, hooks)."""
    weights: str
    """Digest of the weights."""
    dtype: Precision
    """Precision of weights and arithmetic."""

    @property
    def takes(self) -> tuple[PromptName, ...]:
        """What each row must give it beside frames, as its configuration says: `schemas.prompt.Prompt`."""
        said = self.config.get("takes", ())
        return tuple(name for name in ("masks", "phrases") if isinstance(said, list | tuple) and name in said)


class ShotRecipe(Frozen):
    """How shots are found."""

    detector: str
    """Name and version."""
    threshold: float = Field(gt=0, le=255)
    shortest_seconds: float = Field(ge=0.01, le=3600)


class ClipRecipe(Frozen):
    """`ClipPolicy` with all defaults resolved."""

    frames: int = Field(ge=1, le=MOST_FRAMES)
    sampling: Sampling
    preprocessing: Preprocessing
    size: int = Field(ge=1, le=LARGEST_SIZE)
    student_size: int | None = Field(ge=1, le=LARGEST_SIZE)
    """Null unless the preprocessing is ``student``."""
    fps: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Null unless the sampling is ``fps``."""
    shots: ShotRecipe | None = None
    """Null unless the sampling is ``shots``."""
    hdr: Hdr = "refuse"
    interlaced: Interlaced = "refuse"
    max_undecodable_tail_share: float = Field(DEFAULT_TAIL_SHARE, ge=0, lt=1)

    @model_serializer(mode="wrap")
    def _without_absent_shots(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Recipes without shots keep the fingerprint that they had before there were any."""
        found: dict[str, Any] = serialized(self)
        return {name: value for name, value in found.items() if name != "shots" or value is not None}


class Layout(Frozen):
    """How clips are grouped into objects of the store."""

    clips_per_shard: int = Field(32, ge=1, le=4096)
    """Clips in one shard, an object of an array; also the clips of one unit of work."""


class Recipe(Frozen):
    """Everything besides the videos that the stored values depend on."""

    teacher: TeacherIdentity
    clips: ClipRecipe
    encodings: dict[SignalName, str]
    """The encoding of every signal that the teacher can give, stored or not, so that adding one later keeps the fingerprint."""
    layout: Layout

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON of the recipe: 64 hex digits."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()

    def differences(self, other: Recipe) -> dict[str, tuple[object, object]]:
        """Dotted path → (own value, other's value) for each field that differs; empty if the recipes are equal."""
        return differences(self, other)
