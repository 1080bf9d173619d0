"""The driver's environment in; on each node, those of its variables that say where data is and how long to wait for it, out.

Credentials stay where they are: each node has its own, of the rights that its role needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

SHARED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "P4D_PATIENCE_SECONDS",
    "P4D_S3_READ_SECONDS",
)


def shared() -> dict[str, str]:
    """The variables of this process that the nodes are to have as well."""
    return {name: os.environ[name] for name in SHARED if name in os.environ}


def adopt(driver: Mapping[str, str]) -> None:
    """Take over what this node does not say itself: it may reach the same data by a nearer endpoint."""
    for name, value in driver.items():
        os.environ.setdefault(name, value)
