"""Samples drawn from checkpoints, graded, kept, and read."""
