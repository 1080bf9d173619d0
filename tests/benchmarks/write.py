"""Measures what writing a clip costs a core, for this project and for its peers: a table, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/write.py             # five minutes, 25 GB of disk under --folder

The same clips of L4P giant's size, written to the same server (SeaweedFS, on this machine) by each format in turns, after one
clip each that is not measured; the CPU seconds of this process are told, the server's apart. Making the store or the group is
part of what is measured, for every format: it is the same for one clip and for many, so few clips would show little else. For
ours also what compressing and what putting costs, and the encodings' arithmetic by itself, which runs on the teacher's GPU in a
job and is measured on the CPU here.

The goal: no more than eight cores for the 23 clips a second that one H200 teaches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import formats
import s3_server
import torch
from formats import Format, OurStore, Values
from machine import processor
from measuring import guarded, server_cpu
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
CLIPS_PER_SECOND = 23
CORES = 8
"""One H200's output, and the cores that may keep up with it."""


@dataclass
class Measured:
    """What writing one format cost, a figure a turn: CPU seconds a clip."""

    name: str
    write: Callable[[str, Sequence[Values]], object]
    """Given a URL and the clips."""
    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    bytes_per_clip: float | None = None
    failure: str | None = None

    def figures(self) -> dict[str, Any]:
        if self.failure is not None:
            return {"name": self.name, "failure": self.failure}
        cpu = statistics.median(self.client)
        return {
            "name": self.name,
            "client_cpu_seconds_per_clip": cpu,
            "client_cpu_seconds_per_clip_all": self.client,
            "clips_per_core_second": 1 / cpu,
            "cores_for_one_h200": CLIPS_PER_SECOND * cpu,
            "server_cpu_seconds_per_clip": statistics.median(self.server),
            "bytes_per_clip": self.bytes_per_clip,
        }


def stages(clips: Sequence[Values]) -> list[Measured]:
    """Ours in its parts: the encodings' arithmetic; and, of what it gives, compression, and all of it with the put."""
    ours = OurStore("fine")
    recipe = ours.recipe()
    quantised = {id(clip): ours.quantise(recipe, clip) for clip in clips}

    def compress(some: Sequence[Values]) -> list[dict[str, list[bytes]]]:
        return [ours.compress(recipe, quantised[id(clip)]) for clip in some]

    def compress_and_put(url: str, some: Sequence[Values]) -> None:
        store = ours.create(url, len(some))
        for rows in formats.shards(len(some)):
            ours.put(store, rows, compress(some[rows.start : rows.stop]))

    return [
        Measured("ours, fine: compress and put", compress_and_put),
        Measured("ours, fine: compress alone", lambda _, some: compress(some)),
        Measured(
            "ours, fine: the encodings' arithmetic, on the CPU",
            lambda _, some: [ours.quantise(recipe, clip) for clip in some],
        ),
    ]


def peers() -> list[Measured]:
    """Every peer as its users would write it; the formats that read another's objects write nothing."""
    forms: dict[str, Format] = {}
    for form in formats.as_users_store_it():
        if not isinstance(form, OurStore):
            forms.setdefault(form.place, form)
    return [Measured(form.name, form.write) for form in forms.values()]


def write_once(measured: Measured, url: str, clips: Sequence[Values], server: s3_server.S3Server) -> None:
    client, served = time.process_time(), server_cpu(server)
    measured.write(url, clips)
    measured.client.append((time.process_time() - client) / len(clips))
    measured.server.append((server_cpu(server) - served) / len(clips))
    measured.bytes_per_clip = formats.stored_bytes(url) / len(clips) or None


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title="writing a clip")
    for name in ("writer", "CPU ms/clip", "clips/s a core", f"cores for {CLIPS_PER_SECOND}/s", "server CPU ms", "MB/clip"):
        shown.add_column(name, justify="left" if name == "writer" else "right")
    for row in rows:
        if "failure" in row:
            shown.add_row(row["name"], row["failure"])
            continue
        shown.add_row(
            row["name"],
            f"{row['client_cpu_seconds_per_clip'] * 1e3:.3g}",
            f"{row['clips_per_core_second']:.3g}",
            f"{row['cores_for_one_h200']:.2g}",
            f"{row['server_cpu_seconds_per_clip'] * 1e3:.3g}",
            "" if row["bytes_per_clip"] is None else f"{row['bytes_per_clip'] / 1e6:.3g}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4 * formats.CLIPS_PER_SHARD)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the server keeps its data; the system's temporary folder"
    )
    parser.add_argument("--weed", default="weed", help="the SeaweedFS program")
    parser.add_argument("--out", type=Path, default=RESULTS / "write.json")
    options = parser.parse_args()
    console = Console(width=None if os.isatty(1) else 150)
    torch.set_num_threads(1)  # the arithmetic's seconds are those of one core, without threads that wait for each other
    clips = [formats.synthetic_clip(seed) for seed in range(options.clips)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        server = s3_server.start(Path(folder), options.weed)
        os.environ.update(server.environment)
        try:
            server.filesystem.mkdir("bucket")
            every = [*stages(clips), *peers()]
            with console.status("writing") as status:
                for number, measured in enumerate(every):
                    status.update(f"warming up: {measured.name}")
                    url = f"s3://bucket/warm-{number}"
                    guarded(measured, lambda m=measured, url=url: m.write(url, clips[:1]))
                for turn in range(options.turns):
                    for number, measured in enumerate(every):
                        status.update(f"turn {turn + 1}: {measured.name}")
                        url = f"s3://bucket/{turn}-{number}"
                        guarded(measured, lambda m=measured, url=url: write_once(m, url, clips, server))
        finally:
            s3_server.stop(server)
    rows = [measured.figures() for measured in every]
    result = {
        "benchmark": "write",
        "machine": processor(),
        "server": "SeaweedFS on the same machine",
        "clips": options.clips,
        "turns": options.turns,
        "goal": {
            "clips_per_second": CLIPS_PER_SECOND,
            "cores": CORES,
            "cores_needed": rows[0]["cores_for_one_h200"],
            "clips_per_core_second": rows[0]["clips_per_core_second"],
        },
        "writers": rows,
    }
    console.print(table(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
