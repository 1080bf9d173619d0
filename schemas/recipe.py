"""The recipe: everything that changes a stored byte, hashed into the store's fingerprint."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import Field

from schemas.base import Frozen, canonical_json, differences
from schemas.clip import Preprocessing, Sampling
from schemas.signal import SignalName

FORMAT_VERSION = 2
"""Of a store: its layout, records and metadata. docs/reference/store-format.md says what each version is."""

_RECIPE_VERSION = 1
"""Of the fields of `Recipe`. It is hashed under the name that it had when stores were at version 1 too."""

Precision = Literal["float32", "bfloat16", "float16"]


class TeacherIdentity(Frozen):
    """The frozen expert, named by what it computes and not by where its file lies."""

    family: str
    config: dict[str, Any]
    """The family's own resolved configuration (for L4P: widths, depth, hooks)."""
    weights: str
    """Digest of the weights."""
    dtype: Precision


class ClipRecipe(Frozen):
    """`ClipPolicy` with every default resolved."""

    frames: int
    sampling: Sampling
    preprocessing: Preprocessing
    size: int
    student_size: int | None
    """None unless the preprocessing passes through the student's size."""
    fps: float | None = None
    """None unless the sampling takes frames at a rate."""


class Layout(Frozen):
    """How clips are grouped into objects."""

    clips_per_shard: int = Field(32, ge=1, le=4096)
    """Clips in one object of an array, which are also the clips of one unit of work."""


class Recipe(Frozen):
    """What the stored values are a function of, besides the videos."""

    teacher: TeacherIdentity
    clips: ClipRecipe
    encodings: dict[SignalName, str]
    """The encoding of every signal the teacher can give, stored or not, so that adding one later changes no hash."""
    layout: Layout

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON of the recipe and the version of its fields, as 64 hex digits."""
        return hashlib.sha256(
            canonical_json({"format_version": _RECIPE_VERSION, "recipe": self.model_dump(mode="json")})
        ).hexdigest()

    def differences(self, other: Recipe) -> dict[str, tuple[object, object]]:
        """Dotted path → (own value, other's value) for every field that differs. Empty when the recipes are equal."""
        return differences(self, other)
