from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import BadInput
from schemas.job import Job
from teacher_cache.io.config import load_yaml

GOOD = "videos: {glob: 'v/*.mp4'}\nstore: out\nteacher: {preset: tiny}\n"


def test_a_short_job_gets_every_default(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    job = load_yaml(tmp_path / "job.yaml", Job)
    assert job.signals == ("f4d", "depth", "flow", "motion", "camray")
    assert job.layout.clips_per_shard == 32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "signls: [depth]\n", "signls: unknown key; did you mean `signals`?"),
        ("videos: {glob: x, manifst: y}\nstore: s\nteacher: {}\n", "videos.manifst: unknown key; did you mean `manifest`?"),
        (GOOD + "engine: {batches: 4}\n", "engine.batches: unknown key; did you mean `batch`?"),
        ("videos: {glob: x}\nteacher: {}\n", "store: missing, and required"),
        ("videos: {}\nstore: s\nteacher: {}\n", "give exactly one of `manifest`, `mixture` and `glob`"),
        (GOOD + "signals: []\n", "name at least one signal"),
        (
            GOOD + "signals: [deep]\n",
            "should be 'f4d', 'depth', 'flow', 'motion', 'camray', 'regions', 'objects' or 'frames' (found 'deep')",
        ),
        (
            GOOD + "layout: {clips_per_shard: 0}\n",
            "layout.clips_per_shard: input should be greater than or equal to 1 (found 0)",
        ),
        (GOOD + "clips: {sampling: fps}\n", "clips: `sampling: fps` needs `fps`, the frames per second to take"),
        (GOOD + "clips: {fps: 4}\n", "clips: `fps` is for `sampling: fps`, and the sampling here is uniform"),
        (GOOD + "clips: {sampling: dense, fps: 4}\n", "the sampling here is dense; change it or leave `fps` out"),
        (GOOD + "clips: {sampling: fps, fps: 0}\n", "clips.fps: input should be greater than 0 (found 0)"),
        (GOOD + "clips: {sampling: fps, fps: .inf}\n", "clips.fps: input should be a finite number (found inf)"),
        (
            GOOD + "clips: {sampling: all}\n",
            "clips.sampling: input should be 'uniform', 'shots', 'fps' or 'dense' (found 'all')",
        ),
        (GOOD + "store: twice\n", "line 4: the key 'store' appears twice"),
        ("", "holds nothing; needed a mapping with the keys videos, store"),
        ("- a\n- b\n", "holds list"),
        ("a: [1,\n", "is not YAML"),
        (GOOD + "? [a]\n: b\n", "line 4: the key ['a'] is no text"),
        ("store: 2026-13-45\n", "looks like a date or a number and is none (month must be in 1..12); quote it"),
        ("store: " + "9" * 5000, "looks like a date or a number and is none"),
        ("store: " + "[" * 5000, "nested too deeply"),
        ("store: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_yaml(path, Job)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_settings_replace_fields_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD + "engine: {batch: 2, writers: 3}\nencoding: compact\n")
    settings = (
        "engine.batch=5",
        "signals=[depth, f4d]",
        "prices.currency=EUR",
        "clips.fps=2",
        "clips.sampling=fps",
        "store=a=b",
    )
    job = load_yaml(path, Job, settings)
    assert (job.engine.batch, job.engine.writers, job.signals) == (5, 3, ("f4d", "depth"))
    assert (job.prices.currency, job.clips.fps, job.store) == ("EUR", 2, "a=b")
    assert load_yaml(path, Job, ("engine.batch=5", "engine.batch=6")).engine.batch == 6
    path.write_text(GOOD + "engine:\n")
    assert load_yaml(path, Job, ("engine.batch=4",)).engine.batch == 4


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("engine.batches=4", "engine.batches: unknown key; did you mean `batch`?"),
        ("engin.batch=4", "engin: unknown key; did you mean `engine`?"),
        ("engine.batch=many", "engine.batch: input should be a valid integer"),
        ("engine.batch", "--set engine.batch: needed KEY=VALUE"),
        ("engine..batch=4", "needed KEY=VALUE"),
        ("encoding.depth=exact", "encoding is 'compact', which has no keys; set encoding as a whole"),
        ("signals=[a", "the value is not YAML"),
        ("store=2026-13-45", "the value is not YAML: it has a value that looks like a date"),
        ("engine={[a]: b}", "is no text"),
        ("engine={batch: 1, batch: 2}", "the key 'batch' appears twice"),
    ],
)
def test_mistakes_in_settings_are_named(tmp_path: Path, setting: str, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD + "encoding: compact\n")
    with pytest.raises(BadInput) as caught:
        load_yaml(path, Job, (setting,))
    assert said in str(caught.value)
    assert f"--set {setting}" in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no file"):
        load_yaml(tmp_path / "none.yaml", Job)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot read"):
        load_yaml(tmp_path / "binary.yaml", Job)
