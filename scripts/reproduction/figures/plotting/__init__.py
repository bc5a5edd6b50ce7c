"""Figures: one file per kind, drawn in the language of ``style``."""
