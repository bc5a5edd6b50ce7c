"""From a GGUF file to a model folder in Hugging Face format.

Covers what the project imports: Llama-class models with a byte-level BPE tokenizer. transformers can load such
files too, but only with another package (accelerate), and it takes the first special token for the end of the
text, which would let no response end.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

_CONTROL = 3  # GGUF's type of a special token

# How text is cut into words before byte-pair encoding, by the name GGUF gives it.
_PRE_TOKENIZERS = {
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
}


def convert(source: str | Path, folder: str | Path) -> dict[str, int]:
    """Write weights (float32, safetensors), configuration and tokenizer of the GGUF file ``source``.

    Returns how many tensors had which storage type. Raises ``ValueError`` for an architecture, a tokenizer or
    a tensor that is not covered.
    """
    folder = Path(folder)
    reader = GGUFReader(source)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    if metadata["general.architecture"] != "llama":
        raise ValueError(
            f"{source}: architecture {metadata['general.architecture']!r}; only 'llama' is covered"
        )

    weights = _weights(
        reader, metadata["llama.attention.head_count"], metadata["llama.attention.head_count_kv"]
    )
    special = {
        name: metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding", "unknown")
    }
    config = LlamaConfig(
        vocab_size=metadata["llama.vocab_size"],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=_shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default", "rope_theta": _shortest(metadata["llama.rope.freq_base"])},
        tie_word_embeddings="lm_head.weight" not in weights,
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["padding"],
        dtype="float32",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if config.tie_word_embeddings:
        missing = [name for name in missing if name != "lm_head.weight"]
    if missing or unexpected:
        raise ValueError(f"{source}: tensors are missing: {missing}, or unknown: {unexpected}")
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=special["bos"], eos_token_id=special["eos"], pad_token_id=special["padding"]
    )
    model.save_pretrained(folder)
    _write_tokenizer(metadata, special, folder)

    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    return dict(sorted(types.items()))


def _weights(reader: GGUFReader, heads: int, key_value_heads: int) -> dict[str, torch.Tensor]:
    weights = {}
    for tensor in reader.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        stem = tensor.name.removesuffix(".weight")
        if stem in _NAMES:
            name = _NAMES[stem]
        else:
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{_LAYER_NAMES[part]}"
            if part in ("attn_q", "attn_k"):
                values = _halves(values, heads if part == "attn_q" else key_value_heads)
        weights[f"{name}.weight"] = torch.from_numpy(values)
    return weights


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo GGUF's order of the rotary dimensions: pairs (0, 1), (2, 3), ... become halves (0, 2, ..., 1, 3, ...).

    ``weight`` has shape (heads * head size, inputs).
    """
    outputs, inputs = weight.shape
    pairs = weight.reshape(heads, outputs // heads // 2, 2, inputs)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(outputs, inputs))


def _shortest(value: float) -> float:
    """Return the shortest decimal that is the same 32-bit number: 1e-05 was stored as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _write_tokenizer(metadata: dict[str, Any], special: dict[str, int], folder: Path) -> None:
    kind, cut = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != "gpt2" or cut not in _PRE_TOKENIZERS:
        raise ValueError(f"tokenizer {kind!r} with pre-tokenizer {cut!r} is not covered")
    tokens = metadata["tokenizer.ggml.tokens"]
    controls = [
        index for index, type_ in enumerate(metadata["tokenizer.ggml.token_type"]) if type_ == _CONTROL
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in controls],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[cut]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }
    # In the order and layout the tokenizers library writes, so that its checksum can be compared.
    text = json.dumps(tokenizer, indent=2, ensure_ascii=False)
    path = folder / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        bos_token=tokens[special["bos"]],
        eos_token=tokens[special["eos"]],
        pad_token=tokens[special["padding"]],
        unk_token=tokens[special["unknown"]],
        additional_special_tokens=[tokens[special["bos"]], tokens[special["eos"]]],
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=metadata["tokenizer.chat_template"],
    ).save_pretrained(folder)
    path.write_text(text, encoding="utf-8")  # save_pretrained writes the same tokenizer in its own layout
