"""Engines that repeat `teacher_cache.jobs.unit_worker` on many machines, and the manifests that start them."""

import os

# Set before Ray is imported, as it reads them only then: no usage statistics leave the user's machines, and a worker without a
# GPU share keeps the devices its container gives it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
