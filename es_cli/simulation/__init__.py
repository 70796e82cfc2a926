"""Measurements, ground truth and operator from images, in files that the other commands read."""
