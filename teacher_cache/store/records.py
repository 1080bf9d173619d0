"""Models in, JSON objects with their own digest out, and back: any changed bit is detected."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from schemas.base import Sealed, canonical_json, parsed_json, sha256_digest
from schemas.errors import StoreDamaged

Record = TypeVar("Record", bound=Sealed)


def seal(value: Sealed) -> bytes:
    """Canonical JSON of the value plus ``digest``, the sha256 of the canonical JSON of the value."""
    return _sealed(value.model_dump(mode="json"))


def _sealed(body: dict[str, Any]) -> bytes:
    return canonical_json(body | {"digest": sha256_digest(canonical_json(body))})


def unsealed(data: bytes, key: str, url: str) -> dict[str, Any]:
    """The sealed value, as plain JSON types. Raises `StoreDamaged` unless ``data`` is, bit for bit, what `seal` writes."""
    try:
        body = parsed_json(data)
        digest = body.pop("digest")
        holds = _is_sealed(data, digest) or _sealed(body) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        holds = False
    if not holds:
        raise StoreDamaged(f"{key} of {url} is damaged: its digest does not match. {REPAIR_ADVICE}")
    return dict(body)


def _is_sealed(data: bytes, digest: str) -> bool:
    """Whether the bytes without their member ``digest`` have that digest. Needs no re-serialising, unlike `_sealed`."""
    member = b'"digest":%b' % canonical_json(digest)
    cut = next((cut for cut in (b"," + member, member + b",") if data.count(cut) == 1), None)
    return cut is not None and sha256_digest(data.replace(cut, b"")) == digest


def unseal(model: type[Record], data: bytes, key: str, url: str) -> Record:
    """The inverse of `seal`. Raises `StoreDamaged` if the digest does not match or the value is not a ``model``."""
    body = unsealed(data, key, url)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreDamaged(f"{key} of {url} is intact, but not a record of this format ({where}: {first['msg']})") from None


REPAIR_ADVICE = "`teacher-cache verify` names the clips that this hits, and `teacher-cache run JOB.yaml --repair` redoes them."
