"""P4D: perception decoders, losses, and the targets they compare with. All that a training loop of one's own needs."""
