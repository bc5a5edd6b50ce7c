# Run by Snakemake inside the new environment, from the checkout's root. By hand: the same two lines.
set -e
pip install --no-deps -r envs/gpu.txt
pip install --no-deps --no-build-isolation -e .
