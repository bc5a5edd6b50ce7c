"""EAD with TIS in a verl training of your own:
python examples/verl_train.py FOLDER TRAIN.parquet VALIDATION.parquet VERL_OVERRIDE..."""

import json
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq

from ead.schedule import Annealed

folder = Path(sys.argv[1]).absolute()
folder.mkdir(parents=True, exist_ok=True)
# verl does not tell a rollout from a validation: the rows do, each by the agent loop that answers it. Their numbers
# name their random streams, so that copies of a prompt get responses of their own.
for name, source in (("ead_rollout", sys.argv[2]), ("ead_validation", sys.argv[3])):
    rows = pq.read_table(source)
    rows = rows.append_column("agent_name", [[name] * len(rows)]).append_column("ead_row", [range(len(rows))])
    pq.write_table(rows, folder / f"{name}.parquet")
loop = "ead.integrations.verl.AnnealedAgentLoop"
schedules = {"ead_rollout": Annealed().to_dict(), "ead_validation": None}
loops = [
    {"name": name, "_target_": loop, "schedule": schedule, "stream": [0, name]}
    for name, schedule in schedules.items()
]
(folder / "agent_loops.yaml").write_text(json.dumps(loops))  # JSON is YAML

rollout, correction = "actor_rollout_ref.rollout", "algorithm.rollout_correction"
overrides = [
    f"data.train_files={folder}/ead_rollout.parquet",
    f"data.val_files={folder}/ead_validation.parquet",
    f"{rollout}.name=vllm",
    f"{rollout}.temperature=1.0",  # the schedule does the rest
    f"{rollout}.calculate_log_probs=true",
    f"{rollout}.logprobs_mode=processed_logprobs",  # of the distribution really sampled from
    f"{rollout}.agent.agent_loop_config_path={folder}/agent_loops.yaml",
    f"{correction}.rollout_is=token",
    f"{correction}.rollout_is_threshold=2.0",
    f"{correction}.bypass_mode=false",
]
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # vLLM 0.24's second takes no logits processors
os.execv(sys.executable, [sys.executable, "-m", "verl.trainer.main_ppo", *overrides, *sys.argv[4:]])
