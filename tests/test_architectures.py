"""Every architecture is read and steered as plain transformers does it, or refused by name."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "architectures.py"
DIVERSE = {
    "axk2": "exact",  # sparse attention: ties between keys depend on padding
    "bart": "exact",  # a wrapper around the decoder that knows no embeddings
    "bert": "exact",  # the blocks' owner gets no token ids
    "gemma3": "exact",  # multimodal, with sliding windows
    "gemma4": "exact",  # layers of different shapes
    "git": "exact",  # padding is masked in the prompt, not in what follows
    "llama": "exact",
    "mamba": "exact",  # a cache of states, which does not count tokens
    "openai-gpt": "exact",  # blocks that return lists
    "deepseek_v4": "several residual streams",  # four dimensions
    "cpmant": "another order",  # more tokens than it was given
}


# Than the version of docs/supported_models.md; before, some were built otherwise, or not at all.
OLDER = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        return importlib.import_module("architectures")
    finally:
        sys.path.remove(str(SCRIPT.parent))


@pytest.mark.filterwarnings("ignore")  # transformers' own, about tiny configurations
@pytest.mark.parametrize("model_type", DIVERSE)
def test_diverse_architectures_are_exact_or_refused(script, model_type):
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    expected = DIVERSE[model_type]
    reading, steering = script.compare(model_type, "AutoModelForCausalLM")
    if expected == "exact" and OLDER:
        for found in (reading, steering):
            assert found.startswith(("exact", "refused: Got ", "config could not be built"))
    elif expected == "exact":
        assert (reading, steering) == ("exact", "exact")
    else:
        assert reading.startswith("refused: Got ")
        assert expected in reading


@pytest.mark.slow
def test_no_architecture_differs(tmp_path):
    results = tmp_path / "results.jsonl"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--results", results],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert sum(row["steering"].startswith("exact") for row in rows) > 100
