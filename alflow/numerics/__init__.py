"""Algorithms on arrays: no files, no atoms objects."""
