"""EAD in SGLang. In another shell, in an environment that has ead too:
python -m sglang.launch_server --model-path MODEL --host 127.0.0.1 --enable-custom-logit-processor
Then: python examples/sglang_server.py http://127.0.0.1:30000"""

import json
import sys
from urllib.request import Request, urlopen

from ead.integrations.sglang import request_parameters
from ead.schedule import Annealed

ead = request_parameters(Annealed(), step=0)
sampling_params = {"temperature": 1.0, "max_new_tokens": 64, "custom_params": ead["custom_params"]}
body = {
    "text": "What is 12 + 30? Let's think step by step.",
    "sampling_params": sampling_params,
    "custom_logit_processor": ead["custom_logit_processor"],
}
header = {"Content-Type": "application/json"}
with urlopen(Request(f"{sys.argv[1]}/generate", json.dumps(body).encode(), header)) as reply:
    print(json.load(reply)["text"])
