"""P4D: perception decoders, losses, and the targets they compare with. All that your own training loop needs."""
