"""The base of every shared value: frozen, and closed to unknown fields."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields, so a misspelt key never passes in silence."""

    # A field's docstring is its description in the JSON Schema.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes, so it can be hashed and compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_digest(data: bytes | memoryview) -> str:
    """``sha256:<hex>`` of the bytes, the form every digest in a store has."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
