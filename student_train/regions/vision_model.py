"""A folder of a vision-language model in; what it says of pictures out, by greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from schemas.train import Dtype
from student_train.data.chat import prompt
from student_train.data.conversations import Place, Turn
from student_train.data.frames import StudentFrames
from student_train.evaluation.generating import Prompt, responses
from student_train.evaluation.models import device, open_model
from teacher_cache.regions.marks import Frame

NEW_TOKENS = 512
"""Longest answer: a question written again, with what is thought before it."""


class VisionModel:
    """A Qwen2.5-VL or Qwen3-VL as transformers saves it, or any model that `student-train eval` takes."""

    def __init__(self, folder: Path, dtype: Dtype | None, *, batch: int, new_tokens: int = NEW_TOKENS) -> None:
        """``batch``: most prompts in one forward pass. Raises `BadInput` if the folder holds no such model."""
        self._student = open_model(folder, dtype).student.to(device()).eval()
        self._batch, self._new_tokens = batch, new_tokens
        self._seen = StudentFrames(self._student.processor.image_size, 0)

    def __call__(self, asked: Sequence[tuple[str, Frame]]) -> list[str]:
        """What it says to each (prompt, picture uint8 (y, x, RGB)); a picture is squashed to the model's square."""
        prompts = []
        for text, picture in asked:
            turn = Turn("user", (Place.IMAGE, "\n", text))
            ids = prompt([turn], self._student.processor, ())
            prompts.append(Prompt(ids, None, (self._seen.fitted(Image.fromarray(picture)),)))
        return responses(self._student, prompts, batch=self._batch, device=device(), new_tokens=self._new_tokens)
