"""Exploratory Annealed Decoding (EAD) and truncated importance sampling (TIS).

Three layers; imports point downwards only:

1. method, arrays in and out: ``schedule``, ``importance``, ``objective``, ``metrics``, ``statistics``,
   ``seeds``, ``verifier``
2. ``integrations``, one file per host library
3. ``pipeline``, what the Snakemake workflow runs
"""

__version__ = "0.1.0"
