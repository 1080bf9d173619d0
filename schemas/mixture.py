"""A mixture of sets of conversations: what TRAIN.yaml trains on, and whose videos JOB.yaml has taught."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from schemas.base import Frozen

SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class MixtureSet(Frozen):
    """Some files of conversations, and how often an epoch has them."""

    conversations: tuple[str, ...] = Field(min_length=1)
    """Files of conversations or of questions with answers, as they are published; ``qa_*.json`` names several. Relative paths
    start from the current folder."""
    video_root: tuple[str, ...] = ()
    """The folders or URLs that its videos may be read from; those of `data` when absent. A relative ``video`` path starts from
    the first."""
    image_root: tuple[str, ...] = ()
    """The same for its images."""
    leave_out: tuple[str, ...] = ()
    """JSON files of ids, such as a published erratum: conversations of these ids are left out."""
    weight: float = Field(1, gt=0, le=1000)
    """How often an epoch has each conversation. With 2, twice; with 0.5, an epoch has half of them and the next epoch the
    others, so that none comes again before all had their turn."""
    count: int | None = Field(None, ge=1)
    """Only so many of its conversations, the same in every epoch, drawn by ``seed``; all when absent."""

    @field_validator(
        "conversations", "image_root", "video_root", "leave_out", mode="before", json_schema_input_type=str | tuple[str, ...]
    )
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Mixture(Frozen):
    """Several sets, each with its files, folders, weight and count."""

    sets: dict[SetName, MixtureSet] = Field(min_length=1)
    """Each set by a name of yours, of letters, digits, ``_`` and ``-``."""
