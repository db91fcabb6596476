"""Distances between distributions: on a grid (dissimilarity), or in the features of a network."""
