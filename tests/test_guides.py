"""docs/guides/read.md: its recipes with other packages' loaders run as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_cache import open_cache
from teacher_cache.reader.cache import Cache

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "read.md"


def recipe(heading: str) -> str:
    """The Python under a heading of the guide."""
    section = GUIDE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(code)


@pytest.fixture
def cache(tiny_store: Path) -> Cache:
    return open_cache(str(tiny_store))


def test_hugging_faces_datasets_read_targets_as_rows_are_asked_for(cache: Cache) -> None:
    pytest.importorskip("datasets")
    ids = [*cache.committed_ids(), "scene-0.mp4"]
    questions = [{"clip_id": clip_id, "question": f"What moves in {number}?"} for number, clip_id in enumerate(ids)]
    names: dict[str, Any] = {"cache": cache, "questions": questions}
    exec(recipe("With Hugging Face `datasets`").replace("batch_size=8", "batch_size=2"), names)
    expected = cache.read(["depth"], ids, frames=range(4))["depth"]
    assert names["rows"][3]["question"] == "What moves in 3?"
    np.testing.assert_array_equal(names["rows"][1:3]["depth"], expected[1:3])
    seen = {
        question: depth for batch in names["loader"] for question, depth in zip(batch["question"], batch["depth"], strict=True)
    }
    assert len(seen) == len(ids)
    for number, row in enumerate(questions):
        np.testing.assert_array_equal(seen[row["question"]], expected[number])


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call
def test_torchdatas_loader_goes_on_where_it_was(cache: Cache) -> None:
    pytest.importorskip("torchdata")
    code = recipe("With `torchdata`").replace("batch_size=8", "batch_size=1")
    code = code.replace(', num_workers=4, multiprocessing_context="spawn"', "")  # as our own dataset's tests have them
    order: list[dict[str, Any]] = []
    names: dict[str, Any] = {"cache": cache, "train": order.append}
    exec(code, names)
    ids = cache.committed_ids()
    expected = cache.read(["f4d"], ids, layers=[3])["f4d"]
    assert sorted(batch["clip_id"][0] for batch in order) == ids
    for batch in order:
        np.testing.assert_array_equal(batch["f4d"][0], expected[ids.index(batch["clip_id"][0])])
    loader = names["loader"]
    first = next(iter(loader))["clip_id"]
    loader.load_state_dict(loader.state_dict())
    assert sorted([*first, *(batch["clip_id"][0] for batch in loader)]) == ids
