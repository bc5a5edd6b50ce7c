"""Real data sets: one schema for all of them, their sources, and the check for overlap between them.

``schema``         the columns of results/data/{dataset}.parquet, their reader and writer
``table``          workflow/datasets.yaml: source, revision, checksum, prompt of each data set
``sources``        local folder or hub, checksums, rows
``adapters``       from a source's columns to a problem and its answer
``prompts``        the messages a problem is asked with
``prepare``        all of it together, and the data card
``contamination``  problems that a training and an evaluation set share
"""

from reproduction.data.schema import SCHEMA, DatasetError, make_row, read_dataset, write_dataset
