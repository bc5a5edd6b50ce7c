"""A language model of random weights, small enough for any host, and the same model as a plain reference."""

from pathlib import Path

import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(folder: Path) -> Path:
    """Write a Llama with random weights and a byte-level tokenizer to ``folder``; logits with a spread of about 2."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2TokenizerFast

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
