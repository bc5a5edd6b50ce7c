"""Make the base model of the small scales: a Llama-class transformer, trained from scratch on demonstrations.

The supervised warm start plays the role of the pretrained model in the paper: it gives a policy that solves
some problems some of the time, which reinforcement learning can then improve.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence

from ead import seeds
from reproduction.config import WarmStartModel
from reproduction.models.transformer import Shape, Transformer
from reproduction.tasks import GeneratedTask
from reproduction.tasks.problem import Question
from reproduction.training.adamw import AdamW

PAD, EOS = "<pad>", "<eos>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
INITIAL_SCALE = 0.05
# In the manifest of a model that was made here, and of one that was made elsewhere.
SOURCE = "trained from scratch: reproduction.training.warmstart"
PUBLISHED = f"published with the project; {SOURCE}"
IGNORED = -100  # torch's cross-entropy skips labels with this value


def token_ids(vocabulary: Sequence[str]) -> dict[str, int]:
    """Return word -> token id: the padding, the end of a sequence, then the task's words in order.

    Raises ValueError for a word that stands there more than once: ids would have gaps.
    """
    words = [PAD, EOS, *vocabulary]
    ids = {word: index for index, word in enumerate(words)}
    if len(ids) < len(words):
        repeated = next(word for index, word in enumerate(words) if ids[word] != index)
        raise ValueError(f"the task's vocabulary holds {repeated!r} more than once")
    return ids


def write_tokenizer(folder: Path, vocabulary: Sequence[str]) -> None:
    """Write a tokenizer in Hugging Face format: one token per word of the task, an unknown word is an error."""
    tokenizer = Tokenizer(models.WordLevel(token_ids(vocabulary)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([PAD, EOS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def build_model(
    definition: WarmStartModel, vocabulary: Sequence[str], generator: torch.Generator
) -> Transformer:
    """Return a randomly initialised model. Its vocabulary is the tokenizer's, as vLLM and verl require."""
    ids = token_ids(vocabulary)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(ids),
        "hidden_size": definition.hidden_size,
        "intermediate_size": definition.mlp_size,
        "num_hidden_layers": definition.layers,
        "num_attention_heads": definition.heads,
        "num_key_value_heads": definition.heads,
        "head_dim": definition.hidden_size // definition.heads,
        "max_position_embeddings": definition.max_positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids[EOS],
        "pad_token_id": ids[PAD],
        "initializer_range": INITIAL_SCALE,
        "dtype": "float32",
    }
    model = Transformer(Shape.from_config(config), config)
    model.initialise(generator, INITIAL_SCALE)
    return model


def train(
    definition: WarmStartModel,
    task: GeneratedTask,
    problems: Sequence[Question],
    *,
    root_seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Transformer, list[float]]:
    """Train a model on demonstrations for ``problems``; return it and the loss (nats per token) by step.

    AdamW with linear warm-up and linear decay to zero; only response tokens count.
    """
    weights = seeds.torch_generator(root_seed, "warm start", "weights")
    model, ids = build_model(definition, task.vocabulary, weights), token_ids(task.vocabulary)
    rng = seeds.generator(root_seed, "warm start", "demonstrations")
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in range(definition.steps):
        batch = [problems[i] for i in rng.integers(len(problems), size=definition.batch_size)]
        inputs, labels = _batch([(p.prompt, task.demonstrate(p, definition, rng)) for p in batch], ids)
        kept = labels[:, 1:] != IGNORED
        logits = model.logits(model(inputs)[:, :-1][kept])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][kept])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = min((step + 1) / definition.warmup_steps, 1 - step / definition.steps)
        optimizer.step(definition.learning_rate * share)
        losses.append(loss.item())
        report(step + 1, losses[-1])
    return model, losses


def _batch(pairs: Sequence[tuple[str, str]], ids: Mapping[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids [B, L] and labels [B, L] that leave out the prompt and the padding."""
    inputs, labels = [], []
    for prompt, response in pairs:
        asked = [ids[word] for word in prompt.split()]
        answered = [*(ids[word] for word in response.split()), ids[EOS]]
        inputs.append(torch.tensor(asked + answered))
        labels.append(torch.tensor([IGNORED] * len(asked) + answered))
    return (
        pad_sequence(inputs, batch_first=True, padding_value=ids[PAD]),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )
