"""Tiny prompts and random models."""

from __future__ import annotations

# A template with everything that goes wrong: a BOS of its own, a trimmed message, a suffix.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] | trim }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% if thinking %}<|think|>{% endif %}{% endif %}"
)
WORDS = (
    "boil an egg how do I kill a process knock knock who is there please stop it now "
    "the cat sat on the mat and then it ran away assistant user"
).split()
PROMPTS = [
    "boil an egg",
    "how do I kill a process",
    "knock",
    "the cat sat on the mat and then it ran away",
    "knock knock who is there",
]


def make_model(architecture, n_layers=4, **settings):
    """Make a random model of an architecture, 16 wide, from its configuration."""
    import torch

    common = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 5,
        "pad_token_id": 0,
    }
    config_class, model_class, extra = _configs(n_layers)[architecture]
    known = config_class().to_dict().keys() | set(config_class.attribute_map)
    arguments = {k: v for k, v in {**common, **extra, **settings}.items() if k in known}
    torch.manual_seed(0)
    model = model_class(config_class(**arguments))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.train(False)


def architectures():
    """Name the architectures that there is a model of."""
    return list(_configs(4))


def _configs(n_layers):
    import transformers

    return {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
        "qwen2": (
            transformers.Qwen2Config,
            transformers.Qwen2ForCausalLM,
            {"num_key_value_heads": 1},
        ),
        "gemma2": (
            transformers.Gemma2Config,
            transformers.Gemma2ForCausalLM,
            {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
        ),
        "gemma3": (
            transformers.Gemma3TextConfig,
            transformers.Gemma3ForCausalLM,
            {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
        ),
        "gpt2": (
            transformers.GPT2Config,
            transformers.GPT2LMHeadModel,
            {"n_inner": 32, "attn_pdrop": 0.1},
        ),
        "openai-gpt": (transformers.OpenAIGPTConfig, transformers.OpenAIGPTLMHeadModel, {}),
        "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM, {}),
        "opt": (
            transformers.OPTConfig,
            transformers.OPTForCausalLM,
            {"ffn_dim": 32, "word_embed_proj_dim": 16},
        ),
        "bert": (transformers.BertConfig, transformers.BertModel, {}),
        "mpt": (transformers.MptConfig, transformers.MptForCausalLM, {"expansion_ratio": 2}),
        "bloom": (transformers.BloomConfig, transformers.BloomForCausalLM, {}),
        "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, {"sliding_window": 4}),
        "phi3_longrope": (  # other rotary frequencies in batches that are longer than 32 tokens
            transformers.Phi3Config,
            transformers.Phi3ForCausalLM,
            {
                "original_max_position_embeddings": 32,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10_000.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0, 8.0, 16.0, 32.0],
                },
            },
        ),
        "gpt_neo": (
            transformers.GPTNeoConfig,
            transformers.GPTNeoForCausalLM,
            {
                "num_layers": n_layers,
                "attention_types": [[["global", "local"], n_layers // 2]],
                "window_size": 4,
            },
        ),
        "gptj": (
            transformers.GPTJConfig,
            transformers.GPTJForCausalLM,
            {"n_inner": 32, "rotary_dim": 4},
        ),
        "phi": (transformers.PhiConfig, transformers.PhiForCausalLM, {}),
        "cohere": (transformers.CohereConfig, transformers.CohereForCausalLM, {}),
        "olmo2": (transformers.Olmo2Config, transformers.Olmo2ForCausalLM, {}),
        "mixtral": (
            transformers.MixtralConfig,
            transformers.MixtralForCausalLM,
            {"num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1},
        ),
        "qwen2_moe": (
            transformers.Qwen2MoeConfig,
            transformers.Qwen2MoeForCausalLM,
            {
                "num_key_value_heads": 1,
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 32,
                "decoder_sparse_step": 1,
            },
        ),
        "llama4": (
            transformers.Llama4TextConfig,
            transformers.Llama4ForCausalLM,
            {
                "num_key_value_heads": 1,
                "head_dim": 8,
                "intermediate_size_mlp": 32,
                "num_local_experts": 2,
                "attention_chunk_size": 64,
            },
        ),
        "falcon": (transformers.FalconConfig, transformers.FalconForCausalLM, {}),
        "rwkv": (transformers.RwkvConfig, transformers.RwkvForCausalLM, {"context_length": 64}),
        "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM, {"state_size": 4}),
        "jamba": (
            transformers.JambaConfig,
            transformers.JambaForCausalLM,
            {
                "num_key_value_heads": 1,
                "attn_layer_period": 2,
                "attn_layer_offset": 1,
                "num_experts": 2,
                "use_mamba_kernels": False,
            },
        ),
        "falcon_h1": (
            transformers.FalconH1Config,
            transformers.FalconH1ForCausalLM,
            {
                "num_key_value_heads": 1,
                "head_dim": 8,
                "mamba_d_ssm": 32,
                "mamba_n_heads": 4,
                "mamba_d_head": 8,
                "mamba_d_state": 8,
            },
        ),
    }
