"""Data sets: one schema for all of them, their sources, and the check for overlap between them."""

from ead.pipeline.data.schema import SCHEMA, DatasetError, make_row, read_dataset, write_dataset

__all__ = ["SCHEMA", "DatasetError", "make_row", "read_dataset", "write_dataset"]
