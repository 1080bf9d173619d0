"""Removes secrets from URLs: text goes in, the same text without credentials comes out.

No secret may enter a store, a log or an error; credentials come from the environment alone.
"""

from __future__ import annotations

import re

# ``scheme://key:secret@host``; a secret may contain slashes, and a host may have a port.
_USER = re.compile(r"(?<=://)(?:[^\s/@]+|[^\s/@:]+:(?!\d+(?:[/\s]|$))[^\s@]+)@")
# Parameters of signed URLs: X-Amz-Signature, X-Goog-Credential, a shared access signature's ``sig``, …
_PARAMETER = re.compile(
    r"(?<=[?&])([\w.-]*(?:signature|credential|token|secret|passw|access-?key|api-?key)[\w.-]*|sig|key-pair-id)=[^\s&'\"]*",
    re.IGNORECASE,
)


def holds_credentials(url: str) -> bool:
    """Whether a URL contains a user name, a password, a key or a signature."""
    return "://" in url and without_credentials(url) != url


def without_credentials(text: str) -> str:
    """The text with every credential in its URLs replaced by ``***``."""
    return _PARAMETER.sub(r"\1=***", _USER.sub("***@", text))
