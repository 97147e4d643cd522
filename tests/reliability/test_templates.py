"""Templates that read the clock, want content parts, or lose the prompt."""

from __future__ import annotations

import copy
import datetime
import uuid
import warnings

import numpy as np
import pytest
import torch
from bare import (
    GREEDY,
    LANGUAGE,
    PROMPTS,
    Y,
    bare_activations,
    bare_generate,
    bare_ids,
    bare_rows,
    let_harmful_words_share,
)
from shifted import pooled_gate
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, SteeringWrapper

LAYER = 1
FEW = PROMPTS[:3]
DATES = ["2026-01-01", "2026-03-05", "2025-07-04"]
# As Llama-3.2's: a system header with the day, unless the caller names one.
CLOCK = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%Y-%m-%d') %}{% endif %}"
    "{{ bos_token }}<|system|> {{ date_string }} <|end|> "
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] | trim }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
# As gpt-oss's: the hour too, through a variable and inside a macro.
HOUR = (
    "{% macro today() %}{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%H') }}{% endmacro %}"
    "{{ bos_token }}<|system|> {{ today() }} <|end|> "
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] | trim }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
# As many multimodal models': content is a list of parts.
PARTS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> "
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}"
    "{% endfor %}<|end|> {% endfor %}{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
PARTS_BY_TEXT = PARTS.replace("{% if part['type'] == 'text' %}", "").replace("{% endif %}", "", 1)
told = pytest.mark.filterwarnings("ignore:.*template_date:UserWarning")


def with_template(tokenizer, template):
    """A copy of the tokenizer that knows some dates and hours, with a new template."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens([*DATES, "00", "09", "17"])
    own.chat_template = template + "{# " + uuid.uuid4().hex + " #}"
    return own


@pytest.fixture
def set_clock(monkeypatch):
    """Let transformers' templates see another time of day."""

    def to(day, hour=0):
        class Frozen(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls.fromisoformat(day).replace(hour=hour)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Frozen)

    return to


@pytest.fixture
def model(tokenizer):
    return let_harmful_words_share(make_model("llama"), tokenizer)


def reader(model, tokenizer, **params):
    params = {"layer": LAYER, "store": False, **params}
    return ActivationTransformer(model, tokenizer=tokenizer, **params)


def wrapper_of(transformer, **params):
    pipeline = make_pipeline(transformer, pooled_gate(calibration="threshold"))
    params = {"strength": 1.0, "generate_kwargs": GREEDY, **params}
    wrapper = SteeringWrapper(pipeline, **params)
    return wrapper.fit(PROMPTS, Y, language=LANGUAGE)


@told
@pytest.mark.parametrize("template", [CLOCK, HOUR], ids=["day", "hour"])
@pytest.mark.parametrize("by", ["tokenizer", "argument"])
def test_activations_do_not_depend_on_the_day(model, tokenizer, template, by, set_clock):
    """Rows are the same on any day, and what transformers gives on the date."""
    own = with_template(tokenizer, template)
    kwargs = {}
    if by == "argument":
        kwargs = {"chat_template_kwargs": {"chat_template": own.chat_template}}
        own.chat_template = None
    transformer = reader(model, own, **kwargs)
    set_clock(DATES[1], hour=9)
    first = transformer.transform(FEW)
    set_clock(DATES[2], hour=17)
    np.testing.assert_array_equal(transformer.transform(FEW), first)
    template_only = kwargs.get("chat_template_kwargs", {})
    tomorrow = bare_rows(model, own, FEW, LAYER, **template_only)
    set_clock(DATES[0])
    expected = bare_rows(model, own, FEW, LAYER, **template_only)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    assert np.abs(expected - tomorrow).max() > 0.01  # the day matters to this model


@told
def test_template_date_is_the_day_that_is_seen(model, tokenizer, set_clock):
    """``template_date`` chooses the day; activations follow it, not the clock."""
    own = with_template(tokenizer, CLOCK)
    set_clock(DATES[1])
    rows = {day: reader(model, own, template_date=day).transform(FEW) for day in DATES}
    for day in DATES:
        set_clock(day)
        np.testing.assert_allclose(rows[day], bare_rows(model, own, FEW, LAYER), atol=1e-5)
    assert np.abs(rows[DATES[0]] - rows[DATES[2]]).max() > 0.01


@told
@pytest.mark.parametrize("position", ["instruction", "mean"])
def test_template_date_holds_at_every_position(model, tokenizer, position, set_clock):
    """Finding the instruction renders the template too, on the same day."""
    own = with_template(tokenizer, CLOCK)
    set_clock(DATES[2])
    found = reader(model, own, position=position, template_date=DATES[1]).transform(FEW)
    set_clock(DATES[1])
    at = "mean" if position == "mean" else -3  # ... <instruction> <|end|> <|assistant|>
    expected = [bare_activations(model, bare_ids(own, p), LAYER, position=at) for p in FEW]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


@told
def test_generate_sees_the_same_day(model, tokenizer, set_clock):
    """``SteeringWrapper.generate`` answers the prompt that the gate was fitted on."""
    own = with_template(tokenizer, CLOCK)
    transformer = reader(model, own, template_date=DATES[1])
    watching = wrapper_of(transformer, on_harmful=None, on_harmless=None)
    steering = wrapper_of(transformer, strength=2.0)
    set_clock(DATES[2])
    replies, steered = watching.generate(PROMPTS), steering.generate(PROMPTS)
    on_another_day = [bare_generate(model, own, p) for p in PROMPTS]
    set_clock(DATES[1])
    assert replies == [bare_generate(model, own, p) for p in PROMPTS]
    assert replies != on_another_day
    assert steering.generate(PROMPTS) == steered


@told
def test_decisions_do_not_flip_between_days(model, tokenizer, set_clock):
    """No decision and no score changes overnight."""
    wrapper = wrapper_of(reader(model, with_template(tokenizer, CLOCK)))
    scores = []
    for day in DATES:
        set_clock(day)
        _, decisions = wrapper.generate(PROMPTS, return_decisions=True, max_new_tokens=1)
        scores.append(decisions["harm_score"].to_numpy())
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


@told
def test_a_store_computes_nothing_anew_on_another_day(
    model, tokenizer, set_clock, monkeypatch, tmp_path
):
    """The prompts' keys in a store stay the same over midnight."""
    own = with_template(tokenizer, CLOCK)
    transformer = reader(model, own, store=tmp_path / "store")
    set_clock(DATES[1])
    first = transformer.transform(FEW)
    forwarded = []
    forward = type(model.model).forward

    def counting(self, *args, **kwargs):
        forwarded.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", counting)
    set_clock(DATES[2])
    np.testing.assert_array_equal(transformer.transform(FEW), first)
    assert forwarded == []


def test_the_date_is_told_once(model, tokenizer):
    """One UserWarning per process and template names the date and the parameter."""
    one, two = with_template(tokenizer, CLOCK), with_template(tokenizer, CLOCK)
    with pytest.warns(
        UserWarning, match=r"(?s)2026-01-01.*template_date|template_date.*2026-01-01"
    ):
        reader(model, one).transform(FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader(model, one).transform(FEW)
        clone(reader(model, one)).transform(FEW[:1])
    with pytest.warns(UserWarning, match="template_date"):  # another template
        reader(model, two).transform(FEW)


def test_templates_without_a_clock_are_silent(model, tokenizer):
    """Nothing is said of a template that doesn't read the clock."""
    own = with_template(tokenizer, tokenizer.chat_template + "{# strftime_now is not called #}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader(model, own).transform(FEW)


@told
def test_the_date_is_part_of_the_activations_identity(model, tokenizer):
    """``ActivationSource.date``, empty where the template doesn't read the clock."""
    own = with_template(tokenizer, CLOCK)
    one = reader(model, own).activation_source()
    other = reader(model, own, template_date=DATES[1]).activation_source()
    assert (one.date, other.date) == ("2026-01-01", DATES[1])
    assert one.differences(other) == ["date"]
    plain = [reader(model, tokenizer, template_date=day).activation_source() for day in DATES[:2]]
    assert plain[0].date == ""
    assert plain[0] == plain[1]
    no_template = reader(model, own, chat_template=False).activation_source()
    assert no_template.date == ""


@told
def test_a_gate_of_another_date_is_refused(model, tokenizer):
    """Fitted on one date, used with another: the error names ``date``."""
    with torch.no_grad():  # no other test has the same rows, whose template has another name
        model.get_input_embeddings().weight.mul_(1.01)
    own = with_template(tokenizer, CLOCK)
    wrapper = wrapper_of(reader(model, own))
    gate = wrapper.gate_[-1]
    other = reader(model, own, template_date=DATES[1])
    elsewhere = SteeringWrapper(make_pipeline(other, gate), generate_kwargs=GREEDY, strength=1.0)
    with pytest.raises(ValueError, match=r"date='2026-03-05' instead of '2026-01-01'"):
        elsewhere.generate(FEW)
    with pytest.raises(ValueError, match=r"date='2026-03-05' instead of '2026-01-01'"):
        gate.partial_fit(other.transform(PROMPTS), Y, language="sw")
    same = SteeringWrapper(
        make_pipeline(reader(model, own, template_date="2026-01-01"), gate),
        generate_kwargs=GREEDY,
        strength=1.0,
    )
    assert len(same.generate(FEW)) == len(FEW)


@told
def test_a_date_that_the_caller_passes_to_the_template_wins(model, tokenizer, set_clock):
    """A variable that replaces the clock, as Llama's ``date_string``, counts."""
    own = with_template(tokenizer, CLOCK)  # The clock isn't read then
    set_clock(DATES[1])
    given = {"date_string": DATES[2]}
    found = reader(model, own, chat_template_kwargs=given).transform(FEW)
    np.testing.assert_allclose(found, bare_rows(model, own, FEW, LAYER, **given), atol=1e-5)


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "01.01.2026", "", 20260101])
def test_bad_dates(model, tokenizer, day):
    """A date that is none is refused by name, whether the template reads it or not."""
    transformer = reader(model, tokenizer, template_date=day)
    with pytest.raises(ValueError, match="template_date") as caught:
        transformer.transform(FEW)
    assert repr(day) in str(caught.value)


# Content parts


def as_parts(prompt):
    return [{"role": "user", "content": [{"type": "text", "text": prompt}]}]


@pytest.mark.parametrize("template", [PARTS, PARTS_BY_TEXT], ids=["by_type", "by_text"])
def test_templates_over_content_parts_get_parts(model, tokenizer, template):
    """A plain string doesn't disappear, and equals transformers given parts."""
    own = with_template(tokenizer, template)
    found = reader(model, own).transform(FEW)
    assert len(np.unique(found.round(4), axis=0)) == len(FEW)
    expected = bare_rows(model, own, [as_parts(prompt) for prompt in FEW], LAYER)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_system_prompt_and_conversations_become_parts_too(model, tokenizer):
    """Every message of a conversation, and ``system_prompt``."""
    own = with_template(tokenizer, PARTS)
    turns = [("user", "boil an egg"), ("assistant", "knock"), ("user", "who is there")]
    plain = [{"role": role, "content": text} for role, text in turns]
    parts = [{"role": role, "content": as_parts(text)[0]["content"]} for role, text in turns]
    system = {"role": "system", "content": as_parts("stop it now")[0]["content"]}
    found = reader(model, own, system_prompt="stop it now").transform([plain, "knock"])
    expected = bare_rows(model, own, [[system, *parts], [system, *as_parts("knock")]], LAYER)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_instruction_is_found_among_parts(model, tokenizer):
    """``position="instruction"`` and ``truncate`` render the template too."""
    own = with_template(tokenizer, PARTS)
    found = reader(model, own, position="instruction").transform(FEW)
    ids = [bare_ids(own, as_parts(prompt)) for prompt in FEW]
    expected = [bare_activations(model, i, LAYER, position=-3) for i in ids]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    long = reader(model, own, truncate=True).transform(["knock " * 100, "knock " * 200])
    np.testing.assert_allclose(long[0], long[1], atol=1e-5)


def test_generation_gets_parts(model, tokenizer):
    """In ``generate`` as in extraction."""
    own = with_template(tokenizer, PARTS)
    watching = wrapper_of(reader(model, own), on_harmful=None, on_harmless=None)
    expected = [bare_generate(model, own, bare_ids(own, as_parts(p))) for p in PROMPTS]
    assert watching.generate(PROMPTS) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|{{ m['role'] }}|> {% endfor %}<|assistant|> ",
        "{% for m in messages %}<|{{ m['role'] }}|> {{ m['text'] }} {% endfor %}<|assistant|> ",
        "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'][:0] }} {% endfor %}",
    ],
    ids=["no_content", "another_key", "cut"],
)
def test_a_template_that_loses_the_prompt_is_refused(model, tokenizer, template):
    """If two different prompts render alike, the error names ``chat_template``."""
    transformer = reader(model, with_template(tokenizer, template))
    with pytest.raises(ValueError, match="chat_template"):
        transformer.transform(FEW)
    with pytest.raises(ValueError, match="chat_template"):
        transformer.fit(FEW)


# The check must not refuse templates that are picky but sound.
@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0]['role'] == 'user' and messages[0]['content'] | length < 4 %}"
        "{{ raise_exception('too short') }}{% endif %}",
        "{% if messages | length != 1 %}{{ raise_exception('one message') }}{% endif %}",
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}",
    ],
    ids=["length", "one_message", "system"],
)
def test_the_check_for_lost_prompts_accepts_picky_templates(model, tokenizer, template):
    """Probing a template with prompts of skgate's own doesn't refuse a sound one."""
    own = with_template(tokenizer, template + tokenizer.chat_template)
    needs_system = "no system" in template
    system = [{"role": "system", "content": "stop it now"}] if needs_system else []
    conversations = [[*system, {"role": "user", "content": prompt}] for prompt in FEW]
    found = reader(model, own).transform(conversations)
    np.testing.assert_allclose(found, bare_rows(model, own, conversations, LAYER), atol=1e-5)
