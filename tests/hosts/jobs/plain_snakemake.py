"""A workflow of two rules, run by the command that people type."""

import subprocess
import sys
import tempfile
from pathlib import Path

SNAKEFILE = """
rule total:
    input: expand("{n}.txt", n=range(3))
    output: "total.txt"
    shell: "cat {input} > {output}"

rule number:
    output: "{n}.txt"
    shell: "echo {wildcards.n} > {output}"
"""

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "Snakefile").write_text(SNAKEFILE)
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", "--directory", name]
    done = subprocess.run([*command, "--snakefile", name + "/Snakefile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print((folder / "total.txt").read_text().split(), "4 of 4 steps (100%) done" in done.stderr)
    # The loggers that a host offers are those that it brings.
    words = subprocess.run([command[0], "--help"], capture_output=True, text=True, check=True).stdout
    print(next(line.strip() for line in words.splitlines() if line.strip().startswith("--logger ")))
