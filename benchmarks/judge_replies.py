"""Generate replies for judges to be measured on, and read them with the model that wrote them.

    python benchmarks/judge_replies.py MODEL FOLDER

MODEL is the folder of a chat model (the stored figures are of Qwen2.5-Coder-1.5B-Instruct, on one
H200 in bfloat16). PolyRefuse: 30 harmful and 30 harmless val prompts in eight languages, and 100 of
each of the train split in four; 24 new tokens, unsteered, steered as a gate decides, and with every
harmless prompt steered towards refusal. Writes into FOLDER, outside of the repository, because the
replies answer harmful prompts: ``replies.csv``, ``activations.npy`` (block 15, last token), and
``sheet.csv`` for readers (the stored ones read 170 replies in each language, drawn by strength).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import fetch_polyrefuse
from skgate.judges import PhraseJudge, sample_for_review
from skgate.steering._sweeps import generate_alike, generate_unsteered

SOURCES = ["en", "de", "fr", "es", "it", "nl"]
LANGUAGES = ["en", "de", "es", "ru", "ja", "ko", "th", "yo"]
STRENGTHS = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5]
OPTIONS = {"max_new_tokens": 24}


def evenly_spaced(prompts: pd.DataFrame, n: int) -> pd.DataFrame:
    """Take n harmful and n harmless prompts in each language."""
    parts = prompts.groupby(["language", "harmful"])
    return pd.concat(
        part.iloc[np.linspace(0, len(part) - 1, min(n, len(part))).astype(int)] for _, part in parts
    )


def generate(wrapper: SteeringWrapper, prompts: pd.DataFrame, block: int) -> list[pd.DataFrame]:
    """Generate at every strength, as the gate decides and with harmless prompts steered."""
    found = []
    harmless = prompts[~prompts["harmful"].astype(bool)]
    unit = wrapper.gate_[-1].projection_gap_
    for strength in STRENGTHS:
        wrapper.set_params(strength=strength)
        replies = wrapper.generate(prompts["prompt"], prompts["language"], **OPTIONS)
        arm = {"block": block, "strength": strength}
        found.append(prompts.assign(reply=replies, all_steered=0, **arm))
        if block == 17 and strength in (1.0, 1.5):
            replies = generate_alike(
                wrapper, harmless["prompt"].tolist(), OPTIONS, add=strength * unit
            )
            found.append(harmless.assign(reply=replies, all_steered=1, **arm))
    return found


def main(folder: str, out: str) -> None:
    frame = fetch_polyrefuse(languages=sorted({*SOURCES, *LANGUAGES})).frame
    train = evenly_spaced(frame[frame["split"] == "train"], 100)
    sources = train[train["language"].isin(SOURCES)]
    shots = frame[(frame["split"] == "train") & ~frame["language"].isin(SOURCES)]
    shots = evenly_spaced(shots, 4)
    prompts = pd.concat(
        [
            evenly_spaced(frame[(frame["split"] == "val") & frame["language"].isin(LANGUAGES)], 30),
            train[train["language"].isin(["en", "es", "fr", "de"])],
        ]
    )
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for block in (15, 17):
        reader = ActivationTransformer(model, tokenizer=tokenizer, layer=block, position="last")
        wrapper = SteeringWrapper(
            make_pipeline(reader, LatentGate(rank=6, C=1.0)), verbose=True, strength=1.0
        )
        wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
        wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
        if block == 15:
            replies = generate_unsteered(wrapper, prompts["prompt"].tolist(), OPTIONS)
            found.append(prompts.assign(reply=replies, all_steered=0))
        found += generate(wrapper, prompts, block)
    replies = pd.concat(found, ignore_index=True)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=15, position="last")
    conversations = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
        for prompt, reply in zip(replies["prompt"], replies["reply"], strict=True)
    ]
    activations = reader.transform(conversations)
    path = Path(out)
    path.mkdir(parents=True, exist_ok=True)
    replies.to_csv(path / "replies.csv", index=False)
    np.save(path / "activations.npy", activations.astype(np.float16))
    val = replies[replies["split"] == "val"]
    sample_for_review(
        val["reply"],
        prompts=val["prompt"],
        language=val["language"],
        refused=PhraseJudge().is_refusal(val["reply"]),
        n=1360,
        path=path / "sheet.csv",
        random_state=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
