"""Exploratory Annealed Decoding (EAD) and truncated importance sampling (TIS).

Two layers; imports point downwards only:

1. method, arrays in and out: ``schedule``, ``importance``, ``objective``, ``metrics``, ``statistics``,
   ``seeds``, ``verifier``
2. ``integrations``, one file per host library

The package ``reproduction`` beside it, which the Snakemake workflow runs, imports this one and is not
installed with it.
"""

__version__ = "0.1.0"
