"""A tokenizer with its chat template, read from a local folder in Hugging Face format.

The fast tokenizers library does the work; loading through transformers would cost each job seconds of import.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from reproduction.files import load_json

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


class Tokenizer:
    """Encodes chats and decodes responses."""

    def __init__(self, folder: Path):
        """Read ``tokenizer.json`` and the chat template of ``folder``.

        Raises ValueError if the folder has no chat template: a prompt could not be told from a continuation.
        """
        self.folder = Path(folder)
        self._fast = FastTokenizer.from_file(str(self.folder / "tokenizer.json"))
        self._fast.no_truncation()  # a published file may ask for it
        self._fast.no_padding()
        config = load_json(self.folder / "tokenizer_config.json")
        file = self.folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
        if not source:
            raise ValueError(f"{folder}: the tokenizer has no chat template")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        self._template = environment.from_string(source)
        special = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token")}
        # Older files wrap a special token in an object.
        self._special = {k: v["content"] if isinstance(v, dict) else v for k, v in special.items()}

    def __len__(self) -> int:
        return self._fast.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, without special tokens added."""
        return self._fast.encode(text, add_special_tokens=False).ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a prompt: the chat so far, and the opening of the assistant's turn."""
        return self.encode(self._rendered(messages))

    def chat_lengths(self, chats: Sequence[Sequence[Mapping[str, str]]]) -> list[int]:
        """Return the number of tokens of each prompt, on all cores."""
        texts = [self._rendered(messages) for messages in chats]
        return [len(found.ids) for found in self._fast.encode_batch_fast(texts, add_special_tokens=False)]

    def _rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self._template.render(
            messages=messages, add_generation_prompt=True, tools=None, **self._special
        )

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each response, special tokens left out."""
        return self._fast.decode_batch([list(ids) for ids in responses], skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files to another folder."""
        for name in FILES:
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, folder / name)


def _raise(message: str) -> None:
    raise ValueError(f"the chat template refuses these messages: {message}")


def eos_tokens(folder: Path) -> tuple[int, ...]:
    """Return the ids that end a response, as generation_config.json or else config.json of ``folder`` names them.

    Raises ValueError if neither does: a response would never end.
    """
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        eos = load_json(path).get("eos_token_id") if path.exists() else None
        if eos is not None:
            return tuple(eos) if isinstance(eos, list) else (eos,)
    raise ValueError(f"{folder}: the model names no eos_token_id, so a response would never end")
