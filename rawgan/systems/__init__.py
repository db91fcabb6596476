"""Trainings that are not one generator and one discriminator of a Recipe, a file each."""
