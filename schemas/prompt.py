"""What a row gives a teacher beside its frames: phrases that name objects, or the truth masks of a set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.base import Frozen

PromptName = Literal["phrases", "masks"]
"""What a teacher may take with frames, which its configuration says under ``takes``."""

LONGEST_PHRASE = 200
"""Characters of a phrase, at most."""
MOST_PHRASES = 255
"""Phrases of a row, at most: as many as a label map tells objects apart."""

Phrase = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_PHRASE)]


class Prompt(Frozen):
    """What a row gives a teacher that takes more than frames. A row with another prompt is another row."""

    phrases: tuple[Phrase, ...] = Field((), max_length=MOST_PHRASES)
    """What names the objects to find, as written, each once."""
    masks: str | None = None
    """Where the masks are: the path or URL of a JSON file, or of a folder of numbered pictures with ``/#1fps`` at its end."""
    masks_digest: str | None = None
    """What tells that the masks changed, as a video's `schemas.clip.Clip.content_digest`."""

    @property
    def text(self) -> str:
        """Its JSON, as a row keeps it: equal prompts give equal texts."""
        return self.model_dump_json(exclude_none=True)
