"""Targets for trainers: open a store, read clips, datasets, samplers, a disk tier, several stores as one."""
