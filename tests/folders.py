"""Checkpoint folders of all the kinds that people have, tiny and random."""

from __future__ import annotations

import json
import warnings

import torch
from tiny import make_model

TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 5,
    "pad_token_id": 0,
}
# As many vision layers as text layers: who counts blocks must not take the wrong ones.
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
IMAGE_TOKEN = 60
MULTIMODAL = ["mistral3", "llava", "qwen2_5_vl", "gemma3_wrapped"]


def make_multimodal(kind):
    """A random model of text and images that generates text."""
    import transformers as t

    text = dict(TEXT)
    if kind == "mistral3":
        config = t.Mistral3Config(
            text_config=t.MistralConfig(**text),
            vision_config=t.PixtralVisionConfig(**VISION, head_dim=8),
            image_token_index=IMAGE_TOKEN,
        )
        model_class = t.Mistral3ForConditionalGeneration
    elif kind == "llava":
        config = t.LlavaConfig(
            text_config=t.LlamaConfig(**text),
            vision_config=t.CLIPVisionConfig(**VISION),
            image_token_index=IMAGE_TOKEN,
        )
        model_class = t.LlavaForConditionalGeneration
    elif kind == "qwen2_5_vl":
        rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
        text.pop("head_dim")
        config = t.Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={
                "depth": 4,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": 16,
                "patch_size": 4,
                "fullatt_block_indexes": [1],
            },
            image_token_id=IMAGE_TOKEN,
            video_token_id=IMAGE_TOKEN + 1,
            vision_start_token_id=IMAGE_TOKEN + 2,
            vision_end_token_id=IMAGE_TOKEN + 3,
        )
        model_class = t.Qwen2_5_VLForConditionalGeneration
    else:
        config = t.Gemma3Config(
            text_config=t.Gemma3TextConfig(**text, sliding_window=4),
            vision_config=t.SiglipVisionConfig(**VISION),
            mm_tokens_per_image=4,
            image_token_index=IMAGE_TOKEN,
            boi_token_index=IMAGE_TOKEN + 1,
            eoi_token_index=IMAGE_TOKEN + 2,
        )
        model_class = t.Gemma3ForConditionalGeneration
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = TEXT["eos_token_id"]
        model.generation_config.pad_token_id = TEXT["pad_token_id"]
    return model.train(False)


def save(model, tokenizer, folder):
    """Save a model with its tokenizer; give the folder as a str."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_without_architectures(model, tokenizer, folder):
    """Save a checkpoint whose config.json doesn't say what class it is of, as some on the hub."""
    path = save(model, tokenizer, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["architectures"]
    file.write_text(json.dumps(config))
    return path


def save_lora(base_folder, folder, tokenizer=None):
    """Save a LoRA adapter of the model in ``base_folder`` that changes what it computes.

    As peft saves it: adapter_config.json, adapter_model.safetensors and no config.json.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_folder)
    torch.manual_seed(1)
    targets = ["q_proj", "v_proj", "down_proj"]
    settings = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=targets, init_lora_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own, about transformers' names
        get_peft_model(base, settings).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return str(folder)


def save_gguf(folder, chat_template, file="tiny.gguf"):
    """Write a tiny Qwen-2 with a byte-level tokenizer of its own, as llama.cpp's converters do."""
    import gguf
    import numpy as np
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = ["k i", "l l", "ki ll", "b o", "i l", "bo il", "e g", "eg g", "Ġ egg"]
    words = [merge.replace(" ", "") for merge in merges]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*letters, *words, *special]
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 3) + [gguf.TokenType.CONTROL] * 3
    n_layers, width, inner, n_heads, n_kv = 4, 16, 32, 2, 1
    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(folder / file), "qwen2")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_chat_template(chat_template)
    rng = np.random.default_rng(0)
    kv = width // n_heads * n_kv
    shapes = {"token_embd.weight": (len(tokens), width), "output.weight": (len(tokens), width)}
    shapes["output_norm.weight"] = (width,)
    for i in range(n_layers):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (width,),
            f"blk.{i}.ffn_norm.weight": (width,),
            f"blk.{i}.attn_q.weight": (width, width),
            f"blk.{i}.attn_k.weight": (kv, width),
            f"blk.{i}.attn_v.weight": (kv, width),
            f"blk.{i}.attn_q.bias": (width,),
            f"blk.{i}.attn_k.bias": (kv,),
            f"blk.{i}.attn_v.bias": (kv,),
            f"blk.{i}.attn_output.weight": (width, width),
            f"blk.{i}.ffn_gate.weight": (inner, width),
            f"blk.{i}.ffn_up.weight": (inner, width),
            f"blk.{i}.ffn_down.weight": (width, inner),
        }
    for name, shape in shapes.items():
        # (With random norms and larger weights, every reply is the same token again and again.)
        weights = rng.normal(scale=0.3, size=shape).astype(np.float32)
        if name.endswith("norm.weight"):
            weights[:] = 1
        if name == "token_embd.weight":
            weights[tokens.index("kill")] += 4 * rng.normal(size=width)
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(folder)


def make_llama(tokenizer=None, **settings):
    """A random Llama; with a tokenizer, one to which harmful words have something in common."""
    from bare import let_harmful_words_share

    model = make_model("llama", **settings)
    return model if tokenizer is None else let_harmful_words_share(model, tokenizer)
