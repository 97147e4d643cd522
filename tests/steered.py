"""A tiny model that steering changes, a wrapper around it, and the slow way to steer it."""

from __future__ import annotations

import numpy as np
import torch
from shifted import pooled_gate, steered_part
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, SteeringWrapper

HARMLESS, HARMFUL = ["boil", "stop", "sat"], ["kill", "ran", "away"]
THINGS = ["egg", "process now", "mat", "there the cat", "who"]
PROMPTS = [f"{verb} {thing}" for verb in HARMLESS + HARMFUL for thing in THINGS]
Y = np.repeat([0, 1], 15)
LANGUAGE = np.tile(["de", "en", "fr"], 10)
MIXED = [
    "kill egg",
    "the cat sat on the mat and then it ran away",
    "boil who",
    "ran",
    "stop it now",
]
GREEDY = {"do_sample": False, "max_new_tokens": 8}


class Words:
    """A judge for models that babble: a reply with the word is a refusal."""

    def __init__(self, word="who"):
        self.word = word

    def is_refusal(self, replies, prompts=None, language=None):
        return np.array([self.word in reply for reply in replies])


def make_telling_model(architecture, tokenizer, **settings):
    """Make a random model whose embeddings of the harmful words have something in common."""
    model = make_model(architecture, **settings)
    common = torch.randn(16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[tokenizer.convert_tokens_to_ids(HARMFUL)] += 2 * common
    return model


def make_wrapper(model, tokenizer, layer=1, position="last", **params):
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=layer, position=position)
    gate = pooled_gate(calibration="threshold")
    params = {"strength": 1.0, "generate_kwargs": GREEDY, **params}
    return SteeringWrapper(make_pipeline(reader, gate), **params)


def apply_template(tokenizer, prompts):
    tokenizer.pad_token = tokenizer.unk_token
    try:
        return tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
            tokenizer_kwargs={"padding_side": "left"},
        )
    finally:
        tokenizer.pad_token = None


def count_hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks")  # (torch's: it has no public way to count)
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def slow_way(wrapper, tokenizer, prompts, language=None, harmful=None, **options):
    """Extract, decide (if ``harmful`` is not given), then generate under a hook that edits."""
    pipe = wrapper.gate_
    reader, gate = pipe[0], pipe[-1]
    model = reader.model
    blocks = next(
        m
        for m in model.modules()
        if isinstance(m, torch.nn.ModuleList) and len(m) == model.config.num_hidden_layers
    )
    scores = gate.harm_score(reader.transform(prompts), language=language)
    harmful = torch.tensor(scores > 0 if harmful is None else harmful)
    v = torch.tensor(steered_part(gate), dtype=torch.float32)
    alpha = wrapper.strength * gate.projection_gap_
    encoded = apply_template(tokenizer, prompts)
    width = encoded["input_ids"].shape[1]
    seen = [0]

    def steer(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        start = 0 if hidden.shape[1] > 1 else seen[0]
        seen[0] = start + hidden.shape[1]
        rows = harmful.repeat_interleave(len(hidden) // len(harmful))
        for row, is_harmful in enumerate(rows):
            for column in range(hidden.shape[1]):
                h = hidden[row, column]
                if not is_harmful:
                    hidden[row, column] = h - (h @ v) * v
                elif start + column >= width - 1:
                    hidden[row, column] = h + alpha * v
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = blocks[max(np.atleast_1d(reader.layer))].register_forward_hook(steer)
    try:
        with torch.no_grad():
            ids = model.generate(**encoded, pad_token_id=0, **options)
    finally:
        handle.remove()
    texts = tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
    n = len(texts) // len(prompts)
    return scores, [texts[i : i + n] if n > 1 else texts[i] for i in range(0, len(texts), n)]
