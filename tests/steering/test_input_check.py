"""What a view is given is compared with the gate's prompts: templates, padding, masks, caches."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from bare import bare_activations
from shifted import pooled_gate
from sklearn.pipeline import make_pipeline
from steered import GREEDY, LANGUAGE, MIXED, PROMPTS, Y, apply_template, make_wrapper

from skgate import ActivationTransformer, SteeringWrapper

ONE = {**GREEDY, "max_new_tokens": 1, "pad_token_id": 0}
# As the fixture's, without a header for the reply: what follows a message is its end alone.
SHORT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> "
    "{% endfor %}"
)
NO_SUFFIX = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} {% endfor %}"
)
REPEATS = "{% for m in messages %}{{ m['content'] }} <|end|> {{ m['content'] }} {% endfor %}"
TURNS = [
    {"role": "system", "content": "the cat"},
    {"role": "user", "content": "knock knock"},
    {"role": "assistant", "content": "who is there"},
    {"role": "user", "content": "kill egg"},
]


def fit(model, tokenizer, **params):
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1, **params)
    gate = pooled_gate(calibration="threshold")
    wrapper = SteeringWrapper(make_pipeline(reader, gate), strength=2.0, generate_kwargs=GREEDY)
    return wrapper.fit(PROMPTS, Y, language=LANGUAGE)


def with_template(tokenizer, template):
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


def tokenize(tokenizer, messages, **kwargs):
    kwargs = {"add_generation_prompt": True, **kwargs}
    encoded = tokenizer.apply_chat_template(
        messages, return_tensors="pt", return_dict=True, **kwargs
    )
    return encoded["input_ids"]


def user(content):
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("turns", [TURNS, TURNS[1:], TURNS[::3]], ids=["all", "turns", "system"])
def test_conversations_and_system_messages_end_as_single_messages_do(wrapper, tokenizer, turns):
    with wrapper.attach() as steered:
        steered.generate(tokenize(tokenizer, turns), **ONE)
        with pytest.raises(ValueError, match="don't end"):
            steered.generate(tokenize(tokenizer, turns, add_generation_prompt=False), **ONE)


def test_arguments_of_the_template_count_and_are_named(model, tokenizer):
    """A template that lets the model think ends otherwise."""
    thinking = fit(model, tokenizer, chat_template_kwargs={"thinking": True})
    with thinking.attach() as steered:
        steered.generate(tokenize(tokenizer, user("kill egg"), thinking=True), **ONE)
        with pytest.raises(ValueError, match=r"add_generation_prompt=True, thinking=True\)"):
            steered.generate(tokenize(tokenizer, user("kill egg")), **ONE)
    with fit(model, tokenizer).attach() as steered:
        steered.generate(tokenize(tokenizer, user("kill egg")), **ONE)
        with pytest.raises(ValueError, match="end in '<|end|> <|assistant|>'".replace("|", r"\|")):
            steered.generate(tokenize(tokenizer, user("kill egg"), thinking=True), **ONE)


@pytest.mark.parametrize("template", [NO_SUFFIX, REPEATS], ids=["empty", "varies"])
def test_a_template_without_a_constant_end_accepts_any(model, tokenizer, template):
    own = with_template(tokenizer, template)
    with fit(model, own).attach() as steered:
        steered.generate(tokenize(own, user("kill egg")), **ONE)
        steered.generate(own("kill egg", return_tensors="pt")["input_ids"], **ONE)


def test_a_gate_of_plain_prompts_accepts_any_end(model, tokenizer):
    options = {**ONE, "pad_token_id": 6}
    with fit(model, tokenizer, chat_template=False).attach() as steered:
        steered.generate(tokenizer("kill egg", return_tensors="pt")["input_ids"], **options)
        ids = tokenizer("kill egg <|think|>", return_tensors="pt")["input_ids"]
        with pytest.raises(ValueError, match=r"end in padding \(token \[6\]\) in row 0 of 1"):
            steered.generate(ids, **options)


def test_tokens_that_merge_over_the_templates_border_are_left_out():
    """A message's last letters may share a token with what the template puts after it."""
    from skgate.datasets import load_organism

    organism = load_organism()
    own = with_template(
        organism.tokenizer, "{% for m in messages %}{{ m['content'] }}ing answer :{% endfor %}"
    )
    endings = ["kick", "the c", "b", "a 1", "w", "s", "d", "n.", "m\n", "l\n\n", "th", "p "]
    ends = [own(f"{one}ing answer :", add_special_tokens=False)["input_ids"] for one in endings]
    alone = own("ing answer :", add_special_tokens=False)["input_ids"]
    assert any(ids[-len(alone) :] != alone for ids in ends)  # there are such endings
    few = organism.prompts.query("split == 'train' and language == 'en'")
    reader = ActivationTransformer(organism.model, tokenizer=own, layer=4)
    wrapper = SteeringWrapper(make_pipeline(reader, pooled_gate()), on_harmful=None, strength=1.0)
    wrapper.fit(few["prompt"], few["harmful"])
    with wrapper.attach() as steered:
        for ids in ends:
            steered.generate(torch.tensor([ids]), **ONE)
        with pytest.raises(ValueError, match="don't end"):
            steered.generate(torch.tensor([ends[0][:-1]]), **ONE)


@pytest.mark.parametrize("position", ["mean", -2])
def test_every_position_is_checked(model, tokenizer, position):
    fitted = make_wrapper(model, tokenizer, position=position, strength=2.0).fit(PROMPTS, Y)
    with fitted.attach() as steered:
        steered.generate(tokenize(tokenizer, user("kill egg")), **ONE)
        with pytest.raises(ValueError, match="don't end"):
            steered.generate(tokenizer("kill egg", return_tensors="pt")["input_ids"], **ONE)


def test_the_rows_that_differ_are_named(wrapper, tokenizer):
    ids = tokenize(tokenizer, [user("kill egg")] * 4)
    ids[1, -1] = ids[3, -2] = 7
    with (
        wrapper.attach() as steered,
        pytest.raises(ValueError, match="gate's prompts do, in rows 1, 3 of 4, expected"),
    ):
        steered.generate(ids, **ONE)


def test_many_rows_are_not_all_named(wrapper, tokenizer):
    ids = tokenize(tokenizer, [user("kill egg")] * 9)[:, :-1]
    with (
        wrapper.attach() as steered,
        pytest.raises(ValueError, match=r"in rows 0, 1, 2, 3, 4, \.\.\. of 9"),
    ):
        steered.generate(ids, **ONE)


def test_a_mismatch_can_be_a_warning(wrapper, model, tokenizer):
    """The gate then decides, and steers, at the token where the prompt ends."""
    ids = tokenize(tokenizer, user("kill egg"), add_generation_prompt=False)
    logged = []
    view = wrapper.attach(on_template_mismatch="warn", on_decision=logged.append)
    with pytest.warns(UserWarning, match=r"don't end as .*apply_chat_template") as caught:
        view.generate(ids, **ONE)
    assert caught[0].filename == __file__
    row = bare_activations(model, ids, layer=1, position=-1) + np.float32(
        1e-6
    )  # (else its source is known)
    expected = wrapper.gate_[-1].harm_score(row[None])
    np.testing.assert_allclose(logged[0]["harm_score"], expected, atol=1e-3)


def test_a_mask_says_where_a_prompt_ends(wrapper, tokenizer):
    """Tokens behind a mask are not part of the prompt, on either side."""
    encoded = apply_template(tokenizer, MIXED)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    shift = [int((row == 0).sum()) for row in mask]
    right = [
        torch.stack([row.roll(-n) for row, n in zip(x, shift, strict=True)]) for x in (ids, mask)
    ]
    with wrapper.attach() as steered, torch.no_grad():
        steered.generate(ids, attention_mask=mask, **ONE)
        steered(right[0], attention_mask=right[1])
        cut = mask.clone()
        cut[2, -1] = 0
        with pytest.raises(ValueError, match="in row 2 of 5"):
            steered(ids, attention_mask=cut)
        with pytest.raises(ValueError, match=r"rows 0, 2, 3, 4 of 5"):
            steered(right[0], attention_mask=torch.ones_like(mask))
        with pytest.raises(ValueError, match=r"attention_mask of shape \(5, 2\) for input_ids"):
            steered(ids, attention_mask=mask[:, :2])


def test_a_row_that_is_masked_altogether_does_not_end_as_a_prompt(wrapper, tokenizer):
    encoded = apply_template(tokenizer, MIXED)
    encoded["attention_mask"][1] = 0
    with wrapper.attach() as steered, pytest.raises(ValueError, match="in row 1 of 5"):
        steered(**encoded)


@pytest.mark.parametrize(
    ("template", "pad"), [(None, 1), (SHORT, 5)], ids=["begins with it", "ends in it"]
)
def test_a_padding_token_that_the_template_writes_is_no_padding(model, tokenizer, template, pad):
    """Often the padding token is the one that begins or ends every text."""
    own = with_template(tokenizer, template or tokenizer.chat_template)
    options = {**ONE, "pad_token_id": pad}
    ids = tokenize(own, user("kill egg"))
    assert pad in (ids[0, 0], ids[0, -1])
    one = torch.full((1, 1), pad)
    padded = torch.cat([one, ids] if template is None else [ids, one], 1)
    mask = torch.ones_like(padded)
    mask[0, 0 if template is None else -1] = 0
    with fit(model, own).attach() as steered, torch.no_grad():
        steered.generate(ids, **options)
        with pytest.raises(ValueError, match=rf"padding \(token \[{pad}\]\)"):
            steered.generate(padded, **options)
        steered(padded, attention_mask=mask)


def test_the_padding_token_is_the_tokenizers_the_calls_or_the_end(model, tokenizer):
    own = copy.deepcopy(tokenizer)
    own.pad_token = "<|think|>"
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    ids = tokenize(own, user("kill egg"))
    for pad, given in [(own.pad_token_id, {}), (7, {"pad_token_id": 7})]:
        with fit(model, own).attach() as steered, pytest.raises(ValueError, match="begin with pad"):
            steered.generate(torch.cat([torch.full((1, 2), pad), ids], 1), **GREEDY, **given)
    end = model.generation_config.eos_token_id
    with (
        fit(model, tokenizer).attach() as steered,
        pytest.raises(ValueError, match=rf"begin with padding \(token \[{end}\]\)"),
    ):
        steered.generate(torch.cat([torch.full((1, 2), end), ids], 1), **GREEDY)


def test_embeddings_can_not_be_compared(wrapper, model, tokenizer):
    embeddings = model.get_input_embeddings()(tokenize(tokenizer, user("kill egg"))).detach()
    with (
        wrapper.attach() as steered,
        pytest.raises(ValueError, match=r"Got inputs_embeds, whose last .*can't be compared"),
    ):
        steered.generate(inputs_embeds=embeddings, **ONE)
    view = wrapper.attach(on_template_mismatch="warn")
    with pytest.warns(UserWarning, match="Got inputs_embeds"):
        view.generate(inputs_embeds=embeddings, **ONE)


def test_a_call_without_prompts_is_refused(wrapper):
    with wrapper.attach() as steered, pytest.raises(ValueError, match="Got no input_ids"):
        steered.generate(**ONE)


def test_prompts_that_are_no_batch_of_token_ids_are_named(wrapper, tokenizer):
    encoded = apply_template(tokenizer, MIXED[:1])
    with wrapper.attach() as steered:
        with pytest.raises(TypeError, match=r"Got a BatchEncoding as inputs, .*\*\*inputs"):
            steered.generate(encoded)
        with pytest.raises(TypeError, match="Got a list as inputs, expected input_ids"):
            steered.generate(encoded["input_ids"].tolist())
        with pytest.raises(ValueError, match=r"Got input_ids of shape \(\d+,\), expected"):
            steered(input_ids=encoded["input_ids"][0])


def test_what_follows_a_cache_is_checked_unless_it_is_one_token(wrapper, model, tokenizer):
    """A new turn is a prompt, and a generated token is none."""
    ids = tokenize(tokenizer, user("kill egg"), add_generation_prompt=False)

    def cached():
        return model(ids[:, :3], use_cache=True).past_key_values

    with wrapper.attach() as steered, torch.no_grad():
        with pytest.raises(ValueError, match="don't end"):
            steered(ids[:, 3:], past_key_values=cached())
        with pytest.raises(ValueError, match="don't end"):
            steered.generate(ids, past_key_values=cached(), **ONE)
        with pytest.raises(RuntimeError, match="were not steered"):  # which is another reason
            steered(ids[:, 3:4], past_key_values=cached())
