"""Measures reading clips from S3 by this project's reader and by its peers, side by side: two tables, and the same as JSON.

    PYTHONPATH=.:tests python tests/benchmarks/read.py              # five minutes, 10 GB of disk under --folder

Every format holds the same clips of L4P giant's size on the same server (SeaweedFS, on this machine), and is read in the same
shuffled order in batches of eight, cold, in turns; the median of the turns is told. The first table has every format hold the
teacher's float32; the second has each as its users would. Peers that are not installed are named (`pip install '.[bench]'`, and
`megatron-energon`); zarr-python's newest needs a newer Python, which ``ZARR_PYTHON`` names, with `zarr` and `s3fs` in it.
The server shares this machine's cores, and so does the process that stands for a link, so their CPU time limits every rate; it
is told apart from the client's.

    … python tests/benchmarks/read.py --gbit 1 --out tests/benchmarks/results/read-1-gbit.json
    … python tests/benchmarks/read.py --latency-ms 30 --out tests/benchmarks/results/read-30-ms.json

measure the second table alone, over a link of that speed, where bytes count, as they do for a reader with more cores than
network; and of that latency, where requests count. ``--only this raw`` measures the formats whose names begin so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import formats
import numpy as np
import psutil
import s3_server
import torch
from formats import Format, Values
from link import Started, link
from machine import processor
from measuring import cpu_seconds, guarded, server_cpu
from rich.console import Console
from rich.table import Table
from s3fs import S3FileSystem

RESULTS = Path(__file__).parent / "results"
BATCH = 8
AHEAD = 2
"""Batches that are being read at once where batches are read ahead."""
STREAM_EPOCHS = 8
"""Epochs of a turn for what reads ahead."""
TABLES = {"same bytes": formats.same_bytes, "as its users store it": formats.as_users_store_it}


@dataclass
class Timed:
    """What reading cost, a figure a turn."""

    rates: list[float] = field(default_factory=list)
    """Clips a second."""
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"client": [], "server": [], "link": []})
    """CPU seconds a clip of this process and its workers, of the server, and of what stands for a link."""
    busy: list[float] = field(default_factory=list)
    """Cores at work, for all of them together."""

    def take(self, each: Iterator[object], steps: int, clips: int, route: Route) -> None:
        """Time so many steps, which give so many clips."""
        began, before = time.perf_counter(), route.cpu_seconds()
        for _ in range(steps):
            next(each)
        seconds = time.perf_counter() - began
        spent = {process: after - before[process] for process, after in route.cpu_seconds().items()}
        for process, cpu in spent.items():
            self.cpu[process].append(cpu / clips)
        self.rates.append(clips / seconds)
        self.busy.append(sum(spent.values()) / seconds)

    def figures(self) -> dict[str, Any]:
        return {
            "clips_per_second": statistics.median(self.rates),
            "clips_per_second_all": self.rates,
            **{f"{process}_cpu_seconds_per_clip": statistics.median(seconds) for process, seconds in self.cpu.items()},
            "busy_cores": statistics.median(self.busy),
        }


@dataclass
class Measured:
    """What one format cost."""

    form: Format
    url: str
    bytes_per_clip: float = 0.0
    first: Timed = field(default_factory=Timed)
    """In the first epoch of a reader; a stream, from its first batch on."""
    ahead: Timed = field(default_factory=Timed)
    """In its later epochs, with batches read ahead as for a trainer: connections are open, threads and memory in use, and a
    shard's index is known."""
    failure: str | None = None

    def figures(self) -> dict[str, Any]:
        """What goes into the JSON."""
        about: dict[str, Any] = {
            "name": self.form.name,
            "access": "sequential" if self.form.sequential else "random",
            "peer": not self.form.ours,
        }
        if self.failure is not None:
            return about | {"failure": self.failure}
        ahead = self.ahead.figures() if self.ahead.rates else None
        return about | self.first.figures() | {"bytes_per_clip": self.bytes_per_clip, "ahead": ahead}


@dataclass(frozen=True)
class Route:
    """What the readers read from."""

    server: s3_server.S3Server
    link: Started | None = None

    @property
    def endpoint(self) -> str:
        return self.link.endpoint if self.link else self.server.endpoint

    def cpu_seconds(self) -> dict[str, float]:
        """So far, of this process and its workers, of the server, and of what stands for a link."""
        others = {self.server.process.pid, self.link.pid if self.link else None}
        workers = [child for child in psutil.Process().children(recursive=True) if child.pid not in others]
        return {
            "client": time.process_time() + sum(sum(child.cpu_times()[:2]) for child in workers),
            "server": server_cpu(self.server),
            "link": cpu_seconds(self.link.pid) if self.link else 0.0,
        }


def read_all(measured: Measured, order: Sequence[int], route: Route, epochs: int) -> None:
    """One turn: every clip once, in batches; and again, unless it stays on this machine."""
    batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    steps, clips = len(batches), len(order)
    with contextlib.ExitStack() as opened:
        if isinstance(measured.form, formats.OurStream):
            # Its first batch brings the threads or workers up; by then others are read ahead, so more than one epoch is read.
            each = iter(opened.enter_context(contextlib.closing(measured.form.each(measured.url, batches * STREAM_EPOCHS))))
            next(each)
            measured.first.take(each, steps * STREAM_EPOCHS - 1, clips * STREAM_EPOCHS - BATCH, route)
            return
        read = opened.enter_context(measured.form.open(measured.url))
        measured.first.take(map(read, batches), steps, clips, route)
        again = epochs - 1
        if again and not measured.form.keeps and not measured.form.sequential:
            measured.ahead.take(read_ahead(read, batches * again), steps * again, clips * again, route)


def read_ahead(read: formats.Read, batches: Sequence[Sequence[int]]) -> Iterator[object]:
    """What ``read`` gives for each, with as many read at once as a stream reads."""
    with ThreadPoolExecutor(AHEAD) as threads:
        under_way: deque[Future[object]] = deque()
        for batch in batches:
            under_way.append(threads.submit(read, batch))
            if len(under_way) == AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def measure(
    forms: Sequence[Format],
    clips: Sequence[Values],
    route: Route,
    say: Callable[[str], None],
    *,
    turns: int,
    epochs: int,
) -> list[dict[str, Any]]:
    """Write every format to the server, then read them in turns over ``route``."""
    every = [Measured(form, f"s3://bucket/{form.place}") for form in forms]
    written: set[str] = set()
    for measured in every:
        if measured.url not in written:
            say(f"writing {measured.form.name}")
            guarded(measured, lambda m=measured: m.form.write(m.url, clips))
            written.add(measured.url)
        measured.bytes_per_clip = formats.stored_bytes(measured.url) / len(clips)
    os.environ["AWS_ENDPOINT_URL"] = route.endpoint
    S3FileSystem.clear_instance_cache()  # it knows the server
    rng = np.random.default_rng(0)
    for turn in range(turns):
        order = rng.permutation(len(clips)).tolist()
        for measured in every:
            say(f"turn {turn + 1}: {measured.form.name}")
            guarded(measured, lambda m=measured, order=order: read_all(m, order, route, epochs))
    route.server.filesystem.rm("bucket", recursive=True)
    return [measured.figures() for measured in every]


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title=title)
    for name in ("reader", "access", "clips/s", "ahead", "of ours", "client ms", "server ms", "link ms", "cores", "MB/clip"):
        shown.add_column(name, justify="left" if name in {"reader", "access"} else "right")
    ours = next((row for row in rows if "failure" not in row), {})
    for row in rows:
        if "failure" in row:
            shown.add_row(row["name"], row["access"], row["failure"])
            continue
        ahead = row["ahead"] or row
        shown.add_row(
            row["name"],
            row["access"],
            f"{row['clips_per_second']:.3g}",
            f"{ahead['clips_per_second']:.3g}" if row["ahead"] else "",
            f"{row['clips_per_second'] / ours['clips_per_second']:.0%}",
            *(f"{ahead[f'{process}_cpu_seconds_per_clip'] * 1e3:.3g}" for process in ("client", "server", "link")),
            f"{ahead['busy_cores']:.2f}",
            f"{row['bytes_per_clip'] / 1e6:.3g}",
        )
    return shown


def goals(tables: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Ours over what it is held against: the best random-access peer's rate, the raw GET's rate, a peer's least CPU."""
    found = {}
    for title, rows in tables.items():
        ours = rows[0]
        measured = [row for row in rows if "failure" not in row]
        if not (peers := [row for row in measured if row["peer"]]) or ours not in measured:
            continue
        raw = next(r for r in measured if r["name"] == formats.RawRanges.name)
        random = [r for r in peers if r["access"] == "random"]
        for when in ("", ", read ahead") if ours["ahead"] else ("",):
            mine, gets, best = (
                max((r["ahead"] or r if when else r)["clips_per_second"] for r in of) for of in ([ours], [raw], random)
            )
            found[f"{title}{when}: rate over the best random-access peer's"] = mine / best
            found[f"{title}{when}: rate over the raw ranged GET's"] = mine / gets
        least = min(r["client_cpu_seconds_per_clip"] for r in peers)
        found[f"{title}: client CPU over the least of a peer"] = ours["client_cpu_seconds_per_clip"] / least
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--in-flight", type=int, default=formats.IN_FLIGHT, help="requests that a peer may have open at once")
    parser.add_argument("--epochs", type=int, default=1, help="of a turn; in those after the first, batches are read ahead")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the server keeps its data; the system's temporary folder"
    )
    parser.add_argument("--weed", default="weed", help="the SeaweedFS program")
    parser.add_argument("--gbit", type=float, help="speed of a link between the readers and the server; none when absent")
    parser.add_argument("--latency-ms", type=float, default=0, help="what a request waits on that link")
    parser.add_argument("--only", nargs="*", help="formats whose names begin with one of these")
    parser.add_argument("--out", type=Path, default=RESULTS / "read.json")
    options = parser.parse_args()
    console = Console(width=None if os.isatty(1) else 150)
    torch.set_num_threads(1)  # encoding, before anything is measured: threads would wait for each other and the server
    formats.IN_FLIGHT = options.in_flight
    clips = [formats.synthetic_clip(seed) for seed in range(options.clips)]
    tables = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        server = s3_server.start(Path(folder), options.weed)
        os.environ.update(server.environment)
        has_link = options.gbit or options.latency_ms
        chosen = dict(list(TABLES.items())[1:]) if has_link or options.only else TABLES
        try:
            with contextlib.ExitStack() as stack:
                started = link(server.endpoint, options.gbit or 0, options.latency_ms) if has_link else None
                route = Route(server, stack.enter_context(started) if started else None)
                for title, forms in chosen.items():
                    server.filesystem.mkdir("bucket")
                    with console.status(title) as status:
                        asked = [form for form in forms() if form.name.startswith(tuple(options.only or [""]))]
                        tables[title] = measure(asked, clips, route, status.update, turns=options.turns, epochs=options.epochs)
        finally:
            s3_server.stop(server)
    result = {
        "benchmark": "read",
        "link_gbit": options.gbit,
        "latency_ms": options.latency_ms,
        "machine": processor(),
        "server": "SeaweedFS on the same machine",
        "clips": options.clips,
        "batch": BATCH,
        "clips_per_shard": formats.CLIPS_PER_SHARD,
        "in_flight": formats.IN_FLIGHT,
        "turns": options.turns,
        "epochs": options.epochs,
        "float32_bytes_per_clip": sum(values.nbytes for values in clips[0].values()),
        "tables": tables,
        "goals": goals(tables),
    }
    for title, rows in tables.items():
        console.print(table(title, rows))
    for goal, ratio in result["goals"].items():
        console.print(f"{goal}: {ratio:.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
