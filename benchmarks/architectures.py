"""Which architectures of transformers skgate reads and steers exactly, and which it refuses.

    python benchmarks/architectures.py                         # all of them: half an hour
    python benchmarks/architectures.py llama openai-gpt        # some, by model type
    python benchmarks/architectures.py --results FILE --docs docs/supported_models.md

Each causal and multimodal architecture of the installed transformers is built tiny and random from
its configuration, in a process of its own with limited time and memory. Three things are compared
with what bare hooks and plain ``generate`` give, one prompt at a time:

- extraction: activations of all layers, each prompt alone;
- neighbours: the same, in batches of prompts of different lengths that begin alike;
- steering: replies of ``SteeringWrapper.generate``, which decides in the prefill and edits from
  then on, with replies of two passes: decide on the bare activation, then generate with a bare
  hook that edits.

``--results`` keeps finished rows in a file of JSON lines; another run goes on from there. The exit
status is 1 if a row differs or fails. Models that can't be built, or that plain transformers can't
run, say nothing about skgate: their rows say so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import linecache
import multiprocessing
import os
import re
import resource
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.auto import modeling_auto

import skgate
from skgate import ActivationTransformer, LatentGate, SteeringWrapper

PACKAGE = Path(skgate.__file__).parent
AUTO_CLASSES = {
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "AutoModelForMultimodalLM": getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {}),
}
SECONDS, GIBIBYTES = 60, 4  # that one architecture may take

EXACT, REFUSED = "exact", "refused"
NOT_BUILT = "config could not be built"
NO_EFFECT = "exact, steering without effect"
ENCODER_DECODER = "encoder-decoder"

N_LAYERS, WIDTH, N_HEADS, HEAD = 4, 64, 4, 16
VOCABULARY, N_WORDS = 128, 64  # ids 3 to 63 are words; 127 downwards stand for images and the like
# Sizes by the name of the setting; the first pattern that matches counts. They only ever shrink.
SIZES = {
    r"(^|_)(vocab_size|codebook_size)$|vocab_size_per_layer_input": VOCABULARY,
    r"^(n_layers?|layers|depth|num_blocks)$|num_(hidden_|decoder_|encoder_)?layers$": N_LAYERS,
    r"(encoder|decoder)_layers$|resampler_depth": N_LAYERS,
    r"attn_layer_offset|first_k_dense_replace|num_dense_layers|num_kv_shared_layers": 1,
    r"max_window_layers": 2,
    r"hidden_size_per_layer_input|^v_head_dim$|qk_(nope|rope)_head_dim": HEAD,
    r"^qk_head_dim$": 2 * HEAD,
    r"(head_dim|head_size|dim_head|d_head|d_kv|kv_channels|headdim|rotary_dim)$|_rank$": HEAD,
    r"mamba_(n|num)_heads$|n_mamba_heads": 2 * WIDTH // HEAD,
    r"(kv_heads|key_value_heads|key_heads|query_groups)$|kv_n_heads": N_HEADS // 2,
    r"(attention|value)?_?heads?$": N_HEADS,
    r"(_|^)(state_size|d_state)$": 8,
    r"mamba_d_ssm": 2 * WIDTH,
    r"n_groups?$|num_expert_group|topk_group|mamba_ngroups": 1,
    r"(num|routed|local)_experts$|zero_expert_num": 4,
    r"experts_per_tok(en)?$|moe_top_?k|^moe_k$": 2,
    r"intermediate_size|ffn_dim|ffn_hidden|feed_forward_size|^(d_ff|dff|dim_ff|n_inner)$": WIDTH,
    r"(mlp|expert)_dim$|intermediate_size_mlp": WIDTH,
    r"attention_hidden_size": 2 * WIDTH,
    r"hidden_(size|dim)(_global)?$|^(d_model|n_embd|dim|lru_width|embedding_size)$": WIDTH,
    r"(embed_dim|output_dim|projection_dim|proj_dim|emb_dim|embedding_dim|out_dim)$": WIDTH,
    r"max_(position_embeddings|target_positions|source_positions|seq_len|pos_emb)$": 64,
    r"^(n_positions|n_ctx|context_length|model_max_length)$": 64,
    r"sliding_window(_size)?$|attention_window_size|local_attention|attention_chunk_size": 8,
    r"^(mamba_)?chunk_size$|index_topk$|keep_window_size": 8,
    r"attn_layer_period|index_block_size|index_kpool": 2,
    r"index_topk_blocks": 4,
    r"adapter_in(put)?_(dim|size)": WIDTH,
    r"num_position_embeddings|num_embeddings": 16,
    r"hash_byte_group_vocab": VOCABULARY,
}
# Settings that a model needs and that its configuration leaves open.
MISSING: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "head_dim": HEAD,
    "num_key_value_heads": N_HEADS // 2,
    "indexer_n_heads": N_HEADS,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "vocabulary_map": {"<image>": VOCABULARY - 1},
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
# What the patterns get wrong, by model type.
_HYBRIDS = ["linear_attention", "hybrid"] * 2


def _mrope(*sections: int, **settings: float) -> dict[str, Any]:
    """Write rotary settings whose sections add up to half of a tiny head."""
    default = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(sections)}
    return {"rope_parameters": {**default, **settings}}


OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"sliding_attention": _mrope(2, 3, 3)["rope_parameters"]},
        "layer_types": ["sliding_attention"] * N_LAYERS,
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "ernie4_5_vl_moe_text": _mrope(3, 3, 2),
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "glm4v_moe_text": _mrope(1, 1, 2, partial_rotary_factor=0.5),
    "glm4v_text": _mrope(2, 3, 3),
    "glm_ocr_text": _mrope(2, 3, 3),
    "granite_speech_encoder": {"context_size": 8},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hunyuan_vl_text": _mrope(2, 2, 2, 2),
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "molmo2_adapter": {"vision_feature_layer": [1]},
    "mistral4": {"head_dim": 2 * HEAD},
    "paddleocr_vl_text": _mrope(2, 3, 3),
    "qwen2_5_omni_text": _mrope(2, 3, 3),
    "qwen2_5_vl_text": _mrope(2, 3, 3),
    "qwen2_vl_text": _mrope(2, 3, 3),
    "qwen2_5_omni_thinker": {"vision_start_token_id": 100},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 100},
    "step3p5": {"sliding_window": 8},
    "xlstm": {"chunk_size": 64},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": _HYBRIDS, "attention_head_dim": 2 * WIDTH // N_HEADS},
    "zamba2": {"layers_block_type": _HYBRIDS, "attention_head_dim": 2 * WIDTH // N_HEADS},
}

LAYER = 1  # the one that is steered
N_PROMPTS, N_STEERED, N_TOKENS = 24, 6, 8
STRENGTH = 4.0
TOLERANCE = 1e-4  # of the norm, in float32
GREEDY = {"do_sample": False, "max_new_tokens": N_TOKENS}


@dataclass
class Row:
    """What was found about an architecture."""

    model_type: str
    auto_class: str
    model_class: str
    reading: str
    steering: str

    @property
    def is_sound(self) -> bool:
        """Whether skgate is right about it, or refuses it, or it could not be tried."""
        return not any(
            found.startswith(("differs", "fails")) for found in (self.reading, self.steering)
        )


class NotBuilt(Exception):  # noqa: N818  (says nothing about skgate)
    """A model can't be built, or not run by transformers itself."""


class Found(Exception):  # noqa: N818  (a result)
    """What was found ends the comparison."""


# Models


def list_architectures() -> list[tuple[str, str, str]]:
    """Name every architecture: model type, auto class, model class."""
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for auto_class, classes in AUTO_CLASSES.items():
        for model_type, names in classes.items():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault((model_type, name), (model_type, auto_class, name))
    return sorted(found.values())


class _TokenIds:
    """Ids for the special tokens of a model and its parts, the same for the same name."""

    def __init__(self) -> None:
        self.ids = dict(TOKENS)

    def of(self, name: str) -> int:
        return self.ids.setdefault(name, VOCABULARY - 1 - (len(self.ids) - len(TOKENS)))


def shrink(config: Any, tokens: _TokenIds | None = None) -> Any:
    """Make a tiny configuration of the class of a given one, parts included."""
    is_part, tokens = tokens is not None, tokens or _TokenIds()
    settings: dict[str, Any] = {}
    stated = dict(vars(config))
    layers = [stated.get(name) for name in ("num_hidden_layers", "n_layer", "num_layers")]
    n_layers = next((n for n in layers if isinstance(n, int)), None)
    for name, value in stated.items():
        if isinstance(value, transformers.PreTrainedConfig):
            settings[name] = shrink(value, tokens)
        elif re.search(r"(token_id|token_index|^im_\w+_id|patch_id|codec_\w+_id)$", name):
            if value is not None or name in TOKENS:
                settings[name] = tokens.of(name)
        elif value is None:
            settings |= {name: MISSING[name]} if name in MISSING else {}
        elif isinstance(value, int) and not isinstance(value, bool):
            size = next((new for pattern, new in SIZES.items() if re.search(pattern, name)), value)
            if name == "num_key_value_heads" and value == stated.get("num_attention_heads"):
                size = N_HEADS
            if is_part or size < value:  # the whole may have other defaults for a part
                settings[name] = min(size, value)
        elif isinstance(value, list | tuple) and len(value) == n_layers:
            settings[name] = _shorten(list(value))
        elif isinstance(value, list) and name.endswith("token_ids"):
            settings[name] = [tokens.of(f"{name} {i}") for i in range(len(value))]
    if "expand" in stated and {"num_heads", "head_dim"} <= stated.keys():  # Mamba-2
        settings["num_heads"] = stated["expand"] * WIDTH // HEAD
    if "is_decoder" in stated:
        settings["is_decoder"] = True
    rope = stated.get("rope_parameters")
    if isinstance(rope, dict) and "mrope_section" in str(rope):
        settings["rope_parameters"] = _shrink_rope(rope)
    settings |= OVERRIDES.get(config.model_type, {})
    return type(config)(**settings)


def _shorten(values: list[Any]) -> list[Any]:
    """Keep the settings of as many layers as the tiny model has, of every kind if possible."""
    if not all(isinstance(value, str) for value in values):
        return [min(value, WIDTH) if type(value) is int else value for value in values[:N_LAYERS]]
    missing = [kind for kind in dict.fromkeys(values) if kind not in values[:N_LAYERS]]
    missing = missing[: N_LAYERS - 1]
    return values[: N_LAYERS - len(missing)] + missing


def _shrink_rope(rope: dict[str, Any]) -> dict[str, Any]:
    rope = {k: _shrink_rope(v) if isinstance(v, dict) else v for k, v in rope.items()}
    if "mrope_section" in rope:
        n_pairs = int(HEAD * rope.get("partial_rotary_factor", 1.0)) // 2
        parts = len(rope["mrope_section"])
        rope["mrope_section"] = [n_pairs // parts + (i < n_pairs % parts) for i in range(parts)]
    return rope


def build_model(model_type: str, auto_class: str, std: float | None) -> Any:
    """Build a tiny random model; ``std`` of the weights, None as transformers initializes them."""
    config = shrink(transformers.CONFIG_MAPPING[model_type]())
    torch.manual_seed(0)
    model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if std is not None and parameter.dim() > 1:
                parameter.normal_(std=std)
            elif not parameter.isfinite().all():
                parameter.zero_()
    if getattr(model, "generation_config", None) is not None:
        for name in ("eos_token_id", "forced_eos_token_id", "forced_bos_token_id"):
            setattr(model.generation_config, name, None)  # all replies have all tokens
    return model.eval()


def make_tokenizer() -> Any:
    """Make a tokenizer of words that shows every id of the tiny models."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False
    )


def make_prompts() -> list[str]:
    """Make prompts of 11 to 26 words that all begin with the same ten."""
    rng = np.random.default_rng(0)
    first = rng.integers(3, N_WORDS, 10)
    return [
        " ".join(f"w{i}" for i in [*first, *rng.integers(3, N_WORDS, n)])
        for n in rng.integers(1, 17, N_PROMPTS)
    ]


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


def compare(model_type: str, auto_class: str) -> tuple[str, str]:
    """Compare one architecture; say what was found about reading and about steering."""
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


# Processes


def _work(model_type: str, auto_class: str, results: Any) -> None:
    """Compare in a process of its own, which may take only so much memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = used + GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    results.send(compare(model_type, auto_class))


def try_architecture(model_type: str, auto_class: str, model_class: str) -> Row:
    """Compare one architecture in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(model_type, auto_class, sender))
    worker.start()
    sender.close()
    try:
        if receiver.poll(SECONDS):
            found = receiver.recv()
        else:
            found = [f"{NOT_BUILT}: it takes longer than {SECONDS} s"] * 2
    except EOFError:
        worker.join()
        found = [f"{NOT_BUILT}: its process ended with status {worker.exitcode}"] * 2
    finally:
        worker.kill()
        worker.join()
    return Row(model_type, auto_class, model_class, *found)


def try_all(names: Sequence[str] = (), results: Path | None = None) -> list[Row]:
    """Compare architectures, all or those of some model types; go on from earlier results."""
    rows: dict[tuple[str, str], Row] = {}
    torch.set_num_threads(1)  # threads don't survive a fork
    compare("llama", "AutoModelForCausalLM")  # imports what every process needs
    if results is not None and results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            row = Row(**json.loads(line))
            rows[row.model_type, row.model_class] = row
    chosen = [one for one in list_architectures() if not names or one[0] in names]
    for model_type, auto_class, model_class in chosen:
        if (model_type, model_class) in rows:
            continue
        row = try_architecture(model_type, auto_class, model_class)
        rows[model_type, model_class] = row
        print(f"{model_type} {model_class}: {row.reading} | {row.steering}", flush=True)
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    found = [rows[model_type, model_class] for model_type, _, model_class in chosen]
    return [row for row in found if row.reading != ENCODER_DECODER]


# The page

N_FOLDED = 60  # rows of a folded table
_INTRODUCTION = """# Supported models

This page lists the architectures of transformers that skgate reads and steers. It covers every
causal and every multimodal architecture of transformers {transformers}, with torch {torch}.
Encoder-decoders are not supported and not listed. [Models and inputs](guide/models.md) explains how
to load a model.

A tiny model of each architecture, with random weights, was compared with plain transformers:

- **Reading.** "Exact" means that activations of all layers equal those that a bare forward hook
  reads, one prompt at a time. They are the same alone and in a batch with longer and shorter
  prompts, up to rounding.
- **Steering.** "Exact" means that the replies of
  {{meth}}`SteeringWrapper.generate <skgate.SteeringWrapper.generate>` equal those of two passes,
  one prompt at a time. The first pass reads the activation with a bare hook, and the gate decides.
  The second one generates with a bare hook that edits.
- **Refused** means that skgate raises an error with this reason. It never reads or steers these
  architectures wrongly without an error.

{n_exact} architectures are read and steered exactly. {n_read} more are read exactly, but not
steered. {n_refused} are refused, and {n_untried} could not be tried.

The tables say nothing about how well a model can be steered: find the layer and the strength on
your own data. `benchmarks/architectures.py` writes them. A test runs the same comparisons every
week on the newest versions.
"""
_EXACT = """
## Read and steered exactly

The `config.json` of a model states its model type. Select the range that it falls into.
"""
_NOT_STEERED = """
## Read exactly, not steered
"""
_REFUSED = """
## Refused
"""
_UNTRIED = """
## Not tried

A tiny model of these architectures could not be built from its configuration, or transformers does
not run it on text alone.
"""


def write_page(rows: Sequence[Row]) -> str:
    """Write the page with the table of all architectures."""
    tried = [row for row in rows if not row.reading.startswith(NOT_BUILT)]
    untried = [row for row in rows if row.reading.startswith(NOT_BUILT)]
    n_exact = sum(row.steering.startswith(EXACT) for row in tried)
    n_refused = sum(row.reading.startswith(REFUSED) for row in tried)
    text = _INTRODUCTION.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        n_exact=n_exact,
        n_read=len(tried) - n_exact - n_refused,
        n_refused=n_refused,
        n_untried=len(untried),
    )
    text += _tables(tried)
    if untried:
        text += _UNTRIED + _reasons([(row, row.reading) for row in untried], NOT_BUILT)
    return text


def _tables(tried: Sequence[Row]) -> str:
    """Write folded tables of what is exact, and tables of the rest."""
    exact = [row for row in tried if row.steering.startswith(EXACT)]
    text = _EXACT
    for start in range(0, len(exact), N_FOLDED):
        rows = exact[start : start + N_FOLDED]
        table = _table(
            ("model type", "class"),
            [(f"`{row.model_type}`", f"`{row.model_class}`") for row in rows],
        )
        title = f"{rows[0].model_type} to {rows[-1].model_type}"
        text += f"\n<details>\n<summary>{title}</summary>\n{table}\n</details>\n"
    text += _NOT_STEERED + _reasons(
        [(row, row.steering) for row in tried if row.reading == EXACT and row not in exact]
    )
    return text + _REFUSED + _reasons([(row, row.reading) for row in tried if row.reading != EXACT])


def _reasons(found: Sequence[tuple[Row, str]], without: str = REFUSED) -> str:
    rows = [
        (f"`{row.model_type}`", f"`{row.model_class}`", _cell(reason, f"{without}: "))
        for row, reason in found
    ]
    return _table(("model type", "class", "reason"), rows)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(found: str, without: str = "") -> str:
    """Shorten what was found to its first sentence, as plain text in a table."""
    text = found.removeprefix(without).split(". ")[0].rstrip(".")
    text = text if len(text) <= 140 else f"{text[:139]}…"
    return re.sub(r"([\\`*_|<>\[\]{}$])", r"\\\1", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="model types; all if none is given")
    parser.add_argument("--results", type=Path, help="JSON lines of finished rows")
    parser.add_argument("--docs", type=Path, help="the page to write the table to")
    arguments = parser.parse_args()
    rows = try_all(arguments.names, arguments.results)
    if arguments.docs is not None:
        arguments.docs.write_text(write_page(rows), encoding="utf-8")
    wrong = [row for row in rows if not row.is_sound]
    for row in wrong:
        print(f"WRONG: {row.model_type} {row.model_class}: {row.reading} | {row.steering}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
