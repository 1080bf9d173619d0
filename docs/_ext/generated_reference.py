"""Models, commands and error classes in; Markdown for the reference pages out. Nothing in those tables is written by hand.

A page asks for a part by a line ``<!-- generated: NAME ARGUMENT -->``, which is replaced when Sphinx reads the page, so
that the headings in it are headings of the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.main import get_command

from schemas.errors import CacheError
from schemas.export import json_schemas
from teacher_cache.io.command_line import EXIT_STATUSES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

Schema = Mapping[str, Any]

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "a multiple of"}
_TYPE = re.compile(r"<(?:list\[)?([\w|]+).*?>")
_TYPES = {"str": "TEXT", "int": "N", "float": "NUMBER", "path": "PATH", "file": "PATH", "directory": "PATH"}
_LINES = re.compile(r"^<!-- generated: (\S+) (\S+) -->$", re.MULTILINE)


def config_fields(model: str) -> str:
    """One section for each part of a YAML file, with a table of its fields by their dotted path."""
    schema = json_schemas()[model]
    parts = schema.get("$defs", {})
    return "\n\n".join(_section(path, part, parts) for path, part in _sections("", schema, parts))


def _sections(path: str, schema: Schema, parts: Mapping[str, Schema]) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema["properties"].items():
        if (part := _part(field, parts)) is not None:
            yield from _sections(f"{path}{name}.", part, parts)
        elif (part := _part(_values(field), parts)) is not None:
            yield from _sections(f"{path}{name}.NAME.", part, parts)


def _values(field: Schema) -> Schema:
    """The schema of a mapping's values; an empty one for a field that is no mapping."""
    by_pattern = field.get("patternProperties", {})
    values: Schema = next(iter(by_pattern.values()), field.get("additionalProperties", {}))
    return values


def _part(field: Schema, parts: Mapping[str, Schema]) -> Schema | None:
    """The model that a field holds, if it holds one; a field that may be left out holds one too."""
    for choice in (field, *field.get("anyOf", ())):
        if "$ref" in choice:
            part = parts[choice["$ref"].rpartition("/")[2]]
            return part if "properties" in part else None
    return None


def _section(path: str, schema: Schema, parts: Mapping[str, Schema]) -> str:
    heading = f"## `{path.rstrip('.')}`\n\n{_prose(schema['description'])}" if path else "## Top level"
    required = schema.get("required", ())
    rows = [
        (
            f"`{path}{name}`",
            _type(field, parts),
            _default(field, parts, is_required=name in required),
            _meaning(field, path, name, _part(field, parts)),
        )
        for name, field in schema["properties"].items()
    ]
    return f"{heading}\n\n{_table(('field', 'type', 'default', 'meaning'), rows)}"


def _meaning(field: Schema, path: str, name: str, part: Schema | None) -> str:
    # pydantic leaves a field's description out where it is its model's own.
    said = _prose(field.get("description") or (part or {}).get("description", ""))
    return said if part is None else f"{said} See [`{path}{name}`](#{f'{path}{name}'.replace('.', '')})."


def _type(field: Schema, parts: Mapping[str, Schema]) -> str:
    if "$ref" in field:
        return "section" if _part(field, parts) else _type(parts[field["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in field:
        return " or ".join(_type(choice, parts) for choice in field["anyOf"] if choice.get("type") != "null")
    if choices := field.get("enum", [field["const"]] if "const" in field else []):
        return " or ".join(f"`{value}`" for value in choices)
    if field.get("type") == "array":
        return f"list of {_type(field['items'], parts).replace(' or ', ', ')}"
    if field.get("type") == "object":
        keys = _type(field["propertyNames"], parts) if "propertyNames" in field else "name"
        values = _values(field)
        return f"mapping of {keys} to {'sections' if _part(values, parts) else _type(values, parts)}"
    return ", ".join(
        [field.get("type", "any value"), *(f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field)]
    )


def _default(field: Schema, parts: Mapping[str, Schema], *, is_required: bool) -> str:
    if is_required:
        return "required"
    if _part(field, parts) is not None:
        return "its fields' own" if field.get("default") is not None else "–"
    value = field.get("default")
    if value in (None, [], {}):
        return "–"
    return f"`{_yaml(value)}`"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def command_line(app: str) -> str:
    """Every command of a typer app (``module:name``), its arguments and its options, as ``--help`` has them.

    Exit statuses, with which the help of each command ends, are on the page once.
    """
    module, _, name = app.partition(":")
    group: Any = get_command(getattr(import_module(module), name))
    program = {"teacher_cache.cli": "teacher-cache", "student_train.cli": "student-train"}[module]
    sections = list(_commands(program, group))
    own = _options(group, group.make_context(program, [], resilient_parsing=True))
    return "\n\n".join([f"## Options before a command\n\n{own}", *sections] if own else sections)


def _commands(program: str, group: Any) -> Iterator[str]:
    """A section for each command of a group, and of the groups in it."""
    for name, command in group.commands.items():
        is_group = hasattr(command, "commands")
        yield from _commands(f"{program} {name}", command) if is_group else (_command(program, name, command),)


def _command(program: str, name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([program, name, *map(_placeholder, arguments), "[OPTIONS]"])
    options = _options(command, command.make_context(name, [], resilient_parsing=True))
    return f"## `{program} {name}`\n\n{_prose(command.help or '')}\n\n```text\n{usage}\n```\n\n{options}"


def _options(command: Any, context: Any) -> str:
    rows = [
        (_spelling(parameter, context), _parameter_default(parameter), _prose(parameter.help or ""))
        for parameter in command.params
    ]
    return _table(("argument or option", "default", "meaning"), rows) if rows else ""


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper()).strip("{}")


def _spelling(parameter: Any, context: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_placeholder(parameter)}`"
    record = parameter.get_help_record(context)[0]
    return f"`{_TYPE.sub(lambda found: _TYPES.get(found[1], found[1]), record)}`"


def _parameter_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.default is None:
        return "–"
    if getattr(parameter, "is_flag", False):
        return "on" if parameter.default else "off"
    return f"`{parameter.default:g}`" if isinstance(parameter.default, float) else f"`{parameter.default}`"


def exit_statuses(_which: str) -> str:
    """Every exit status and its meaning."""
    return _table(("status", "meaning"), [(str(status), meaning) for status, meaning in EXIT_STATUSES.items()])


def errors(status: str) -> str:
    """The kinds of error (the ``kind`` under ``--json``) that end a command with this exit status."""
    found = [kind for kind in _subclasses(CacheError) if kind.exit_status == int(status)]
    rows = [(f"`{kind.__name__}`", _prose((kind.__doc__ or "").partition("\n\n")[0])) for kind in found]
    return _table(("kind", "meaning"), rows)


def _subclasses(kind: type[CacheError]) -> Iterator[type[CacheError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _prose(text: str) -> str:
    """A docstring as one paragraph of Markdown."""
    return " ".join(text.replace("``", "`").split())


PARTS: dict[str, Callable[[str], str]] = {
    "config_fields": config_fields,
    "command_line": command_line,
    "exit_statuses": exit_statuses,
    "errors": errors,
}


def fill_in(text: str) -> str:
    """A page's text with what it asks for in its place."""
    return _LINES.sub(lambda found: PARTS[found[1]](found[2]), text)


def _on_read(_app: Sphinx, _docname: str, content: list[str]) -> None:
    content[0] = fill_in(content[0])


def _on_start(app: Sphinx) -> None:
    """Pages that ask for a part are read anew at each build: what they show lies in the code."""
    app.env.generated_pages = {
        str(path.relative_to(app.srcdir).with_suffix(""))
        for path in Path(app.srcdir).rglob("*.md")
        if _LINES.search(path.read_text())
    }


def _outdated(app: Sphinx, *_: object) -> list[str]:
    return sorted(app.env.generated_pages)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", _on_start)
    app.connect("env-get-outdated", _outdated)
    app.connect("source-read", _on_read)
    return {"parallel_read_safe": True}
