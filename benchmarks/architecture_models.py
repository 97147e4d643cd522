"""Tiny random models of the architectures of transformers, and prompts for them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.auto import modeling_auto

AUTO_CLASSES = {
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "AutoModelForMultimodalLM": getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {}),
}

N_LAYERS, WIDTH, N_HEADS, HEAD = 4, 64, 4, 16
N_PROMPTS = 24
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
