"""The exported JSON Schemas are those of the models, and what stores and commands write is valid by them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import Command, Jobs

from schemas.export import FOLDER, export, files

VALIDATORS = {
    path.name.removesuffix(".schema.json"): jsonschema.Draft202012Validator(json.loads(path.read_text()))
    for path in FOLDER.glob("*.schema.json")
}


def test_the_files_are_what_the_models_say() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == files(), (
        "run `python -m schemas.export`"
    )


def test_an_export_replaces_all_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "Gone.schema.json").write_text("{}")
    (tmp_path / "mine.json").write_text("{}")
    export(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*files(), "mine.json"}


@pytest.mark.parametrize("name", sorted(VALIDATORS))
def test_each_is_a_schema_of_the_draft_it_names(name: str) -> None:
    schema = VALIDATORS[name].schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_job_is_valid_and_a_misspelt_one_is_not(jobs: Jobs) -> None:
    job = yaml.safe_load(jobs.write("store", signals=["depth"]).read_text())
    VALIDATORS["Job"].validate(job)
    for wrong in (job | {"signls": ["depth"]}, job | {"signals": ["deep"]}, {k: v for k, v in job.items() if k != "store"}):
        assert not VALIDATORS["Job"].is_valid(wrong)


def test_what_a_store_keeps_as_json_is_valid(tiny_store: Path) -> None:
    kept = {"Record": "log/0*.json", "HeadsCard": "heads/card.json"}
    for model, pattern in kept.items():
        found = [json.loads(path.read_text()) for path in tiny_store.glob(pattern)]
        assert found
        for value in found:
            VALIDATORS[model].validate(value)
    VALIDATORS["Recipe"].validate(json.loads((tiny_store / "zarr.json").read_text())["attributes"]["recipe"])


@pytest.fixture
def places(tiny_store: Path, jobs: Jobs, tmp_path: Path) -> dict[str, Path]:
    other = jobs.write(tiny_store, encoding="exact")
    return {"store": tiny_store, "job": jobs.write(tiny_store), "other": other, "out": tmp_path / "page.html"}


@pytest.mark.parametrize(
    ("model", "command"),
    [
        ("PlanReport", "plan {job}"),
        ("RunReport", "run {job}"),
        ("StatusReport", "status {store}"),
        ("VerifyReport", "verify {store}"),
        ("DiffReport", "diff {store} {job}"),
        ("DiffReport", "diff {store} {other}"),
        ("GarbageReport", "gc {store} --dry-run"),
        ("ViewReport", "view {store} --clip scene-0.mp4 --out {out}"),
        ("ErrorReport", "status {store}/nothing"),
    ],
)
def test_what_a_command_prints_is_valid(
    model: str, command: str, places: dict[str, Path], teacher_cache_command: Command
) -> None:
    done = teacher_cache_command(*(word.format(**places) for word in command.split()), "--json")
    VALIDATORS[model].validate(done.json)
