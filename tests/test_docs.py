"""The documentation: its links lead somewhere, and its reference pages name all that there is. `tests/run` builds it whole."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest
from typer.main import get_command

import student_train
import student_train.cli
import teacher_cache
import teacher_cache.cli
from schemas.base import Frozen
from schemas.errors import CacheError
from schemas.job import Job
from schemas.train import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)


def extension() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated_reference", DOCS / "_ext" / "generated_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = extension()


def page(name: str) -> str:
    """A page as Sphinx reads it."""
    text: str = GENERATED.fill_in((DOCS / name).read_text(encoding="utf-8"))
    assert "<!-- generated" not in text
    return text


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as MyST makes them."""
    text = GENERATED.fill_in(path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> Iterator[str]:
    for link in LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    assert list(broken_links(path)) == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One heading\n")
    (tmp_path / "page.md").write_text(
        "[a](other.md#one-heading) [b](other.md#two) [c](gone.md) [d](https://e.org)\n```\n[e](f)\n```\n"
    )
    assert list(broken_links(tmp_path / "page.md")) == ["other.md#two", "gone.md"]


def test_every_page_is_in_the_contents() -> None:
    entries = re.findall(r"^(?:[\w-]+/)*[\w-]+$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert {f"{entry}.md" for entry in entries} == {str(path.relative_to(DOCS)) for path in PAGES} - {"index.md"}


def fields(model: type[Frozen], path: str = "") -> Iterator[str]:
    """Dotted path of every field, and of those within."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}"
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Frozen):
                inner = f"{name}.NAME" if get_origin(field.annotation) is dict else name
                yield from fields(part, f"{path}{inner}.")


@pytest.mark.parametrize(("name", "model"), [("reference/job.md", Job), ("reference/train.md", TrainConfig)])
def test_every_field_is_in_the_reference(name: str, model: type[Frozen]) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \| (.*) \| (.*) \|$", page(name), re.MULTILINE)
    assert [row[0] for row in rows] == sorted(fields(model), key=[row[0] for row in rows].index)
    assert len(rows) > 30
    assert [row for row in rows if not all(cell.strip() for cell in row)] == []


@pytest.mark.parametrize(
    ("name", "app"),
    [("reference/teacher-cache.md", teacher_cache.cli.app), ("reference/student-train.md", student_train.cli.app)],
)
def test_every_command_and_option_is_in_the_reference(name: str, app: object) -> None:
    sections = dict(re.findall(r"^## `[\w-]+ ([\w -]+)`\n(.*?)(?=^## |\Z)", page(name), re.MULTILINE | re.DOTALL))
    commands = dict(named(get_command(app)))  # type: ignore[arg-type]
    assert sections.keys() == commands.keys()
    for called, command in commands.items():
        assert " ".join(command.help.split()) in sections[called]
        for parameter in command.params:
            names = [parameter.metavar] if parameter.param_type_name == "argument" else parameter.opts
            assert all(f"`{option}" in sections[called] for option in names), (called, parameter.name)


def named(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group, and of the groups in it, by what calls them: ``fit``, ``data check``."""
    for name, command in group.commands.items():
        is_group = hasattr(command, "commands")
        yield from named(command, f"{before}{name} ") if is_group else ((f"{before}{name}", command),)


def test_every_public_name_is_in_the_reference() -> None:
    documented = re.findall(r"^\.\. auto(?:class|function):: ([\w.]+)$", page("reference/python.md"), re.MULTILINE)
    public = {f"{package.__name__}.{name}" for package in (teacher_cache, student_train) for name in package.__all__}
    assert public <= set(documented)
    assert len(documented) == len(set(documented))


def test_every_kind_of_error_is_in_troubleshooting() -> None:
    def kinds(kind: type[CacheError]) -> Iterator[type[CacheError]]:
        for subclass in kind.__subclasses__():
            yield subclass
            yield from kinds(subclass)

    text = page("guides/troubleshooting.md")
    ours = [kind for kind in kinds(CacheError) if kind.__module__ == "schemas.errors"]
    assert [kind.__name__ for kind in ours if f"| `{kind.__name__}` |" not in text] == []


def test_every_reason_and_finding_is_in_troubleshooting() -> None:
    from typing import get_args

    from schemas.clip import FailureReason
    from schemas.report import FindingKind

    text = page("guides/troubleshooting.md")
    assert [name for name in (*get_args(FailureReason), *get_args(FindingKind)) if f"`{name}`" not in text] == []


def test_every_result_file_that_a_page_names_is_there() -> None:
    text = page("measured.md")
    named = set(re.findall(r"`([\w-]+\.(?:json|png))`", text)) - {"teacher-gpu.json"}
    kept = {path.name for path in (ROOT / "tests" / "benchmarks" / "results").iterdir()}
    assert named == kept
    scripts = set(re.findall(r"\b([\w]+\.py)\b", text)) - {"ray_data_engine.py"}
    assert {name for name in scripts if not (ROOT / "tests" / "benchmarks" / name).exists()} == set()


def test_every_line_of_the_security_page_has_a_test_or_says_that_it_has_none() -> None:
    page = (ROOT / "docs/security.md").read_text()
    lines = re.split(r"^- ", page.partition("## Places")[2], flags=re.MULTILINE)[1:]
    assert len(lines) > 40
    assert [line for line in lines if "No test:" not in " ".join(line.split()) and "`tests/" not in line] == []
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) == page.count("`tests/")
    assert [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()] == []
