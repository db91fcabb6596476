"""Training steps of systems that are not one G and one D: losses, gradients, updates."""
