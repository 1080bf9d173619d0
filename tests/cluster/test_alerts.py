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
# What a run exports each minute, and the alert that fires at a minute of it; none where it is empty.
CASES: dict[str, tuple[dict[str, str], str, str]] = {
    "it goes on": (
        {
            f"ray_p4d_units_total{{{STORE}}}": "0+3x60",
            f"ray_p4d_units_left{{{STORE}}}": "500-3x60",
            f"ray_p4d_teachers{{{STORE}}}": "4x60",
        },
        "45m",
        "",
    ),
    "nothing is committed": (
        {
            f"ray_p4d_units_total{{{STORE}}}": "7x60",
            f"ray_p4d_units_left{{{STORE}}}": "500x60",
            f"ray_p4d_teachers{{{STORE}}}": "4x60",
        },
        "45m",
        "P4DNothingCommitted",
    ),
    "no teacher": (
        {
            f"ray_p4d_units_total{{{STORE}}}": "0+3x60",
            f"ray_p4d_units_left{{{STORE}}}": "500x60",
            f"ray_p4d_teachers{{{STORE}}}": "0x60",
        },
        "20m",
        "P4DNoTeachers",
    ),
    "many fail": (
        {
            f'ray_p4d_clips_total{{{STORE},status="committed"}}': "0+80x60",
            f'ray_p4d_clips_total{{{STORE},status="failed"}}': "0+20x60",
            f'ray_p4d_failures_total{{{STORE},reason="decode_error"}}': "0+20x60",
        },
        "45m",
        "P4DManyFailures",
    ),
    "few fail": (
        {
            f'ray_p4d_clips_total{{{STORE},status="committed"}}': "0+99x60",
            f'ray_p4d_clips_total{{{STORE},status="failed"}}': "0+1x60",
            f'ray_p4d_failures_total{{{STORE},reason="decode_error"}}': "0+1x60",
        },
        "45m",
        "",
    ),
    "a node is set aside": ({f"ray_p4d_nodes_set_aside_total{{{STORE}}}": "0x30 1x30"}, "40m", "P4DNodeSetAside"),
}


def test_prometheus_reads_the_rules_and_fires_when_it_should(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH (Debian's package prometheus has it): whether the rules fire was not tried")
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True, capture_output=True)
    tests = []
    for name, (series, when, expected) in CASES.items():
        fired = [
            {"eval_time": when, "alertname": rule["alert"], "exp_alerts": alerts_of(rule) if rule["alert"] == expected else []}
            for rule in RULES
        ]
        values = [{"series": metric, "values": value} for metric, value in series.items()]
        tests.append({"name": name, "interval": "1m", "input_series": values, "alert_rule_test": fired})
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", "tests.yaml"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts_of(rule: dict[str, Any]) -> list[dict[str, Any]]:
    reason = {"reason": "decode_error"} if "reason" in rule["expr"] else {}
    labels = {"store": "s3://b/s", **reason}
    told = {"$labels.store": "s3://b/s", "$labels.reason": "decode_error", "$value | humanizePercentage": "20%"}
    summary = re.sub(r"\{\{ (.*?) \}\}", lambda found: told[found[1]], rule["annotations"]["summary"])
    annotations = rule["annotations"] | {"summary": summary}
    return [{"exp_labels": rule["labels"] | labels, "exp_annotations": annotations}]
