"""Removes secrets from text: text goes in, the same text without credentials comes out.

No secret may enter a store, a log or an error; credentials come from the environment alone. Which parameter of a URL is a
secret cannot be told by its name, so none is shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

_HIDDEN = "***"

# ``scheme://key:secret@host``. A secret may contain slashes, and a host may have a port; ``[`` begins an IPv6 address.
_USER = re.compile(r"(?<=://)(?:[^\s/?#@:\[]+:(?!\d{1,5}(?:[/?#\s]|$))\S*|[^\s/?#]*)(?:@|%40)", re.IGNORECASE)
# The parameters, query or fragment of a URL, up to what cannot be in one, and the punctuation of the sentence around it.
_TAIL = re.compile(r"([a-z][\w+.-]*://[^\s\"<>`?#;]*)([?#;])([^\s\"<>`]*?)((?:&?[)\]',.:;!?]+)?(?=[\s\"<>`]|$))", re.IGNORECASE)
# Where a ``?`` in a name is a glob's wildcard, and a ``#`` a letter.
_OBJECTS = re.compile(r"(?:s3a?|gs|gcs|az|abfss?|adl|file|memory)://[^:]*", re.IGNORECASE)
# What a clip's id adds to its video's: ``ID#0003``.
_WINDOW = re.compile(r"\d{4,9}")
# Libraries tell URLs without their scheme and host. ``AccountKey`` is of Azure's connection strings.
_PARAMETER = re.compile(
    r"(?<=[?&#;])([\w.-]*(?:signature|credential|token|secret|passw|access-?key|account-?key|api-?key)[\w.-]*"
    r"|sig|key-pair-id|key|auth|jwt|md5)=[^\s&;'\"]*",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"(?:SECRET|TOKEN|PASSWORD|PASSWD|WEBHOOK|(?:API|SECRET|ACCESS|ACCOUNT|STORAGE|PRIVATE)_?KEY|SAS|CONNECTION_STRING)$",
    re.IGNORECASE,
)
_SHORTEST_SECRET = 8
"""A shorter value of a variable is no secret to look for: it is in other words by chance."""


def holds_credentials(url: str) -> bool:
    """Whether a URL has user information, parameters, a query or a fragment: the places of passwords, tokens and signatures.

    In object stores and files, a ``?`` or ``#`` without a ``=`` after it is part of a name or glob.
    """
    return "://" in url and _without_url_secrets(url) != url


def without_credentials(text: str) -> str:
    """The text with ``***`` for every credential in its URLs and every value of a secret environment variable."""
    for secret in _secrets():
        text = text.replace(secret, _HIDDEN)
    return _without_url_secrets(text)


def _without_url_secrets(text: str) -> str:
    if "://" in text:
        text = _TAIL.sub(_without_tail, _USER.sub(f"{_HIDDEN}@", text))
    return _PARAMETER.sub(rf"\1={_HIDDEN}", text)


def _without_tail(url: re.Match[str]) -> str:
    place, mark, tail, after = url.groups()
    is_plain = not tail or (mark == "#" and _WINDOW.fullmatch(tail)) or ("=" not in tail and _OBJECTS.fullmatch(place))
    return url[0] if is_plain else f"{place}{mark}{_HIDDEN}{after}"


def _secrets() -> Iterator[str]:
    """Values of the environment that are secret by their variable's name, as they are and as a URL has them."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            yield value
            yield quote(value, safe="")
