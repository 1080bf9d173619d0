"""How the server of one store is reached. It holds no secrets: credentials come from the environment alone."""

from __future__ import annotations

from pydantic import field_validator

from schemas.base import Frozen
from schemas.credentials import holds_credentials


class StorageOptions(Frozen):
    """How to reach the server of a store, where the environment does not say it, or says it for another store."""

    endpoint_url: str | None = None
    """The server's URL: of an S3 server that is not AWS (in place of ``AWS_ENDPOINT_URL``), or of one that stands in for GCS or
    Azure."""
    region: str | None = None
    """The bucket's region (S3), in place of ``AWS_DEFAULT_REGION``."""
    profile: str | None = None
    """The profile of the AWS configuration files whose credentials to use (S3), in place of ``AWS_PROFILE``."""
    anonymous: bool = False
    """Whether to send requests unsigned, as public buckets allow."""

    @field_validator("endpoint_url")
    @classmethod
    def _a_plain_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"give a URL that begins with http:// or https://, such as http://{url}")
        if url is not None and holds_credentials(url):
            raise ValueError("give the URL without credentials, and put those in the environment")
        return url


DEFAULT_STORAGE = StorageOptions()
"""Everything from the environment."""
