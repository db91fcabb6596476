"""Training runs: options, loop, checkpoints."""
