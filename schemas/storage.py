"""How the server of one store is reached, and what it was asked. No secrets: credentials come from the environment alone."""

from __future__ import annotations

from pydantic import field_validator

from schemas.base import Frozen
from schemas.credentials import holds_credentials

HUB_IS_READ_ONLY = (
    "stores on the Hugging Face Hub are only read. Let a job write to a folder, then `hf upload USER/NAME FOLDER PATH "
    "--repo-type dataset`."
)


class StorageOptions(Frozen):
    """How to reach the server of a store, where the environment does not say it, or says it for another store."""

    endpoint_url: str | None = None
    """The server's URL: of an S3 server that is not AWS (in place of ``AWS_ENDPOINT_URL``), of one that stands in for GCS or
    Azure, or of a Hub (in place of ``HF_ENDPOINT``)."""
    region: str | None = None
    """The bucket's region (S3), in place of ``AWS_DEFAULT_REGION``."""
    profile: str | None = None
    """The profile of the AWS configuration files whose credentials to use (S3), in place of ``AWS_PROFILE``."""
    anonymous: bool = False
    """Whether to send requests unsigned, as public buckets and data sets allow."""

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


class Requests(Frozen):
    """Requests to object stores, as they are billed: a request that is retried after a server error counts once."""

    put: int = 0
    """PUT requests, including those refused because the object exists."""
    get: int = 0
    """GET and HEAD requests for objects, ranges and lengths, including those for objects that do not exist."""
    list: int = 0
    """LIST requests, one per page."""

    def __add__(self, other: Requests) -> Requests:
        return Requests(put=self.put + other.put, get=self.get + other.get, list=self.list + other.list)

    def __mul__(self, times: int) -> Requests:
        return Requests(put=self.put * times, get=self.get * times, list=self.list * times)
