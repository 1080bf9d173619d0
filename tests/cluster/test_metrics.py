"""What Prometheus gets from a real Ray agent, and a dashboard that asks for nothing else."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.resources import files
from itertools import combinations

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.util.metrics import Gauge

from cluster.metrics import METRICS

DASHBOARD = json.loads(files("cluster").joinpath("grafana/p4d-cache.json").read_text())
STORE = "s3://bucket/p4d/tiny"
# What a label may be told to say.
HOSTILE = 'https://key:wJalrXUt@host \x1b[2J\u202e"} 1\nray_p4d_units_total{forged="yes\\"'
SHOWN = r'https://***@host \x1b[2J\u202e"} 1\nray_p4d_units_total{forged="yes\"'

# A run as an engine tells it. In a process of its own, because how Ray was first started in one cannot be changed.
RUN = f"""
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's switch for staying on 127.0.0.1
import ray
from cluster.metrics import Metrics
from schemas.event import NodeDraining, NodeSetAside, Stopping, TeacherLost, TeacherStarted, Waiting
from schemas.report import FailedClip, StageSeconds, UnitReport

ray.init(
    address="local",  # not a cluster that another test has started on this machine
    num_cpus=1, include_dashboard=False, _metrics_export_port=int(sys.argv[1]), log_to_driver=False, logging_level="ERROR",
    _system_config={{"metrics_report_interval_ms": 500}},
)
metrics = Metrics({{"store": "{STORE}", "fingerprint": {HOSTILE!r}}}, units=10, min_teachers=2)
print("began", flush=True)
sys.stdin.readline()
for name, devices in (("a", ("cuda:0",)), ("b", ("cuda:0", "cuda:1")), ("c", ("cpu",))):
    metrics.record(TeacherStarted(teacher=name, node="n", devices=devices))
metrics.record(TeacherLost(teacher="a", node="n", reason="gone", units=1))
for node in ("n", "m"):
    metrics.record(NodeDraining(node=node, seconds=120))
metrics.record(NodeSetAside(node="n", reason="gone"))
metrics.record(Waiting(teachers=2, detail="a node"))
reasons = ("not_a_video", "not_a_video", "no_frames")
failed = [FailedClip(clip_id="c", video="v", reason=reason, detail="d") for reason in reasons]
seconds = StageSeconds(decode=4, decode_wait=0.5, teach=2.5, encode=1)
metrics.record(UnitReport(unit="u", teacher="b", committed=5, failed=3, bytes=1000, seconds=seconds, failures=failed))
metrics.record(UnitReport(unit="v", teacher="c", committed=8, failed=0, bytes=500, seconds=seconds))
metrics.record(UnitReport(unit="w", teacher="c", committed=8, failed=0, bytes=700, seconds=StageSeconds(), already_done=True))
metrics.record(Stopping(reason="SIGTERM", grace_seconds=1))
print("told", flush=True)
for command in sys.stdin:
    if command == "close\\n":
        metrics.close()
"""

OURS = frozenset({"store", "fingerprint", "status", "reason", "stage"})


def scrape(port: int) -> list[tuple[str, dict[str, str], float]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return []
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    families = text_string_to_metric_families(text)
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def ours(samples) -> dict[tuple[str, frozenset[str]], float]:
    """(name, values of our own labels besides the run's) → value."""
    return {
        (name, frozenset(value for label, value in labels.items() if label in OURS - {"store", "fingerprint"})): value
        for name, labels, value in samples
        if name.startswith("ray_p4d_")
    }


WANTED = {
    ("ray_p4d_clips_total", frozenset({"committed"})): 21,
    ("ray_p4d_clips_total", frozenset({"failed"})): 3,
    ("ray_p4d_failures_total", frozenset({"not_a_video"})): 2,
    ("ray_p4d_failures_total", frozenset({"no_frames"})): 1,
    ("ray_p4d_units_total", frozenset()): 3,
    ("ray_p4d_written_bytes_total", frozenset()): 1500,
    ("ray_p4d_stage_seconds_total", frozenset({"decode"})): 8,
    ("ray_p4d_stage_seconds_total", frozenset({"decode_wait"})): 1,
    ("ray_p4d_stage_seconds_total", frozenset({"teach"})): 5,
    ("ray_p4d_stage_seconds_total", frozenset({"encode"})): 2,
    ("ray_p4d_teachers_lost", frozenset()): 1,
    ("ray_p4d_nodes_drained", frozenset()): 2,
    ("ray_p4d_nodes_set_aside", frozenset()): 1,
    ("ray_p4d_units_left", frozenset()): 7,
    ("ray_p4d_teachers", frozenset()): 2,
    ("ray_p4d_min_teachers", frozenset()): 2,
    ("ray_p4d_devices", frozenset()): 3,
}


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def run(port: int):
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "began\n", process.stderr.read()
        yield process
        process.stdin.close()
        assert process.wait(60) == 0
        assert "cannot export metrics" not in process.stderr.read()


@pytest.fixture(scope="module")
def at_first(run, port: int):
    """A scrape that holds all gauges, before anything happened."""
    gauges = {f"ray_{name}" for name, metric in METRICS.items() if metric.kind is Gauge}
    deadline = time.monotonic() + 60
    while True:
        samples = scrape(port)
        if gauges <= {name for name, _, _ in samples}:
            return samples
        assert time.monotonic() < deadline, samples
        assert run.poll() is None
        time.sleep(0.2)


@pytest.fixture(scope="module")
def scraped(run, at_first, port: int):
    """A scrape that holds all of our metrics, and Ray's own of the node."""
    run.stdin.write("go on\n")
    run.stdin.flush()
    assert run.stdout.readline() == "told\n"
    asked = {name for panel in DASHBOARD["panels"] for name in metrics_of(panel)} - NEEDS_GPU
    deadline = time.monotonic() + 60
    samples = at_first
    while not (ours(samples) == WANTED and asked <= {name for name, _, _ in samples}):
        assert time.monotonic() < deadline, (ours(samples), asked - {name for name, _, _ in samples})
        assert run.poll() is None
        time.sleep(0.2)
        samples = scrape(port)
    return samples


def test_what_happens_seldom_is_counted_from_0(at_first) -> None:
    """An alert on the first node that is set aside needs the 0 before it."""
    found = ours(at_first)
    for name in ("teachers_lost", "nodes_drained", "nodes_set_aside", "teachers"):
        assert found[f"ray_p4d_{name}", frozenset()] == 0
    assert found["ray_p4d_units_left", frozenset()] == 10


def test_gauges_have_the_same_labels(at_first) -> None:
    """The rules for Prometheus compare them with each other."""
    assert len({frozenset(labels.items()) for name, labels, _ in at_first if name.startswith("ray_p4d_")}) == 1


def test_what_was_told_is_what_prometheus_gets(scraped) -> None:
    assert ours(scraped) == WANTED
    assert {name.removeprefix("ray_") for name, _ in ours(scraped)} == METRICS.keys()
    for name, labels, _ in scraped:
        if name.startswith("ray_p4d_"):
            assert (labels["store"], labels["fingerprint"]) == (STORE, SHOWN)
            own = set(METRICS[name.removeprefix("ray_")].labels)
            assert own == labels.keys() & OURS - {"store", "fingerprint"}


@pytest.mark.usefixtures("scraped")
def test_only_this_machine_can_ask(port: int) -> None:
    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.usefixtures("scraped")
def test_after_the_end_nobody_is_at_work(run, port: int) -> None:
    run.stdin.write("close\n")
    run.stdin.flush()
    deadline = time.monotonic() + 30
    while (found := ours(scrape(port))).get(("ray_p4d_teachers", frozenset())) != 0:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert found["ray_p4d_clips_total", frozenset({"committed"})] == 21


def test_what_ray_refuses_is_said_once_and_ends_no_run() -> None:
    program = (
        "from cluster.metrics import Metrics\nfrom schemas.event import Waiting\n"
        "metrics = Metrics({3: 'no name of a label'})\n"
        "metrics.record(Waiting(teachers=0, detail='d'))\nmetrics.record(Waiting(teachers=0, detail='d'))\nmetrics.close()\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "went on\n"
    assert done.stderr.count("cannot export metrics") == 1


# --- the dashboard

# Ray measures these only where there is a GPU; their names are read from Ray instead.
NEEDS_GPU = frozenset({"ray_node_gpus_utilization"})


def metrics_of(panel) -> set[str]:
    return {name for target in panel["targets"] for name in re.findall(r"\bray_\w+", target["expr"])}


def test_the_dashboard_asks_only_for_what_there_is(scraped) -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = {name for panel in DASHBOARD["panels"] for name in metrics_of(panel)}
    assert {f"ray_{name}" for name in METRICS} == {name for name in asked if name.startswith("ray_p4d_")}
    there = {name for name, _, _ in scraped}
    assert asked - there <= NEEDS_GPU
    assert {name.removeprefix("ray_") for name in NEEDS_GPU} <= METRICS_GAUGES.keys()


def test_the_dashboard_groups_and_filters_by_labels_that_there_are(scraped) -> None:
    labels: dict[str, set[str]] = {}
    for name, of, _ in scraped:
        labels.setdefault(name, set()).update(of)
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            for name, selector in re.findall(r"\b(ray_\w+)\{([^}]*)\}", target["expr"]):
                assert set(re.findall(r"(\w+)=", selector)) <= labels[name]
            for grouped in re.findall(r"by \((\w+)\)", target["expr"]):
                assert all(grouped in labels[name] for name in metrics_of({"targets": [target]}))
            for shown in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(shown in labels[name] for name in metrics_of({"targets": [target]}))


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        assert place["h"] > 0
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        assert panel["datasource"] == {"uid": "${datasource}", "type": "prometheus"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$(?:\{(\w+)\}|([a-z]\w*))", json.dumps(DASHBOARD)))
    assert {a or b for a, b in used} == set(variables)
    assert DASHBOARD["uid"]
    assert "id" not in DASHBOARD  # Grafana gives its own
