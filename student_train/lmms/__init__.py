"""A plugin for lmms-eval: students as a model of its own, and published benchmarks as tasks. Needs lmms-eval installed."""

from __future__ import annotations

from pathlib import Path

TASKS = Path(__file__).parent / "tasks"
"""The folder for its ``--include_path``."""
