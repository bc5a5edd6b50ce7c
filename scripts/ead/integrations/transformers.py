"""EAD inside transformers: a logits processor for ``generate``.

::

    processor = AnnealedTemperature(Annealed(), prompt_length=inputs["input_ids"].shape[1])
    model.generate(**inputs, **PLAIN_SAMPLING, logits_processor=[processor])

``generate`` runs its penalties, biases and masks before a caller's processors, its own temperature, min-p, top-k and
top-p after them, and turns on ``top_k = 50`` by itself. A model brings more of them in its ``generation_config.json``
(Qwen2.5-Instruct has a repetition penalty). :data:`PLAIN_SAMPLING` switches all of these off, so that EAD alone shapes
the distribution; a ``top_p`` given in its place filters the annealed distribution. ``generate`` tells a processor
nothing of these settings, so a temperature other than 1 cannot be refused here: it multiplies EAD's.

With ``return_dict_in_generate=True``, ``output_scores=True`` gives the annealed logits: their log-softmax is
the behaviour policy's log-probabilities. ``output_logits=True`` gives the logits before EAD.

Supported: sampling and greedy decoding, batches padded on the left, several returned sequences, prompts given
as embeddings (``prompt_length=0``), continuing a response already begun (pass the original prompt's length),
and assisted decoding (the assistant is annealed too, which keeps its proposals valid).
Not supported: an assistant with another tokenizer, whose tokens have other positions; beam search, whose scores stop
being log-probabilities once divided; continuous batching (``generate_batch``), which takes no processor.
"""

import torch
from transformers import LogitsProcessor

from ead import rules
from ead.schedule import Schedule, Switched

PLAIN_SAMPLING = {
    **{"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
    # What generate leaves out unless it is asked for, by the caller or by the model's generation_config.json.
    **{"min_p": None, "top_h": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
    **{"repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0},
    **{"no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0},
    **{"guidance_scale": None, "sequence_bias": None, "watermarking_config": None},
    **{"bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None},
    **{"min_length": 0, "min_new_tokens": None, "exponential_decay_length_penalty": None},
    **{"forced_bos_token_id": None, "forced_eos_token_id": None},
}
"""Arguments of ``generate`` under which it samples from the processed scores exactly, whatever the model's defaults."""


class AnnealedTemperature(LogitsProcessor):
    """Divide the scores of response token ``t`` by ``schedule.temperature(t, step)``, or do what its rule says.

    Args:
        schedule: any schedule of :mod:`ead.schedule`; of ``held_entropy`` what it resolves to at the step.
        prompt_length: width in tokens of the prompt given to ``generate``, padding included; all rows of a
            batch padded on the left share it, and their responses begin at the same column.
        step: the trainer's global step, >= 0.

    Raises:
        TypeError: ``schedule`` is not a schedule.
        ValueError: ``prompt_length`` or ``step`` is negative or not an integer, or the schedule follows a training;
            when called, a sequence is shorter than ``prompt_length``.
    """

    def __init__(self, schedule: Schedule, prompt_length: int, step: int = 0) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be one of ead.schedule, found {schedule!r}")
        if not isinstance(prompt_length, int) or isinstance(prompt_length, bool) or prompt_length < 0:
            raise ValueError(f"prompt_length must be an integer >= 0, found {prompt_length!r}")
        schedule.temperature(0, step)  # raises on a bad step now, not in the middle of generate
        self.schedule = schedule
        self.prompt_length = prompt_length
        self.step = step

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return ``scores`` of shape (rows, vocabulary) divided by the temperature of the next position."""
        position = input_ids.shape[1] - self.prompt_length
        if position < 0:
            raise ValueError(
                f"the sequence has {input_ids.shape[1]} tokens, fewer than prompt_length = "
                f"{self.prompt_length}; pass the width of generate's prompt, inputs['input_ids'].shape[1], and no "
                "assistant with another tokenizer"
            )
        # Not in place: generate keeps the same tensor as the raw logits it returns.
        if self.schedule.rule is not None:
            temperature = self.schedule.temperature(position, self.step)
            # In float32: a model may give scores in half precision, and log-probabilities are wanted of them.
            scores = scores.float()
            return rules.apply(self.schedule.rule, scores, temperature, self.schedule.rule_numbers, position)
        if isinstance(self.schedule, Switched):
            return scores / self._by_row(input_ids[:, self.prompt_length :], position).to(scores)
        return scores / self.schedule.temperature(position, self.step)

    def _by_row(self, drawn: torch.LongTensor, position: int) -> torch.Tensor:
        """Return the temperatures of a schedule that switches, shape (rows, 1)."""
        hits = torch.isin(drawn, torch.tensor(self.schedule.tokens, device=drawn.device))
        # Of the first hit; where there is none, a place that is not reached.
        none = hits.new_ones(len(hits), 1)
        switched_at = torch.cat([hits, none], 1).int().argmax(1) + 1
        return torch.from_numpy(self.schedule.temperature(position, self.step, switched_at))[:, None]
