"""A Llama- or Qwen2-class causal language model in plain torch, read and written in Hugging Face format.

Written out rather than imported for two reasons that add up over hundreds of short jobs: a general
implementation takes seconds to import, and at small sizes it spends most of a decoding step outside the
matrix products. The query, key and value projections are one matrix here, and so are the gate and up
projections. Tests hold logits and gradients against the Hugging Face implementation.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from reproduction.files import load_json

SUPPORTED = ("llama", "qwen2")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, from its config.json."""

    vocabulary: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    rope_theta: float
    norm_eps: float
    tied: bool
    attention_bias: bool
    eos: tuple[int, ...]
    pad: int

    @classmethod
    def from_config(cls, config: dict[str, Any], generation: dict[str, Any] | None = None) -> "Shape":
        """Read Hugging Face's ``config.json`` and ``generation_config.json``.

        Raises ValueError for a model class or a feature that this implementation lacks.
        """
        kind = config.get("model_type")
        if kind not in SUPPORTED:
            raise ValueError(
                f"model_type {kind!r} is not supported in process; supported: {', '.join(SUPPORTED)}"
            )
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        for key, found, supported in (
            ("hidden_act", config.get("hidden_act", "silu"), "silu"),
            ("rope_type", rope.get("rope_type", "default"), "default"),
            ("use_sliding_window", config.get("use_sliding_window", False), False),
            ("mlp_bias", config.get("mlp_bias", False), False),
        ):
            if found != supported:
                raise ValueError(f"{key} = {found!r} is not supported in process; supported: {supported!r}")
        eos = (generation or {}).get("eos_token_id", config.get("eos_token_id"))
        if eos is None:
            raise ValueError("the model names no eos_token_id, so a response would never end")
        eos = tuple(eos) if isinstance(eos, list) else (eos,)
        pad = config.get("pad_token_id")
        heads = config["num_attention_heads"]
        return cls(
            vocabulary=config["vocab_size"],
            hidden=config["hidden_size"],
            mlp=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            positions=config["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta", 10000.0)),
            norm_eps=config["rms_norm_eps"],
            tied=config.get("tie_word_embeddings", False),
            attention_bias=kind == "qwen2" or config.get("attention_bias", False),
            eos=eos,
            pad=eos[0] if pad is None else pad,
        )


class Layer(nn.Module):
    """One block: attention and a gated MLP, each behind a root-mean-square norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.attention_norm = nn.Parameter(torch.ones(shape.hidden))
        self.qkv = nn.Parameter(torch.empty(queries + 2 * keys, shape.hidden))
        self.qkv_bias = nn.Parameter(torch.zeros(queries + 2 * keys)) if shape.attention_bias else None
        self.out = nn.Parameter(torch.empty(shape.hidden, queries))
        self.mlp_norm = nn.Parameter(torch.ones(shape.hidden))
        self.gate_up = nn.Parameter(torch.empty(2 * shape.mlp, shape.hidden))
        self.down = nn.Parameter(torch.empty(shape.hidden, shape.mlp))

    def project(self, hidden: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [B, heads, L, D], rotated keys and values [B, kv_heads, L, D].

        ``rotation`` [B or 1, L, 1, D / 2] are complex numbers of absolute value 1.
        """
        joint = _product_of_normalised(hidden, self.attention_norm, self.qkv, self.shape, self.qkv_bias)
        joint = joint.unflatten(-1, (-1, self.shape.head_dim))
        rotating, values = joint.split((self.shape.heads + self.shape.kv_heads, self.shape.kv_heads), 2)
        pairs = torch.view_as_complex(rotating.unflatten(-1, (-1, 2)))
        rotated = torch.view_as_real(pairs * rotation).flatten(-2).transpose(1, 2)
        queries, keys = rotated.split((self.shape.heads, self.shape.kv_heads), 1)
        return queries, keys, values.transpose(1, 2)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Return the attention block's output [B, L, hidden]."""
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=causal,
            enable_gqa=self.shape.heads != self.shape.kv_heads,
        )
        return F.linear(attended.transpose(1, 2).flatten(2), self.out)

    def attend_one(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """The same for one query per row and a cache's keys and values [B, kv_heads, L, D], without gradient."""
        rows, heads = len(queries), self.shape.kv_heads
        # Two batched products are up to five times faster here than the fused attention, made for long queries.
        queries = queries.view(rows, heads, -1, self.shape.head_dim) * self.shape.head_dim**-0.5
        scores = queries @ keys.transpose(-1, -2)
        if mask is not None:
            scores.masked_fill_(~mask, -torch.inf)
        return F.linear((scores.softmax(-1) @ values).view(rows, 1, -1), self.out)

    def in_pairs(self, joint: Tensor) -> Tensor:
        """Return rows of a joint projection as they are held: what rotates together, side by side.

        Hugging Face has the number that is rotated with the i-th of a head D / 2 rows below it.
        """
        return self._exchange(joint, (-1, 2, self.shape.head_dim // 2))

    def in_halves(self, joint: Tensor) -> Tensor:
        """Return the rows in Hugging Face's order."""
        return self._exchange(joint, (-1, self.shape.head_dim // 2, 2))

    def _exchange(self, joint: Tensor, sizes: tuple[int, int, int]) -> Tensor:
        rotating = (self.shape.heads + self.shape.kv_heads) * self.shape.head_dim
        exchanged = joint[:rotating].unflatten(0, sizes).transpose(1, 2).flatten(0, 2)
        return torch.cat((exchanged, joint[rotating:]))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        gate, up = _product_of_normalised(hidden, self.mlp_norm, self.gate_up, self.shape).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down)


def _rotates(names: list[str]) -> bool:
    """Whether the tensors of these names are a layer's query, key and value projections."""
    return ".q_proj." in names[0]


class _Normalised(torch.autograd.Function):
    """``hidden / rms(hidden)``; torch's own root-mean-square norm takes three times as long with its gradient."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = norm.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        normalised = hidden * scale
        context.save_for_backward(normalised, scale)
        return normalised

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        normalised, scale = context.saved_tensors
        along = (gradient * normalised).mean(-1, keepdim=True)
        return torch.addcmul(gradient, normalised, along, value=-1).mul_(scale), None


def _product_of_normalised(
    hidden: Tensor, norm: Tensor, matrix: Tensor, shape: Shape, bias: Tensor | None = None
) -> Tensor:
    """Return the product of a root-mean-square norm with weights ``norm`` and a matrix [out, hidden]."""
    if torch.is_grad_enabled():
        # Weights multiply the matrix, which has fewer rows than a micro-batch has tokens.
        return F.linear(_Normalised.apply(hidden, shape.norm_eps), matrix * norm, bias)
    return F.linear(F.rms_norm(hidden, norm.shape, norm, shape.norm_eps), matrix, bias)


class Transformer(nn.Module):
    """The model; ``forward`` for training, ``read`` for decoding with a cache."""

    def __init__(self, shape: Shape, config: dict[str, Any]):
        super().__init__()
        self.shape = shape
        self.config = config  # as read, to be written beside every checkpoint
        self.embedding = nn.Parameter(torch.empty(shape.vocabulary, shape.hidden))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        self.head = None if shape.tied else nn.Parameter(torch.empty(shape.vocabulary, shape.hidden))
        frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.outer(torch.arange(shape.positions).float(), frequencies)
        rotation = torch.polar(torch.ones_like(angles), angles)
        self.register_buffer("rotation", rotation, persistent=False)  # [positions, head_dim / 2], complex

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def initialise(self, generator: torch.Generator, scale: float) -> None:
        """Draw every matrix from a normal distribution with standard deviation ``scale``; norms stay 1."""
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0.0, scale, generator=generator)
            for layer in self.layers:  # drawn in Hugging Face's order
                layer.qkv.copy_(layer.in_pairs(layer.qkv))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the final hidden states [B, L, hidden] of ``tokens`` [B, L], padded on the right if at all."""
        length = tokens.shape[1]
        rotation = self.rotation[:length].unsqueeze(1)
        hidden = F.embedding(tokens, self.embedding)
        for layer in self.layers:
            hidden = hidden + layer.attend(*layer.project(hidden, rotation), mask=None, causal=True)
            hidden = hidden + layer.feed_forward(hidden)
        return F.rms_norm(hidden, self.norm.shape, self.norm, self.shape.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits, float32, for hidden states [..., hidden]."""
        return F.linear(hidden, self.embedding if self.head is None else self.head).float()

    def new_cache(self, rows: int, length: int) -> list[Tensor]:
        """Keys and values, a tensor [2, rows, kv_heads, length, head_dim] for each layer."""
        shape = (2, rows, self.shape.kv_heads, length, self.shape.head_dim)
        return [torch.empty(shape, dtype=self.embedding.dtype, device=self.device) for _ in self.layers]

    def cache_bytes(self, length: int) -> int:
        """Memory of one row of a cache of ``length`` columns."""
        numbers = len(self.layers) * 2 * self.shape.kv_heads * length * self.shape.head_dim
        return numbers * self.embedding.element_size()

    def read(
        self, tokens: Tensor, positions: Tensor, cache: list[Tensor], start: int, mask: Tensor | None
    ) -> Tensor:
        """Read ``tokens`` [B, L] into the cache at columns start … start + L - 1; return the last logits [B, V].

        ``positions`` [B, L] or [1, L] are rotary positions; ``mask`` broadcasts to [B, 1, L, start + L], True where
        attended, and None attends to everything.
        """
        end = start + tokens.shape[1]
        rotation = self.rotation[positions].unsqueeze(2)
        hidden = F.embedding(tokens, self.embedding)
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            queries, new_keys, new_values = layer.project(hidden, rotation)
            keys[:, :, start:end], values[:, :, start:end] = new_keys, new_values
            so_far = (keys[:, :, :end], values[:, :, :end])
            if end == start + 1:
                attended = layer.attend_one(queries, *so_far, mask)
            else:
                attended = layer.attend(queries, *so_far, mask, causal=False)
            hidden = hidden + attended
            hidden = hidden + layer.feed_forward(hidden)
        last = F.rms_norm(hidden[:, -1], self.norm.shape, self.norm, self.shape.norm_eps)
        return self.logits(last)

    # --- Hugging Face format -------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Transformer":
        """Read a local folder in Hugging Face format, as float32. Only safetensors are read.

        Raises ValueError if the class is not supported or the weights do not fit config.json.
        """
        folder = Path(folder)
        config = load_json(folder / "config.json")
        generation = folder / "generation_config.json"
        model = cls(
            Shape.from_config(config, load_json(generation) if generation.exists() else None),
            config,
        )
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ValueError(f"{folder}: no weights in safetensors format")
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
        with torch.no_grad():
            for parameter, names in model._hugging_face_names():
                missing = [name for name in names if name not in weights]
                if missing:
                    raise ValueError(f"{folder}: the weights lack {missing[0]!r}")
                tensor = torch.cat([weights.pop(name) for name in names])
                if tensor.shape != parameter.shape:
                    raise ValueError(
                        f"{folder}: {names[0]} has shape {tuple(tensor.shape)}, "
                        f"config.json asks for {tuple(parameter.shape)}"
                    )
                parameter.copy_(model.layers[0].in_pairs(tensor) if _rotates(names) else tensor)
        if model.head is None:
            weights.pop("lm_head.weight", None)
        if weights:
            raise ValueError(
                f"{folder}: weights that the model has no place for: {', '.join(sorted(weights)[:3])}"
            )
        return model.to(device)

    def save(self, folder: Path) -> None:
        """Write ``config.json``, ``generation_config.json`` and ``model.safetensors`` as Hugging Face does."""
        weights = {}
        for parameter, names in self._hugging_face_names():
            sizes = [self._rows(name) for name in names] if len(names) > 1 else [len(parameter)]
            joint = parameter.detach().cpu()
            joint = self.layers[0].in_halves(joint) if _rotates(names) else joint
            for name, tensor in zip(names, joint.split(sizes), strict=True):
                weights[name] = tensor.contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        generation = {"eos_token_id": list(self.shape.eos), "pad_token_id": self.shape.pad}
        for name, values in (("config.json", self.config), ("generation_config.json", generation)):
            (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def _rows(self, name: str) -> int:
        """Rows of one of the projections that a joint matrix holds."""
        if name.split(".")[-2] == "q_proj":
            return self.shape.heads * self.shape.head_dim
        if name.split(".")[-2] in ("k_proj", "v_proj"):
            return self.shape.kv_heads * self.shape.head_dim
        return self.shape.mlp

    def _hugging_face_names(self) -> Iterator[tuple[nn.Parameter, list[str]]]:
        """Each parameter with the names, in Hugging Face format, of the tensors it holds one below the other."""
        yield self.embedding, ["model.embed_tokens.weight"]
        yield self.norm, ["model.norm.weight"]
        if self.head is not None:
            yield self.head, ["lm_head.weight"]
        for index, layer in enumerate(self.layers):
            prefix = f"model.layers.{index}"
            projections = [f"{prefix}.self_attn.{x}_proj" for x in "qkv"]
            yield layer.attention_norm, [f"{prefix}.input_layernorm.weight"]
            yield layer.qkv, [f"{name}.weight" for name in projections]
            if layer.qkv_bias is not None:
                yield layer.qkv_bias, [f"{name}.bias" for name in projections]
            yield layer.out, [f"{prefix}.self_attn.o_proj.weight"]
            yield layer.mlp_norm, [f"{prefix}.post_attention_layernorm.weight"]
            yield layer.gate_up, [f"{prefix}.mlp.{x}_proj.weight" for x in ("gate", "up")]
            yield layer.down, [f"{prefix}.mlp.down_proj.weight"]
