"""What in a job has no effect, or is probably not meant, is said when it is read or when it begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Jobs

from schemas.job import Job
from teacher_cache.jobs.advice import advice

PLAIN: dict[str, Any] = {"videos": {"glob": "/v/*.mp4"}, "store": "s", "teacher": {"family": "l4p", "preset": "tiny"}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"engine": {"teachers": 8, "min_teachers": 2}}, "so engine.teachers, engine.min_teachers has no effect"),
        ({"engine": {"decoder_resources": {"decode": 1}}}, "engine.decoder_resources has no effect; `kind: ray`"),
        ({"engine": {"threads_per_teacher": 4096}}, "engine.threads_per_teacher is 4096, and this machine has"),
        ({"engine": {"decoders": 4096}}, "engine.decoders is 4096, and this machine has"),
        ({"engine": {"batch": 33}}, "engine.batch is 33, and a batch is of one shard, of 32 clips"),
        ({"teacher": PLAIN["teacher"] | {"compile": True}}, "compiling takes minutes"),
        ({"signals": ["depth"], "encoding": {"flow": "compact"}}, "encoding names flow, which signals does not"),
        ({"clips": {"student_size": 384}}, "clips.student_size has no effect"),
        ({"prices": {"gpu_hour": 3}}, "prices has no currency"),
        (
            {"engine": {"kind": "ray", "gpus_per_teacher": 1, "decode_device": "cuda", "decoders": 4}},
            "4 decoders take 0.2 of a GPU, beside a teacher with 1: .* engine.gpus_per_teacher to 0.8 or less",
        ),
        (
            {"engine": {"kind": "ray", "gpus_per_teacher": 0.5, "decode_device": "cuda", "decoders": 12}},
            "beside a teacher with 0.5: .* to 0.4 or less",
        ),
        (
            {"engine": {"kind": "ray", "gpus_per_teacher": 2, "decode_device": "cuda", "decoders": 30}},
            "to less, with fewer decoders",
        ),
    ],
)
def test_what_has_no_effect_is_said(changes: dict[str, Any], expected: str) -> None:
    (said,) = advice(Job.model_validate(PLAIN | changes))
    assert re.search(expected, said), said


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"kind": "ray", "teachers": 8, "decoder_resources": {"decode": 1}},
        {"kind": "ray", "gpus_per_teacher": 0.8, "decode_device": "cuda", "decoders": 4},
        {"kind": "ray", "gpus_per_teacher": 1, "decode_device": "cuda", "decoder_resources": {"decode": 1}},
    ],
)
def test_a_job_that_is_as_it_is_meant_gets_no_advice(engine: dict[str, Any]) -> None:
    assert advice(Job.model_validate(PLAIN | {"engine": engine})) == ()


def test_it_is_said_when_a_plan_and_a_run_begin(
    jobs: Jobs, tmp_path: Path, teacher_cache_command: Command, tiny_store: Path
) -> None:
    path = jobs.write(tiny_store, engine={"kind": "local", "teachers": 8, "batch": 2, "threads_per_teacher": 1})
    told = tmp_path / "events"
    for done in (teacher_cache_command("plan", path), teacher_cache_command("run", path, "--events", told)):
        assert done.status == 0
        assert "engine.teachers has no effect" in done.out
    assert '"event":"note","text":"engine.kind is local' in told.read_text()
