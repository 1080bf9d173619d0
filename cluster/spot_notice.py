"""EC2's notice that this spot machine will be taken away goes in; a drain of its Ray node comes out.

    python -m cluster.spot_notice [NODE_ID]

runs beside Ray on each spot node until there is a notice, two minutes before the end (`cluster/aws.yaml` starts it). Ray itself
does not ask. NODE_ID is Ray's id of the node; without it, the node of this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from teacher_cache.io.console import stderr

_ASK_SECONDS = 5
"""How often to ask, as AWS advises."""
_ENDPOINT_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""Of all AWS clients; by default the link-local address."""
_TTL_SECONDS = "60"
_DIRECT = build_opener(ProxyHandler({}))
"""The service is the machine's own, so no proxy of the environment leads there."""


def seconds_left() -> float | None:
    """How long this machine has until EC2 takes it; None if there is no notice. Raises `OSError` if the service is silent."""
    base = os.environ.get(_ENDPOINT_VARIABLE, "http://169.254.169.254").rstrip("/")
    ask = _request(f"{base}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": _TTL_SECONDS})
    token = _answer(ask).decode()
    try:
        asked = f"{base}/latest/meta-data/spot/instance-action"
        notice = _answer(_request(asked, "GET", {"X-aws-ec2-metadata-token": token}))
    except HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return None
        raise
    end = datetime.fromisoformat(json.loads(notice)["time"])
    return max(0.0, (end - datetime.now(UTC)).total_seconds())


def _request(url: str, method: str, headers: dict[str, str]) -> Request:
    return Request(url, headers=headers, method=method)  # noqa: S310  # the operator's own environment names the service


def _answer(request: Request) -> bytes:
    with _DIRECT.open(request, timeout=2) as answer:
        return bytes(answer.read())


def drain(seconds: float, node: str | None) -> bool:
    """Tell Ray that the node goes in so many seconds. Returns whether Ray has heard it."""
    ray: list[Any] = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    told = ["--reason-message", "EC2 takes this spot machine", "--deadline-remaining-seconds", str(int(seconds))]
    return subprocess.run([*ray, *told, *(["--node-id", node] if node else [])], check=False).returncode == 0


def main() -> None:
    """Wait for a notice, and drain this machine's node."""
    node = sys.argv[1] if len(sys.argv) > 1 else None
    while True:
        try:
            left = seconds_left()
        except (OSError, ValueError, LookupError) as error:
            left = None
            stderr.print(f"EC2's metadata service gave no answer: {error}")
        if left is not None and drain(left, node):
            return
        time.sleep(_ASK_SECONDS)


if __name__ == "__main__":
    main()
