"""A file that TensorBoard reads goes in; its events come out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto import event_pb2


def read_events(file: Path) -> Iterator[Any]:
    """The events of a TensorBoard file: each is its length, a checksum, its bytes, and another checksum."""
    data = file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
