"""The plain-torch model against Hugging Face's, and its files."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ead import seeds
from reproduction.config import load_scale
from reproduction.models.tokenizer import Tokenizer
from reproduction.models.transformer import Shape, Transformer
from reproduction.tasks import countdown
from reproduction.training import warmstart

SIZES = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


@pytest.fixture(
    params=[
        (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
        (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False, "rope_theta": 5e5}),
        (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    ],
    ids=["llama-tied", "llama-untied", "qwen2"],
)
def pair(request, tmp_path):
    """A Hugging Face model with random weights, and ours read from the folder it was saved to."""
    cls, config, options = request.param
    torch.manual_seed(0)
    theirs = cls(config(**SIZES, **options)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path)
    return theirs, Transformer.load(tmp_path)


def test_logits_and_gradients_are_hugging_faces(pair):
    theirs, ours = pair
    tokens = torch.randint(2, 50, (3, 20), generator=torch.Generator().manual_seed(1))
    expected = theirs(tokens).logits
    found = ours.logits(ours(tokens))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    expected.square().mean().backward()
    found.square().mean().backward()
    layer, reference = ours.layers[1], theirs.model.layers[1]
    joint = torch.cat([getattr(reference.self_attn, f"{x}_proj").weight.grad for x in "qkv"])
    torch.testing.assert_close(layer.in_halves(layer.qkv.grad), joint, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(layer.down.grad, reference.mlp.down_proj.weight.grad, atol=1e-5, rtol=1e-3)


def test_reading_token_by_token_gives_the_logits_of_the_whole(pair):
    _, ours = pair
    tokens = torch.randint(2, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = ours.logits(ours(tokens))
        cache = ours.new_cache(3, 12)
        for t in range(12):
            positions = torch.full((3, 1), t)
            one = ours.read(tokens[:, t : t + 1], positions, cache, t, None)
            torch.testing.assert_close(one, whole[:, t], atol=1e-5, rtol=1e-4)


def test_saved_weights_load_in_transformers_to_the_bit(pair, tmp_path):
    theirs, ours = pair
    folder = tmp_path / "saved"
    folder.mkdir()
    ours.save(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    expected = dict(theirs.named_parameters())
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn'"),
        ({"eos_token_id": None}, "eos_token_id"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ],
)
def test_what_is_not_supported_is_refused(change, message):
    config = {"model_type": "llama", **SIZES, "rms_norm_eps": 1e-6} | change
    with pytest.raises(ValueError, match=message):
        Shape.from_config(config)


def test_weights_that_do_not_fit_are_refused(pair, tmp_path):
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(ValueError, match="has shape .* config.json asks for"):
        Transformer.load(tmp_path)


def test_the_base_model_and_its_tokenizer_load_in_transformers(tmp_path):
    definition = load_scale("mini").models["tiny"]
    model = warmstart.build_model(definition, countdown.VOCABULARY, seeds.torch_generator(0, "weights"))
    model.save(tmp_path)
    warmstart.write_tokenizer(tmp_path, countdown.VOCABULARY)
    ours, theirs = Tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert len(ours) == len(theirs) == model.shape.vocabulary
    messages = [{"role": "user", "content": "Numbers 3 6 7 target 16 ?"}]
    encoded = ours.encode_chat(messages)
    assert encoded == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    response = [*ours.encode(r"Let us try : \boxed{ 3 + 6 }"), theirs.eos_token_id, theirs.pad_token_id]
    assert ours.decode([response]) == theirs.batch_decode([response], skip_special_tokens=True)
    with pytest.raises(Exception, match="UNK"):
        ours.encode("a word that the task lacks")
    tokens = torch.tensor([encoded])
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(model.logits(model(tokens)), reference(tokens).logits, atol=1e-5, rtol=1e-4)
