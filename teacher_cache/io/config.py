"""A YAML file in, a validated model out, or an error that names every wrong field."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from schemas.errors import BadInput
from schemas.storage import StorageOptions
from teacher_cache.io.hints import closest

Model = TypeVar("Model", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses duplicate keys: YAML silently lets a later one replace an earlier one, and in a job that is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise BadInput(f"line {key_node.start_mark.line + 1}: the key {key!r} is no text; needed `name: value`")
            if key in seen:
                raise BadInput(f"line {key_node.start_mark.line + 1}: the key {key!r} appears twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path, model: type[Model], settings: Sequence[str] = ()) -> Model:
    """Read a YAML file into ``model``, with fields replaced by ``settings``: ``key.of.field=VALUE``, the value in YAML.

    Raises `BadInput`, naming the file, every wrong field, the value found there and, for a misspelt key, the likely one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}") from None
    try:
        value = _parsed(text)
    except _Unparsed as error:
        raise BadInput(f"{path} is not YAML: {error}") from None
    except BadInput as error:
        raise BadInput(f"{path}, {error}") from None
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise BadInput(f"{path} holds {found}; needed a mapping with the keys {', '.join(model.model_fields)}")
    for setting in settings:
        _apply(setting, value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        source = " ".join([str(path), *(("with --set", *settings) if settings else ())])
        raise BadInput(f"{source} cannot be used:\n{explain(error, model)}") from None


class _Unparsed(Exception):
    """Why a text is not YAML."""


def _parsed(text: str) -> Any:
    """The value of a YAML text. Raises `_Unparsed`, and `BadInput` for keys."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise _Unparsed(" ".join(str(error).split())) from None
    except ValueError as error:  # of a date or a number that there is none of, such as 2026-13-45
        raise _Unparsed(f"it has a value that looks like a date or a number and is none ({error}); quote it") from None
    except RecursionError:
        raise _Unparsed("it is nested too deeply") from None


def _apply(setting: str, value: dict[str, Any]) -> None:
    """Put a setting into the mapping that a file holds. A key that the model lacks is left for its validation to name."""
    path, equals, text = setting.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise BadInput(f"--set {setting}: needed KEY=VALUE, the key with dots between its levels, such as engine.batch=4")
    try:
        new = _parsed(text)
    except _Unparsed as error:
        raise BadInput(f"--set {setting}: the value is not YAML: {error}") from None
    except BadInput as error:
        raise BadInput(f"--set {setting}: {error}") from None
    level: Any = value
    for depth, key in enumerate(parents, start=1):
        if level.get(key) is None:
            level[key] = {}
        level = level[key]
        if not isinstance(level, dict):
            parent = ".".join(parents[:depth])
            raise BadInput(f"--set {setting}: {parent} is {level!r}, which has no keys; set {parent} as a whole")
    level[last] = new


def storage_options_of(given: Mapping[str, Any]) -> StorageOptions:
    """Storage options from a mapping. Raises `BadInput`, as `load_yaml` does."""
    try:
        return StorageOptions.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"the storage options cannot be used:\n{explain(error, StorageOptions)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line per problem: where, what is wrong, what was found."""
    return "\n".join(f"  {_line(dict(problem), model)}" for problem in error.errors(include_url=False))


def _line(problem: dict[str, Any], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        close = closest(str(problem["loc"][-1]), known, cutoff=0.5)
        return f"{where}: unknown key" + (f"; did you mean `{close}`?" if close else f"; known keys: {', '.join(known)}")
    if problem["type"] == "missing":
        return f"{where}: missing, and required"
    message = str(problem["msg"]).removeprefix("Value error, ")
    found = "" if isinstance(problem["input"], dict) else f" (found {problem['input']!r})"
    return f"{where}: {message[:1].lower()}{message[1:]}{found}"


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Field names of the model nested at ``location``."""
    current = model
    for part in location:
        field = current.model_fields.get(str(part))
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if nested:
            current = nested[0]
    return list(current.model_fields)
