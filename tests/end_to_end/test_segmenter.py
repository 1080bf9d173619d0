"""A real segmenter's masks, through a job and a store: U²-Net's small model, where a package with it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmenter


def test_what_stands_out_in_a_scene_comes_back_from_a_store(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: no real segmenter was tried")
    model = segmenter.model_file()
    if model is None:
        pytest.skip(f"{segmenter.PACKAGE} is not installed: no real segmenter was tried")
    found = segmenter.of_scenes(segmenter.Segmenter(model), tmp_path, [70_000], frames=4)
    assert found["frames"] == 4
    assert found["shown"] == 1
    assert found["precision"] > 0.8
