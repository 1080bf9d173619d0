"""The models of this package go in; their JSON Schemas (draft 2020-12) come out, for editors and other languages.

``python -m schemas.export [FOLDER]`` writes one file for each model that is not part of another; by default to `FOLDER`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import ModelSchema

import schemas
from schemas.base import Frozen, Sealed, Timed

FOLDER = Path(__file__).parent / "json"
SUFFIX = ".schema.json"


class _Described(GenerateJsonSchema):
    """Takes a field's description from its docstring, and leaves out its title, which would only repeat its name."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002  # pydantic's own signature
        return False

    def model_schema(self, schema: ModelSchema) -> dict[str, Any]:
        """See `GenerateJsonSchema`."""
        found = super().model_schema(schema)
        for model in reversed(schema["cls"].__mro__):
            for name, text in _docstrings(model.__module__).get(model.__name__, {}).items():
                if name in found.get("properties", {}):
                    found["properties"][name]["description"] = text
        return found


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class → its fields' docstrings, of a module of ours."""
    if not module.startswith("schemas."):
        return {}
    classes = ast.parse(inspect.getsource(sys.modules[module])).body
    return {one.name: dict(_fields(one.body)) for one in classes if isinstance(one, ast.ClassDef)}


def _fields(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                yield name, inspect.cleandoc(said)


def json_schemas() -> dict[str, dict[str, Any]]:
    """Model name → schema, for every model of this package that is not part of another model's schema."""
    for module in pkgutil.iter_modules(schemas.__path__, "schemas."):
        importlib.import_module(module.name)
    models = [
        model for model in _subclasses(Frozen) if model.__module__.startswith("schemas.") and model not in {Sealed, Timed}
    ]
    own = {model.__name__: model.model_json_schema(schema_generator=_Described) for model in models}
    parts = {part for schema in own.values() for part in schema.get("$defs", {})}
    heading = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: {**heading, "$id": f"urn:p4d-cache:schema:{name}", **own[name]} for name in sorted(own) if name not in parts}


def _subclasses(model: type[Frozen]) -> Iterator[type[Frozen]]:
    for subclass in model.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def files() -> dict[str, str]:
    """File name → text."""
    return {
        f"{name}{SUFFIX}": json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in json_schemas().items()
    }


def export(folder: Path = FOLDER) -> None:
    """Write the files to ``folder``, and remove those of models that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    written = files()
    for path in folder.glob(f"*{SUFFIX}"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> None:
    """The command ``python -m schemas.export [DIR]``."""
    parser = argparse.ArgumentParser(prog="python -m schemas.export", description="Write JSON Schemas of all files and output.")
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=FOLDER, help="default: the package's own folder")
    export(parser.parse_args().folder)


if __name__ == "__main__":
    main()
