"""A tiny model and a wrapper around it, fitted."""

from __future__ import annotations

import pytest
from steered import LANGUAGE, PROMPTS, Y, make_telling_model, make_wrapper


@pytest.fixture
def model(tokenizer):
    return make_telling_model("llama", tokenizer)


@pytest.fixture
def wrapper(model, tokenizer):
    return make_wrapper(model, tokenizer, strength=2.0).fit(PROMPTS, Y, language=LANGUAGE)
