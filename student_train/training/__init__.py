"""One run: trainer, optimizer, ranks, sharding, checkpoints, metrics."""
