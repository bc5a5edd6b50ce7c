"""The arm of grading.py that is verl's: its scorer on its own pool of four processes, called from threads as its reward
loop calls it. To be started with an interpreter that has verl."""

import os
from concurrent.futures import ThreadPoolExecutor

from arms import Measured, serve
from verl.utils.reward_score import math_verify


def score(responses: list[str], answers: list[str]) -> Measured:
    # As many threads as asyncio's run_in_executor, which verl uses, takes.
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4)) as threads:
        scores = list(threads.map(math_verify.compute_score, responses, answers))
    return {"scores": scores}


if __name__ == "__main__":
    serve(score)
