# config.yaml is read strictly before Snakemake reads it: a repeated key, a wrong encoding and a file that is no
# mapping are explained, and nothing in it is run as a template.

from snakemake.exceptions import WorkflowError

from reproduction.config import ConfigurationError
from reproduction.plan import read_files

try:
    read_files("config.yaml")
except ConfigurationError as error:
    raise WorkflowError(str(error)) from None
