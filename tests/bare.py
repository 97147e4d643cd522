"""The slow way, without skgate: bare hooks and plain transformers calls, prompt by prompt."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch
from shifted import steered_part

HARMLESS, HARMFUL = ["boil", "stop", "sat"], ["kill", "ran", "away"]
THINGS = ["egg", "process now", "mat", "there the cat", "who"]
PROMPTS = [f"{verb} {thing}" for verb in HARMLESS + HARMFUL for thing in THINGS]
Y = np.repeat([0, 1], 15)
LANGUAGE = np.tile(["de", "en", "fr"], 10)
GREEDY = {"do_sample": False, "max_new_tokens": 6}


def bare_ids(tokenizer, prompt, **kwargs):
    """Token ids of a prompt (or a conversation) as ``generate`` would get them: a (1, n) tensor."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    encoded = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, **kwargs
    )
    return encoded["input_ids"]


def bare_activations(model, ids, layer, blocks=None, position=None):
    """What a block gives for one prompt at ``position``, or the mean, by a hook of its own.

    At no position in particular: at those that are read by default, side by side.
    """
    seen = []

    def look(module, args, output):
        seen.append((output[0] if isinstance(output, tuple) else output).detach())

    handle = (blocks or find_blocks(model))[layer].register_forward_hook(look)
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        handle.remove()
    (hidden,) = seen
    rows = [
        hidden[0].float().mean(dim=0) if one == "mean" else hidden[0, one].float()
        for one in ([-1, "mean"] if position is None else [position])
    ]
    return torch.cat(rows).numpy()


def bare_row(model, ids, source):
    """What a gate reads of one prompt: at each place in turn, by a pass of its own."""
    columns = {"last": -1, "instruction": -3}  # (two tokens follow in the template of the tests)
    parts = [
        bare_activations(model, ids, layer, position=columns.get(position, position))
        for layer, position in source.places
    ]
    return np.concatenate(parts)


def bare_rows(model, tokenizer, prompts, layer, **kwargs):
    """Activations of several prompts, each by a forward pass of its own."""
    rows = [bare_activations(model, bare_ids(tokenizer, p, **kwargs), layer) for p in prompts]
    return np.stack(rows)


def find_blocks(model):
    """The text blocks, by the paths where transformers has them."""
    for path in ("model.language_model.layers", "model.layers", "transformer.h", "encoder.layer"):
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    raise AssertionError(f"a {type(model).__name__} has its blocks elsewhere")


def bare_generate(model, tokenizer, prompt, edit=None, layer=None, **options):
    """Reply to one prompt, greedily, with an edit of a block's output or without."""
    ids = bare_ids(tokenizer, prompt) if not torch.is_tensor(prompt) else prompt
    with torch.no_grad(), _editing(model, layer, edit):
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            **{**GREEDY, **options},
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def bare_steered(model, tokenizer, prompt, gate, layer, strength):
    """Decide on the bare activation, then generate with the edit, one prompt alone."""
    ids = bare_ids(tokenizer, prompt)
    score = gate.harm_score(bare_activations(model, ids, layer)[None])[0]
    v = torch.tensor(steered_part(gate), dtype=torch.float32)
    alpha = strength * gate.projection_gap_
    seen = [0]

    def edit(hidden):
        start, seen[0] = seen[0], seen[0] + hidden.shape[1]
        for column in range(hidden.shape[1]):
            h = hidden[0, column].clone()
            if score <= 0:
                hidden[0, column] = h - (h @ v) * v
            elif start + column >= ids.shape[1] - 1:
                hidden[0, column] = h + alpha * v
        return hidden

    return score, bare_generate(model, tokenizer, ids, edit, layer)


@contextmanager
def _editing(model, layer, edit):
    if edit is None:
        yield
        return

    def hook(module, args, output):
        hidden = edit((output[0] if isinstance(output, tuple) else output).clone())
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = find_blocks(model)[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def let_harmful_words_share(model, tokenizer):
    """Give the harmful words something in common, in place: then a gate can be fitted."""
    embeddings = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(embeddings.shape[1], generator=generator)
    ids = [tokenizer.convert_tokens_to_ids(word) for word in HARMFUL]
    with torch.no_grad():
        embeddings[ids] += 2 * common
    return model
