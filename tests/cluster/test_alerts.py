"""Prometheus' rules ask for metrics that there are, and fire when they should: by its own tool where that is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.metrics import METRICS

ALERTS = Path(__file__).resolve().parents[2] / "cluster" / "prometheus" / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
OF_A_RUN = {"store", "fingerprint"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    asked = re.findall(r"\bray_(p4d_\w+)", rule["expr"])
    assert asked
    labels = OF_A_RUN.union(*(METRICS[name].labels for name in asked))
    grouped = {name.strip() for names in re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"]) for name in names.split(",")}
    assert grouped <= labels
    told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert told <= labels
    assert all(rule["annotations"][part] for part in ("summary", "description"))


STORE = 'store="s3://b/s"'
WORKING = {"units_left": "500-3x60", "teachers": "4x60", "min_teachers": "4x60", "nodes_set_aside": "0x60"}
"""The gauges of a run that goes on, each minute."""


def clips(committed: int, failed: int) -> dict[str, str]:
    """The counters of a run with so many clips a minute."""
    return {
        'clips_total{status="committed"}': f"0+{committed}x60",
        'clips_total{status="failed"}': f"0+{failed}x60",
        'failures_total{reason="decode_error"}': f"0+{failed}x60",
    }


# What a run exports each minute, when to look, the alert that has fired by then, if any, and its value.
CASES: dict[str, tuple[dict[str, str], str, str, str]] = {
    "it goes on": (WORKING, "45m", "", ""),
    "nothing was ever committed": (WORKING | {"units_left": "500x60"}, "36m", "P4DNothingCommitted", "500"),
    "nothing is committed any more": (WORKING | {"units_left": "500-3x10 470x50"}, "50m", "P4DNothingCommitted", "470"),
    "nothing for a while": (WORKING | {"units_left": "500-3x10 470x20 469x30"}, "50m", "", ""),
    "all is done": (WORKING | {"units_left": "0x60", "teachers": "0x60"}, "50m", "", ""),
    "no teacher": (WORKING | {"teachers": "0x60"}, "20m", "P4DTooFewTeachers", "0"),
    "too few teachers": (WORKING | {"teachers": "4x30 3x30"}, "45m", "P4DTooFewTeachers", "3"),
    "too few teachers for a moment": (WORKING | {"teachers": "4x30 3x5 4x25"}, "45m", "", ""),
    "few teachers for the last units": (WORKING | {"units_left": "62-1x60", "teachers": "4x58 3 2"}, "59m", "", ""),
    "many fail": (WORKING | clips(80, 20), "45m", "P4DManyFailures", "20%"),
    "many fail at once, and then none": (
        WORKING | clips(80, 0) | {'failures_total{reason="decode_error"}': "_x30 300x30"},
        "40m",
        "P4DManyFailures",
        "12.5%",
    ),
    "many failed long ago": (WORKING | clips(80, 0) | {'failures_total{reason="decode_error"}': "_x5 300x55"}, "50m", "", ""),
    "few fail": (WORKING | clips(99, 1), "45m", "", ""),
    "a node is set aside": (WORKING | {"nodes_set_aside": "0x30 1x30"}, "31m", "P4DNodeSetAside", "1"),
}


def series_of(metric: str) -> str:
    """As Prometheus has it: with Ray's prefix and the run's labels."""
    name, _, labels = metric.partition("{")
    return f"ray_p4d_{name}{{{STORE}" + (f",{labels}" if labels else "}")


def test_prometheus_reads_the_rules_and_fires_when_it_should(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH (Debian's package prometheus has it): whether the rules fire was not tried")
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True, capture_output=True)
    tests = []
    for name, (series, when, expected, value) in CASES.items():
        fired = [
            {
                "eval_time": when,
                "alertname": rule["alert"],
                "exp_alerts": [alert_of(rule, value)] if rule["alert"] == expected else [],
            }
            for rule in RULES
        ]
        values = [{"series": series_of(metric), "values": values} for metric, values in series.items()]
        tests.append({"name": name, "interval": "1m", "input_series": values, "alert_rule_test": fired})
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", "tests.yaml"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alert_of(rule: dict[str, Any], value: str) -> dict[str, Any]:
    reason = {"reason": "decode_error"} if "reason" in rule["expr"] else {}
    labels = {"store": "s3://b/s", **reason}
    told = {
        "$labels.store": "s3://b/s",
        "$labels.reason": "decode_error",
        "$value | humanizePercentage": value,
        "$value": value,
    }
    summary = re.sub(r"\{\{ (.*?) \}\}", lambda found: told[found[1]], rule["annotations"]["summary"])
    annotations = rule["annotations"] | {"summary": summary}
    return {"exp_labels": rule["labels"] | labels, "exp_annotations": annotations}
