"""Two trainings of one machine pass weights to their samplers at once, through verl's own sender and receiver."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

from reproduction.cluster.verl_environment import environment
from reproduction.config import Verl
from reproduction.engines.verl.configuration import MARK

# One training: rounds of weights that only it has, and a sampler that looks at what arrives; both start together.
TRAINING = """
import asyncio, os, sys, threading, time
from pathlib import Path
import reproduction.cluster.verl_cpu
import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender
from reproduction.engines.verl import sockets

number, rounds, folder, theirs = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
handle = sockets.own(theirs)
(folder / f"ready_{number}").touch()
while len(list(folder.glob("ready_*"))) < 2:
    time.sleep(0.01)
for step in range(rounds):
    seen = []
    def look(weights, last):
        seen.extend(float(weight.mean()) for _, weight in weights)
    receiver = BucketedWeightReceiver(handle, torch.device("cpu"), use_shm=True)
    sampler = threading.Thread(target=receiver.receive_weights, args=(look,))
    sampler.start()
    sent = [(f"w{place}", torch.full((300_000,), 100.0 * number + step)) for place in range(4)]
    sender = BucketedWeightSender(handle, bucket_size_mb=2, use_shm=True)
    asyncio.run(sender.async_send_weights(iter(sent)))
    sampler.join()
    assert seen == [100.0 * number + step] * 4, (number, step, seen)
"""


def test_two_trainings_pass_weights_at_once_and_each_sampler_gets_its_own(tmp_path):
    theirs = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock"  # what verl calls both
    variables = {**os.environ, **environment(Verl(device="cpu"))}
    folders = [Path(f"/tmp/ead-{os.getuid()}/verl-test-{os.getpid()}-{number}") for number in range(2)]
    trainings = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINING, str(number), "20", str(tmp_path), theirs],
            env={**variables, MARK: folders[number].name.removeprefix("verl-")},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for training in trainings:
            _, problem = training.communicate(timeout=300)
            assert training.returncode == 0, problem
        assert [list(folder.iterdir()) for folder in folders] == [[], []]
    finally:
        for training, folder in zip(trainings, folders, strict=True):
            training.kill()
            folder.rmdir()
