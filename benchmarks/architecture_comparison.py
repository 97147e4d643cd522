"""Compare how skgate reads and steers one architecture with bare hooks and plain generation."""

from __future__ import annotations

import contextlib
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architecture_models import N_PROMPTS, build_model, make_prompts, make_tokenizer
from sklearn.pipeline import make_pipeline

import skgate
from skgate import ActivationTransformer, LatentGate, SteeringWrapper

PACKAGE = Path(skgate.__file__).parent
EXACT, REFUSED = "exact", "refused"
NOT_BUILT = "config could not be built"
NO_EFFECT = "exact, steering without effect"
ENCODER_DECODER = "encoder-decoder"

LAYER = 1  # the one that is steered
N_STEERED, N_TOKENS = 6, 8
STRENGTH = 4.0
TOLERANCE = 1e-4  # of the norm, in float32
GREEDY = {"do_sample": False, "max_new_tokens": N_TOKENS}


class NotBuilt(Exception):  # noqa: N818  (says nothing about skgate)
    """A model can't be built, or not run by transformers itself."""


class Found(Exception):  # noqa: N818  (a result)
    """What was found ends the comparison."""


# The slow way, without skgate


def first_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) else output


def find_blocks(model: Any) -> list[Any]:
    """Find the blocks, in what transformers calls the decoder first; none if not one per layer."""
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for part in (model.get_decoder(), model.base_model):
        lists = [
            (name.count("."), module)
            for name, module in part.named_modules()
            if isinstance(module, torch.nn.ModuleList)
            and len(module) == n_layers
            and not re.search("vision|visual|audio|speech|image", name)
        ]
        if lists:
            return list(min(lists, key=lambda found: found[0])[1])
    return []


@contextlib.contextmanager
def hooked(blocks: Sequence[Any], hooks: Sequence[Any]) -> Iterator[None]:
    """Add a forward hook to each block for the time being."""
    handles = [b.register_forward_hook(hook) for b, hook in zip(blocks, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def bare_rows(model: Any, ids: torch.Tensor) -> np.ndarray | None:
    """Read the last token at each block, shape (n_layers, d); None if a block gives none."""
    blocks = find_blocks(model)
    seen: dict[int, torch.Tensor] = {}

    def make_hook(layer: int) -> Any:
        def look(module: Any, args: Any, output: Any) -> None:
            seen[layer] = first_of(output).detach().clone()

        return look

    with torch.no_grad(), hooked(blocks, [make_hook(layer) for layer in range(len(blocks))]):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if not seen or len(seen) < len(blocks) or any(h.shape[:-1] != ids.shape for h in seen.values()):
        return None
    return np.stack([seen[layer][0, -1].float().numpy() for layer in range(len(blocks))])


def bare_reply(model: Any, tokenizer: Any, ids: torch.Tensor, edit: Any = None) -> str:
    """Reply to one prompt, with an edit of the steered block's output or without."""
    block = find_blocks(model)[LAYER]
    n_seen = 0

    def hook(module: Any, args: Any, output: Any) -> Any:
        nonlocal n_seen
        hidden = first_of(output).clone()
        start = 0 if hidden.shape[1] > 1 else n_seen
        n_seen = start + hidden.shape[1]
        edited = edit(hidden, start)
        if isinstance(output, tuple | list):
            return type(output)((edited, *output[1:]))
        return edited

    with torch.no_grad(), hooked([block] if edit else [], [hook] if edit else []):
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **GREEDY
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def make_edit(gate: LatentGate, n_tokens: int, harmful: bool) -> Any:
    """Add the direction from the last token of the prompt on, or ablate it at every token."""
    v = torch.tensor(gate.direction_, dtype=torch.float32)

    def edit(hidden: torch.Tensor, start: int) -> torch.Tensor:
        if not harmful:
            return hidden - (hidden @ v)[..., None] * v
        first = max(0, n_tokens - 1 - start)
        hidden[:, first:] += STRENGTH * gate.projection_gap_ * v
        return hidden

    return edit


# Comparisons


def is_far(actual: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether any row differs by more than rounding (a row: the last axis)."""
    error = np.linalg.norm(actual - expected, axis=-1)
    return not (error <= tolerance * np.linalg.norm(expected, axis=-1)).all()


def shorten(error: BaseException | str) -> str:
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = re.sub(r"0x[0-9a-f]+|\S*site-packages/", "", " ".join(text.split()))
    return text if len(text) <= 200 else text[:199] + "…"


@contextlib.contextmanager
def asking_skgate() -> Iterator[None]:
    """Tell an error that skgate raises on purpose from one that passes through it."""
    try:
        yield
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        own = Path(last.filename).is_relative_to(PACKAGE)
        if own and linecache.getline(last.filename, last.lineno or 0).strip().startswith("raise "):
            raise Found(f"{REFUSED}: {shorten(str(error))}") from error
        place = f"{Path(last.filename).name}:{last.lineno}"
        raise Found(f"fails: {shorten(error)} ({place})") from error


@contextlib.contextmanager
def asking_transformers(what: str) -> Iterator[None]:
    try:
        yield
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(f"{what}: {shorten(error)}") from error


def make_reader(model: Any, tokenizer: Any, layer: Any) -> ActivationTransformer:
    return ActivationTransformer(
        model,
        tokenizer=tokenizer,
        layer=layer,
        position="last",
        chat_template=False,
        store=False,
    )


def compare_reading(model: Any, tokenizer: Any, rows: np.ndarray | None) -> str:
    """Compare activations with those of bare hooks, of shape (n_prompts, n_layers, d)."""
    prompts = make_prompts()
    with asking_skgate():
        reader = make_reader(model, tokenizer, "all")
        alone = np.stack([reader.transform([prompt])[0] for prompt in prompts[:N_STEERED]])
        together = reader.transform(prompts)
        middle = make_reader(model, tokenizer, LAYER).transform(prompts)
    if rows is None:
        raise Found("differs: a bare hook finds no vector for each token, skgate gives some")
    n_layers = rows.shape[1]
    if is_far(alone.reshape(N_STEERED, n_layers, -1), rows[:N_STEERED]):
        return "differs: from a bare hook"
    if is_far(together.reshape(N_PROMPTS, n_layers, -1), rows) or is_far(middle, rows[:, LAYER]):
        return "differs: with other prompts in the batch"
    return EXACT


def compare_steering(model: Any, tokenizer: Any, rows: np.ndarray, ids: list[torch.Tensor]) -> str:
    """Compare steered replies with those of two passes."""
    prompts, chosen = make_prompts(), range(N_STEERED)
    X = rows[:, LAYER].astype(float)
    centered = X - X.mean(0)
    scores = centered @ np.linalg.svd(centered, full_matrices=False)[2][0]
    y = scores > np.median(scores[:N_STEERED])  # both classes are among those that are steered
    with asking_skgate():
        wrapper = SteeringWrapper(
            make_pipeline(make_reader(model, tokenizer, LAYER), LatentGate()),
            strength=STRENGTH,
            generate_kwargs=GREEDY,
        ).fit(prompts, y)
    gate = wrapper.gate_[-1]
    harmful = gate.harm_score(X) > 0
    if len(set(harmful[:N_STEERED])) < 2:
        raise NotBuilt("the gate decides alike about all prompts")
    with asking_transformers("transformers does not generate"):
        plain = [bare_reply(model, tokenizer, ids[i]) for i in chosen]
        edits = [make_edit(gate, ids[i].shape[1], harmful[i]) for i in chosen]
        expected = [bare_reply(model, tokenizer, ids[i], edits[i]) for i in chosen]
    with asking_skgate():
        replies = wrapper.generate(prompts[:N_STEERED])
    if replies != expected:
        n_wrong = sum(a != b for a, b in zip(replies, expected, strict=True))
        return f"differs: {n_wrong} of {N_STEERED} replies"
    return EXACT if expected != plain else NO_EFFECT


def compare(
    model_type: str, auto_class: str, on_built: Callable[[], Any] = lambda: None
) -> tuple[str, str]:
    """Compare one architecture; say what was found about reading and about steering.

    ``on_built`` is called when plain transformers has run the model, before skgate does.
    """
    tokenizer = make_tokenizer()
    ids = [torch.tensor([tokenizer(prompt)["input_ids"]]) for prompt in make_prompts()]
    reason = ""
    for std in (0.2, None):  # whichever lets the prompts' rows differ
        try:
            with asking_transformers("building"):
                model = build_model(model_type, auto_class, std)
            if getattr(model.config, "is_encoder_decoder", False):
                return ENCODER_DECODER, ENCODER_DECODER
            with asking_transformers("a plain forward pass"):
                found = [bare_rows(model, one) for one in ids]
            rows = None if any(one is None for one in found) else np.stack(found)
            check_rows(rows)
            break
        except NotBuilt as error:
            reason = reason or str(error)
    else:
        return f"{NOT_BUILT}: {reason}", f"{NOT_BUILT}: {reason}"
    on_built()
    try:
        reading = compare_reading(model, tokenizer, rows)
    except Found as result:
        reading = str(result)
    if rows is None or reading != EXACT:
        return reading, reading
    try:
        return reading, compare_steering(model, tokenizer, rows, ids)
    except (Found, NotBuilt) as result:
        return reading, str(result)


def check_rows(rows: np.ndarray | None) -> None:
    """See that the prompts' rows differ by far more than rounding."""
    if rows is None:
        return
    if not np.isfinite(rows).all():
        raise NotBuilt("activations are not finite")
    for layer in range(rows.shape[1]):
        X = rows[:, layer]
        distances = np.linalg.norm(X[:, None] - X[None], axis=-1)[np.triu_indices(len(X), 1)]
        if not distances.min() > 100 * TOLERANCE * np.linalg.norm(X, axis=1).max():
            raise NotBuilt("the prompts' activations hardly differ")
