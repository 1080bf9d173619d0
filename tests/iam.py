"""A request and policies in; whether AWS would allow it out, by its rules as far as `cluster/iam` uses them.

AWS cannot be asked here, and SeaweedFS knows neither the condition ``s3:if-none-match`` nor roles. So what it cannot judge is
judged here. An operator or element that is not written below is an error, never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """What AWS knows of a request when it decides."""

    principal: str
    """ARN of the role that asks."""
    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)
    """Condition keys that the request has, with their values."""


def s3_request(role: str, method: str, bucket: str, key: str, *, is_conditional: bool = False, prefix: str = "") -> Request:
    """A request to S3: ``LIST`` under a prefix, or the HTTP method at a key. ``is_conditional``: it has If-None-Match."""
    principal = f"arn:aws:iam::123456789012:role/{role}"
    if method == "LIST":
        return Request(principal, "s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": prefix} if prefix else {})
    action = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}[method]
    return Request(principal, action, f"arn:aws:s3:::{bucket}/{key}", {"s3:if-none-match": "*"} if is_conditional else {})


def is_allowed(request: Request, of_role: Sequence[Policy], of_bucket: Sequence[Policy]) -> bool:
    """Whether a policy allows the request and none denies it."""
    effects = {s["Effect"] for policy in (*of_role, *of_bucket) for s in policy["Statement"] if _is_about(s, request)}
    return effects == {"Allow"}


def _is_about(statement: Mapping[str, Any], request: Request) -> bool:
    unknown = statement.keys() - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
    assert not unknown, unknown
    assert statement.get("Principal", "*") == "*"
    return (
        any(_like(request.action, action) for action in _listed(statement["Action"]))
        and any(_like(request.resource, resource) for resource in _listed(statement["Resource"]))
        and all(_conditions(statement.get("Condition", {}), request))
    )


def _conditions(conditions: Mapping[str, Mapping[str, Any]], request: Request) -> Iterator[bool]:
    context = {**request.context, "aws:PrincipalArn": request.principal}
    for operator, keys in conditions.items():
        for key, wanted in keys.items():
            yield _OPERATORS[operator](context.get(key), _listed(wanted))


# Whether a condition holds, of the key's value (None: the request has none) and the values in the policy.
_OPERATORS: dict[str, Callable[[str | None, list[str]], bool]] = {
    "Null": lambda found, wanted: wanted == [str(found is None).lower()],
    "StringLike": lambda found, wanted: found is not None and any(_like(found, pattern) for pattern in wanted),
    "ArnNotEquals": lambda found, wanted: found is None or not any(_like(found, pattern) for pattern in wanted),
}


def _like(text: str, pattern: str) -> bool:
    """AWS's wildcards: ``*`` any text, slashes too; ``?`` one character."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL) is not None


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
