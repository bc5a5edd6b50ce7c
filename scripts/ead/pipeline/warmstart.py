"""Make the base model of the small scales: a Llama-class transformer, trained from scratch on demonstrations.

The supervised warm start plays the role of the pretrained model in the paper: it gives a policy that solves
some problems some of the time, which reinforcement learning can then improve.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ead import seeds
from ead.pipeline.countdown import VOCABULARY, Demonstrator, Problem

PAD, EOS = "<pad>", "<eos>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
IGNORED = -100  # torch's cross-entropy skips labels with this value


@dataclass(frozen=True)
class WarmStart:
    """Hyperparameters of the supervised warm start (AdamW, linear warm-up, linear decay to zero)."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    betas: tuple[float, float] = (0.9, 0.98)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the task; an unknown word is an error. Its size is the model's vocabulary."""
    words = {word: index for index, word in enumerate([PAD, EOS, *VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(words))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    mlp_size: int,
    max_positions: int,
    seed: int,
) -> LlamaForCausalLM:
    """Return a randomly initialised model with tied embeddings, reproducible from ``seed``."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=mlp_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=max_positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.05,
        )
    )


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    demonstrator: Demonstrator,
    settings: WarmStart,
    *,
    root_seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train ``model`` in place on demonstrations for ``problems``; return the loss (nats per token) by step."""
    rng = seeds.generator(root_seed, "warm start", "demonstrations")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=settings.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / settings.warmup_steps, 1 - step / settings.steps),
    )
    losses = []
    model.train()
    for step in range(settings.steps):
        batch = [problems[i] for i in rng.integers(len(problems), size=settings.batch_size)]
        inputs, labels = _batch(batch, demonstrator, tokenizer, rng)
        logits = model(input_ids=inputs, attention_mask=inputs != tokenizer.pad_token_id).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        report(step + 1, losses[-1])
    return losses


def _batch(problems, demonstrator, tokenizer, rng):
    """Right-padded token ids [B, L] and labels [B, L] that leave out the prompt and the padding."""
    inputs, labels = [], []
    for problem in problems:
        prompt = tokenizer.encode(problem.prompt)
        response = [*tokenizer.encode(demonstrator.respond(problem, rng)), tokenizer.eos_token_id]
        inputs.append(torch.tensor(prompt + response))
        labels.append(torch.tensor([IGNORED] * len(prompt) + response))
    return (
        pad_sequence(inputs, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )
