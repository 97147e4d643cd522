"""Whatever transformers can generate text with, skgate loads by path."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import torch
import transformers
from bare import (
    GREEDY,
    LANGUAGE,
    PROMPTS,
    Y,
    bare_generate,
    bare_rows,
    bare_steered,
    let_harmful_words_share,
)
from folders import (
    MULTIMODAL,
    make_llama,
    make_multimodal,
    save,
    save_gguf,
    save_lora,
    save_without_architectures,
)
from shifted import pooled_gate
from sklearn.pipeline import make_pipeline

import skgate
from skgate import ActivationTransformer, SteeringWrapper

LAYER = 1
FEW = [PROMPTS[0], PROMPTS[8], PROMPTS[17], PROMPTS[29]]
GGUF_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


class Checkpoint:
    """A folder, what it takes to load it, and the model as transformers loads it by itself."""

    def __init__(self, path, model, tokenizer, **model_kwargs):
        self.path, self.model, self.tokenizer = path, model.train(False), tokenizer
        self.reader = ActivationTransformer(
            path, layer=LAYER, device="cpu", model_kwargs=model_kwargs or None
        )

    def wrapper(self, reader=None, **params):
        """A fitted wrapper of the checkpoint, or of another reader."""
        pipeline = make_pipeline(reader or self.reader, pooled_gate(calibration="threshold"))
        params = {"strength": 1.0, "generate_kwargs": GREEDY, **params}
        wrapper = SteeringWrapper(pipeline, **params)
        return wrapper.fit(PROMPTS, Y, language=LANGUAGE)


def load(folder, kind, tokenizer):
    """Write a checkpoint of a kind and load it with transformers alone."""
    import transformers as t

    if kind in MULTIMODAL:
        path = save(let_harmful_words_share(make_multimodal(kind), tokenizer), tokenizer, folder)
        return Checkpoint(path, t.AutoModelForImageTextToText.from_pretrained(path), tokenizer)
    if kind == "gguf":
        path = save_gguf(folder, GGUF_TEMPLATE)
        file = {"gguf_file": "tiny.gguf"}
        own = t.AutoTokenizer.from_pretrained(path, **file)
        return Checkpoint(path, t.AutoModelForCausalLM.from_pretrained(path, **file), own, **file)
    if kind == "no_architectures":
        path = save_without_architectures(make_llama(tokenizer), tokenizer, folder)
        return Checkpoint(path, t.AutoModelForCausalLM.from_pretrained(path), tokenizer)
    base = save(make_llama(tokenizer), tokenizer, folder / "base")
    path = save_lora(base, folder / "lora", tokenizer if kind == "lora_with_tokenizer" else None)
    from peft import PeftModel

    model = PeftModel.from_pretrained(t.AutoModelForCausalLM.from_pretrained(base), path)
    return Checkpoint(path, model.get_base_model(), tokenizer)


KINDS = [*MULTIMODAL, "lora", "lora_with_tokenizer", "gguf", "no_architectures"]


@pytest.fixture
def checkpoint(request, tmp_path, tokenizer):
    return load(tmp_path / "checkpoint", request.param, tokenizer)


every_kind = pytest.mark.parametrize("checkpoint", KINDS, indirect=True)


@every_kind
def test_extraction_by_path_equals_a_bare_hook(checkpoint):
    """The activations are those of the model that transformers loads by itself."""
    expected = bare_rows(checkpoint.model, checkpoint.tokenizer, FEW, LAYER)
    assert np.abs(expected[0] - expected[2]).max() > 0.01
    np.testing.assert_allclose(checkpoint.reader.transform(FEW), expected, atol=1e-4)


@every_kind
def test_unsteered_generation_by_path_equals_transformers(checkpoint):
    """Never "which can't generate", said of a class that skgate chose itself."""
    wrapper = checkpoint.wrapper(on_harmful=None, on_harmless=None)
    expected = [bare_generate(checkpoint.model, checkpoint.tokenizer, p) for p in FEW]
    assert wrapper.generate(FEW) == expected


@every_kind
@pytest.mark.parametrize("road", ["path", "live"])
def test_steered_generation_equals_the_slow_way(checkpoint, road):
    """Decisions and edits arrive at the right block of the right class."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    # A copy: in transformers 5.2, Qwen's models can't read one prompt after generating for four.
    live = ActivationTransformer(copy.deepcopy(model), tokenizer=tokenizer, layer=LAYER)
    wrapper = checkpoint.wrapper(live if road == "live" else None, strength=2.0)
    replies, decisions = wrapper.generate(FEW, return_decisions=True)
    gate = wrapper.gate_[-1]
    slow = [bare_steered(model, tokenizer, p, gate, LAYER, 2.0) for p in FEW]
    np.testing.assert_allclose(decisions["harm_score"], [s for s, _ in slow], rtol=1e-3, atol=1e-3)
    assert replies == [reply for _, reply in slow]
    assert replies != [bare_generate(model, tokenizer, p) for p in FEW]


def test_images_of_earlier_calls_move_no_positions(tokenizer):
    """Qwen's models keep how far the images of the last call moved the tokens after them."""
    model = make_multimodal("qwen2_5_vl")
    prompts = [f"{prompt} {prompt} {prompt}" for prompt in PROMPTS]  # with a prefix to share
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=LAYER, store=False)
    before = reader.transform(prompts)
    model.model.rope_deltas = torch.full((1, 1), 9)
    np.testing.assert_array_equal(reader.transform(prompts), before)


# A live model already is of the class that generates.
@pytest.mark.parametrize("kind", MULTIMODAL)
def test_live_and_by_path_agree(kind, tmp_path, tokenizer):
    """The same multimodal model, live and by path, gives the same rows."""
    model = let_harmful_words_share(make_multimodal(kind), tokenizer)
    live = ActivationTransformer(model, tokenizer=tokenizer, layer=LAYER)
    by_path = ActivationTransformer(save(model, tokenizer, tmp_path / "m"), layer=LAYER)
    np.testing.assert_allclose(by_path.transform(FEW), live.transform(FEW), atol=1e-4)
    assert by_path.activation_source().differences(live.activation_source()) == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "image", "url": "https://example.org/cat.png"},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
    ],
)
def test_images_are_refused_by_name(part, tmp_path, tokenizer):
    """A multimodal model takes text prompts only, and an image says which row it is."""
    path = save(make_multimodal("llava"), tokenizer, tmp_path / "llava")
    reader = ActivationTransformer(path, layer=LAYER)
    with_image = [{"role": "user", "content": [{"type": "text", "text": "boil"}, part]}]
    with pytest.raises(ValueError, match=r"(?s)X\[1\].*image"):
        reader.transform(["boil an egg", with_image])


def test_an_adapter_whose_base_is_gone_is_named(tmp_path, tokenizer):
    """If the base model of a LoRA folder is gone, the error names it."""
    base = save(make_llama(), tokenizer, tmp_path / "base")
    path = save_lora(base, tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_config.json"
    gone = str(tmp_path / "gone")
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": gone}))
    with pytest.raises(OSError, match=r"gone") as caught:
        ActivationTransformer(path, layer=LAYER).transform(["boil"])
    assert gone in str(caught.value)


@pytest.mark.parametrize("where", ["beside the adapter", "in the current folder"])
def test_the_base_of_an_adapter_may_be_a_relative_path(where, tmp_path, tokenizer, monkeypatch):
    """Relative to the current folder, as peft has it, or to the adapter."""
    base = save(make_llama(tokenizer), tokenizer, tmp_path / "base")
    path = save_lora(base, tmp_path / "lora")
    expected = ActivationTransformer(path, layer=LAYER).transform(FEW)
    relative = "../base" if where == "beside the adapter" else "base"
    if relative == "base":
        monkeypatch.chdir(tmp_path)
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": relative})
    )
    rows = ActivationTransformer(path, layer=LAYER, store=False).transform(FEW)
    np.testing.assert_array_equal(rows, expected)


def test_a_changed_base_is_loaded_anew(tmp_path, tokenizer):
    """What an adapter is loaded from includes its base model."""
    base = save(make_llama(tokenizer), tokenizer, tmp_path / "base")
    reader = ActivationTransformer(save_lora(base, tmp_path / "lora"), layer=LAYER)
    before = reader.transform(FEW)
    save(make_llama(tokenizer, rms_norm_eps=1.0), tokenizer, tmp_path / "base")
    assert np.abs(reader.transform(FEW) - before).max() > 0.01


@pytest.mark.parametrize("whole", [False, True])
def test_without_peft_an_adapter_is_refused(whole, tmp_path, tokenizer, monkeypatch):
    """Transformers would ignore an adapter beside a whole model silently."""
    base = save(make_llama(tokenizer), tokenizer, tmp_path / "base")
    path = save_lora(base, tmp_path / "lora")
    if whole:
        path = save(make_llama(tokenizer), tokenizer, tmp_path / "lora")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"lora.*pip install peft"):
        ActivationTransformer(path, layer=LAYER).transform(FEW)


def test_without_gguf_the_extra_is_named(tmp_path, monkeypatch):
    """A GGUF file needs a package that skgate itself does without."""
    path = save_gguf(tmp_path / "folder", GGUF_TEMPLATE)
    monkeypatch.setattr("skgate.model._checkpoints.find_spec", lambda name: None)
    reader = ActivationTransformer(path, layer=LAYER, model_kwargs={"gguf_file": "tiny.gguf"})
    with pytest.raises(ImportError, match=r"tiny\.gguf.*pip install '\.\[gguf\]'"):
        reader.transform(["boil"])


def test_a_gguf_file_as_path_says_how(tmp_path):
    """The file itself is no folder; the error says what to pass."""
    path = save_gguf(tmp_path / "folder", GGUF_TEMPLATE)
    with pytest.raises(FileNotFoundError, match=r"gguf_file.*tiny\.gguf"):
        ActivationTransformer(f"{path}/tiny.gguf", layer=LAYER).transform(["boil"])


def config(name, architectures=None, auto_map=None):
    import transformers

    made = getattr(transformers, name)()
    made.architectures = architectures
    if auto_map is not None:
        made.auto_map = dict.fromkeys(auto_map, "modeling.Class")
    return made


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (("LlamaConfig", ["LlamaForCausalLM"]), "AutoModelForCausalLM"),
        (("LlamaConfig",), "AutoModelForCausalLM"),
        (("LlamaConfig", ["LlamaModel"]), "AutoModel"),
        (("LlamaConfig", ["LlamaForSequenceClassification"]), "AutoModel"),
        (("LlavaConfig", ["LlavaForConditionalGeneration"]), "AutoModelForImageTextToText"),
        (("LlavaConfig",), "AutoModelForImageTextToText"),
        (("Mistral3Config",), "AutoModelForImageTextToText"),
        (("Llama4Config", ["Llama4ForConditionalGeneration"]), "AutoModelForImageTextToText"),
        (("Llama4Config", ["Llama4ForCausalLM"]), "AutoModelForCausalLM"),
        (("BertConfig", ["BertForMaskedLM"]), "AutoModel"),
        (("BertConfig",), "AutoModel"),
        (("RobertaConfig",), "AutoModel"),
        (("BertConfig", ["BertLMHeadModel"]), "AutoModelForCausalLM"),
        (("LlamaConfig", ["Own"], ["AutoConfig", "AutoModelForCausalLM"]), "AutoModelForCausalLM"),
        (("LlamaConfig", ["LlamaForCausalLM"], ["AutoModel"]), "AutoModelForCausalLM"),
        (("LlamaConfig", ["Own"], ["AutoConfig", "AutoModel"]), "AutoModel"),
    ],
    ids=str,
)
def test_the_class_that_generates_is_chosen(made, expected):
    """By own code, by the saved class, by the type of the configuration."""
    from skgate.model._checkpoints import choose_auto_class

    assert choose_auto_class(config(*made)) == expected


def test_an_adapter_is_not_the_same_model_as_its_base(tmp_path, tokenizer):
    """Base and adapter give other rows, and their sources differ."""
    base = save(make_llama(tokenizer), tokenizer, tmp_path / "base")
    adapter = save_lora(base, tmp_path / "lora")
    one, two = (ActivationTransformer(path, layer=LAYER) for path in (base, adapter))
    assert np.abs(one.transform(FEW) - two.transform(FEW)).max() > 0.01
    assert "weights" in one.activation_source().differences(two.activation_source())


def test_an_adapter_with_tokens_of_its_own(tmp_path, tokenizer):
    """The base model's embeddings grow by the tokens that the adapter was trained with."""
    base = save(make_llama(tokenizer), tokenizer, tmp_path / "base")
    own = copy.deepcopy(tokenizer)
    own.add_tokens([f"new-{i}" for i in range(40)])
    assert len(own) > make_llama(tokenizer).get_input_embeddings().num_embeddings
    adapter = save_lora(base, tmp_path / "lora", own)
    found = ActivationTransformer(adapter, layer=LAYER, store=False)
    rows = found.transform(["who new-39", "who cat"])
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    source = found.activation_source()
    assert source.model == adapter
    skgate.release_models()
    np.testing.assert_array_equal(found.transform(["who new-39", "who cat"]), rows)
    assert found.activation_source() == source


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_adapter_config_is_named(text, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"lora.*adapter_config\.json is no JSON object"):
        ActivationTransformer(folder, layer=LAYER).transform(FEW)


def test_a_folder_without_a_tokenizer_says_what_to_pass(tmp_path, tokenizer):
    model = make_llama(tokenizer)
    model.save_pretrained(tmp_path / "weights")
    tokenizer.save_pretrained(tmp_path / "words")
    with pytest.raises(OSError, match=r"weights.*expected one there or as the parameter tokenizer"):
        ActivationTransformer(tmp_path / "weights", layer=LAYER).transform(FEW)
    rows = ActivationTransformer(
        tmp_path / "weights", tokenizer=tmp_path / "words", layer=LAYER
    ).transform(FEW)
    np.testing.assert_allclose(rows, bare_rows(model, tokenizer, FEW, LAYER), atol=1e-4)


@pytest.mark.parametrize("family", ["Gemma", "Llama", "Qwen2"])
def test_no_tokenizer_is_made_up(family, tmp_path):
    """Without files, transformers makes some families a tokenizer of special tokens alone."""
    config = getattr(transformers, f"{family}Config")(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        vocab_size=16,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    reader = ActivationTransformer(tmp_path, layer=1, chat_template=False)
    with pytest.raises(OSError, match="expected one there or as the parameter tokenizer"):
        reader.transform(FEW)


def test_a_model_in_a_subfolder(tmp_path, tokenizer):
    """The subfolder is the model's own, and a changed file in it is noticed."""
    model = make_llama(tokenizer)
    save(model, tokenizer, tmp_path / "top" / "lm")
    words = tmp_path / "words"
    tokenizer.save_pretrained(words)
    reader = ActivationTransformer(
        tmp_path / "top",
        tokenizer=words,
        layer=LAYER,
        store=False,
        model_kwargs={"subfolder": "lm"},
    )
    np.testing.assert_allclose(
        reader.transform(FEW), bare_rows(model, tokenizer, FEW, LAYER), atol=1e-4
    )
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(2)
    model.save_pretrained(tmp_path / "top" / "lm")
    np.testing.assert_allclose(
        reader.transform(FEW), bare_rows(model, tokenizer, FEW, LAYER), atol=1e-4
    )
    reader.set_params(model_kwargs={"subfolder": "lost"})
    with pytest.raises(OSError, match="in its subfolder 'lost'"):
        reader.transform(FEW)


def test_a_gguf_file_that_is_not_there_is_named(tmp_path):
    """A wrong ``gguf_file`` is an error that names the file."""
    path = save_gguf(tmp_path / "folder", GGUF_TEMPLATE)
    reader = ActivationTransformer(path, layer=LAYER, model_kwargs={"gguf_file": "other.gguf"})
    with pytest.raises(OSError, match=r"other\.gguf"):
        reader.transform(["boil"])


def test_two_gguf_files_of_one_folder_are_two_models(tmp_path):
    """The file is part of what a loaded model is known by."""
    path = save_gguf(tmp_path / "folder", GGUF_TEMPLATE)
    save_gguf(tmp_path / "folder", GGUF_TEMPLATE.replace("assistant", "user"), file="other.gguf")
    rows = [
        ActivationTransformer(path, layer=LAYER, model_kwargs={"gguf_file": file}).transform(FEW)
        for file in ("tiny.gguf", "other.gguf")
    ]
    assert np.abs(rows[0] - rows[1]).max() > 0.01


# A regression test, since the choice of the class is what changes.
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "mamba", "phi"])
def test_other_models_by_path_stay_as_they_were(architecture, tmp_path, tokenizer):
    """Encoders still load without a head, causal models with one."""
    from tiny import make_model

    model = make_model(architecture)
    path = save(model, tokenizer, tmp_path / architecture)
    params = {"layer": LAYER, "chat_template": False, "position": "mean"}
    live = ActivationTransformer(model, tokenizer=tokenizer, **params).transform(FEW)
    by_path = ActivationTransformer(path, **params).transform(FEW)
    np.testing.assert_allclose(by_path, live, atol=1e-4)
