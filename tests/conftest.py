"""Fixtures that need no download."""

from __future__ import annotations

import os
import sys

import pytest
from tiny import CHAT_TEMPLATE, WORDS, make_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="module", autouse=True)
def _rows_of_other_modules_are_forgotten():
    """Equal rows that were read elsewhere would leave the source of these open."""
    from skgate._provenance import forget

    forget()


@pytest.fixture(scope="session")
def tokenizer():
    """A word tokenizer that adds a BOS by itself, as Llama's does; no pad token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|think|>"]
    vocabulary = {word: i for i, word in enumerate([*special, *dict.fromkeys(WORDS)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(special)
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture
def model():
    return make_model("llama")


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """A saved tiny Llama, as a path."""
    path = tmp_path / "tiny-llama"
    make_model("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def empty_cache():
    """No test sees activations of another."""
    if "skgate.activations.store._row_caches" in sys.modules:
        sys.modules["skgate.activations.store._row_caches"].memory_cache.clear()


@pytest.fixture(scope="module")
def cluster():
    """A local Ray cluster of two CPUs: one for an actor, one for reading and writing."""
    import ray.data

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()
