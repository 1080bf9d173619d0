"""Engines that repeat `teacher_cache.work` on many machines, and the manifests that start them."""
