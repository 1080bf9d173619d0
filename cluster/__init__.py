"""Engines that repeat `teacher_cache.jobs.unit_worker` on many machines, and the manifests that start them."""
