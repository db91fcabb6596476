"""How far apart two distributions are: numbers on a grid (dissimilarity), or pictures in a classifier's features."""
