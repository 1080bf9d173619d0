"""The base of every shared value: immutable, and closed to unknown fields. Canonical JSON and its digests."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NoReturn

from pydantic import AwareDatetime, BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields, so that a misspelt key is an error."""

    # A field's docstring is its description in the JSON Schema. `schemas.export` finds it, and not pydantic, which would read
    # the source of each model as it is imported: a sixth of what starting a command costs.
    model_config = ConfigDict(frozen=True, extra="forbid")


def _with_digest(schema: dict[str, Any]) -> None:
    schema["properties"]["digest"] = {
        "description": "sha256 of the canonical JSON of all other fields.",
        "pattern": "^sha256:[0-9a-f]{64}$",
        "type": "string",
    }
    schema["required"] = [*schema.get("required", []), "digest"]


class Sealed(Frozen):
    """A value that a store keeps as its own JSON object, with a digest of its fields in it."""

    model_config = ConfigDict(json_schema_extra=_with_digest)


class Timed(Frozen):
    """A value that carries the time at which it was written."""

    time: AwareDatetime | None = None
    """When it was written, in UTC; null until then."""


def differences(mine: Frozen, theirs: Frozen) -> dict[str, tuple[object, object]]:
    """Dotted path → (value in ``mine``, value in ``theirs``) for each field that differs; empty if the two are equal.

    A key that is no plain text, as of a store from elsewhere, is in the path as Python writes it: a path is one line.
    """
    first, second = _flatten(mine.model_dump(mode="json")), _flatten(theirs.model_dump(mode="json"))
    paths = sorted(first.keys() | second.keys())
    return {p: (first.get(p), second.get(p)) for p in paths if first.get(p) != second.get(p)}


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, item in value.items():
        name = prefix + (key if key.isprintable() else repr(key))
        if isinstance(item, dict):
            flat |= _flatten(item, f"{name}.")
        else:
            flat[name] = item
    return flat


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes, to hash and compare."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parsed_json(data: bytes) -> Any:
    """JSON that `canonical_json` can write again. Raises `ValueError` for what is none, NaN, infinity, half of a character."""
    try:
        value = json.loads(data, parse_constant=_no_number)
        if _HALF.search(data):
            canonical_json(value)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def sha256_digest(data: bytes | memoryview) -> str:
    """``sha256:<hex>`` of the bytes: the form of every digest in a store."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
