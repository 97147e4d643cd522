"""Messages as they come out of Parquet files and chat APIs."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from bare import GREEDY, LANGUAGE, PROMPTS, Y, bare_rows, let_harmful_words_share
from shifted import pooled_gate
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, SteeringWrapper

LAYER = 1
# As Hermes' and Qwen's: tells keys that are there from keys that are not.
TOOLS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> "
    "{% if m.name is defined %}who {{ m.name }} {% endif %}"
    "{% if m.content is not none and m.content is defined %}{{ m.content | trim }} {% endif %}"
    "{% if m.tool_calls is defined %}knock {% for c in m.tool_calls %}"
    "{{ c.function.name }} {% for k, v in c.function.arguments.items() %}{{ k }} {{ v }} "
    "{% endfor %}{% endfor %}{% endif %}<|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
PARTS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> "
    "{% for part in m['content'] %}{{ part['text'] }} {% endfor %}<|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
CALLS = [
    {"type": "function", "function": {"name": "boil", "arguments": {"an": "egg"}}},
    {"type": "function", "function": {"name": "kill", "arguments": {"a": "process"}}},
]
# A user's question, two tool calls without any text, and what the tools said.
CALLING = [
    {"role": "user", "content": "boil an egg"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "user", "content": "who is there"},
]
PLAIN = [
    {"role": "user", "content": "knock knock"},
    {"role": "assistant", "content": "who is there"},
    {"role": "user", "content": "the cat"},
]
HALF = "\ud83d"  # of a pair, as "\\ud83d" in JSON that was cut
WHOLE = "\U0001f600"


@pytest.fixture
def model(tokenizer):
    return let_harmful_words_share(make_model("llama"), tokenizer)


@pytest.fixture
def tools(tokenizer):
    return with_template(tokenizer, TOOLS)


def with_template(tokenizer, template):
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


def reader(model, tokenizer, **params):
    return ActivationTransformer(model, tokenizer=tokenizer, layer=LAYER, store=False, **params)


def fill(conversation, *keys):
    """Give every message every key, as a column of structs in a Parquet file does."""
    return [dict.fromkeys(keys) | message for message in conversation]


def test_keys_without_a_value_are_not_there(model, tools):
    """Keys that are None render as if they were absent."""
    # Recent versions of transformers drop them, 5.2 does not.
    filled = fill(PLAIN, "name", "tool_calls", "tool_call_id", "reasoning_content")
    found = reader(model, tools).transform([filled, PLAIN])
    expected = bare_rows(model, tools, [PLAIN, PLAIN], LAYER)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_keys_with_a_value_stay(model, tools):
    """Only None is dropped; "" and 0 and a name are not."""
    named = [{**message, "name": "cat"} for message in PLAIN]
    empty = [{**message, "name": ""} for message in PLAIN]
    found = reader(model, tools).transform([named, empty])
    np.testing.assert_allclose(found, bare_rows(model, tools, [named, empty], LAYER), atol=1e-5)


def test_tool_calls_without_content_are_passed_on(model, tools):
    """``content=None`` beside ``tool_calls`` is what chat APIs send."""
    found = reader(model, tools).transform([CALLING, fill(CALLING, "name", "tool_call_id")])
    expected = bare_rows(model, tools, [CALLING, CALLING], LAYER)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tool_calls_without_the_key_content_are_passed_on(model, tools):
    """Nor need there be the key."""
    missing = [{k: v for k, v in message.items() if v is not None} for message in CALLING]
    found = reader(model, tools).transform([missing])
    np.testing.assert_allclose(found, bare_rows(model, tools, [missing], LAYER), atol=1e-5)


@pytest.mark.parametrize("tool_calls", [{}, {"tool_calls": None}, {"tool_calls": []}])
def test_no_content_and_no_tool_calls_is_an_error_with_its_row(model, tools, tool_calls):
    """A message that says nothing at all names its row and key."""
    nothing = [{"role": "user", "content": None, **tool_calls}]
    with pytest.raises((TypeError, ValueError), match=r"X\[1\]\[0\]\['content'\]"):
        reader(model, tools).transform(["boil", nothing])


def test_conversations_from_parquet(model, tools, tmp_path):
    """Written to Parquet and read again, structs filled up and lists as arrays."""
    path = tmp_path / "conversations.parquet"
    pd.DataFrame({"messages": [PLAIN, CALLING[:1], PLAIN[2:]]}).to_parquet(path)
    named = [{**message, "name": "cat"} for message in PLAIN]
    pd.DataFrame({"messages": [named, CALLING[:1], PLAIN[2:]]}).to_parquet(path)
    read = pd.read_parquet(path)["messages"]
    assert read[1][0]["name"] is None
    found = reader(model, tools).transform(read)
    expected = bare_rows(model, tools, [named, CALLING[:1], PLAIN[2:]], LAYER)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tool_calls_from_parquet(model, tools, tmp_path):
    """Tool calls come back as an array of dicts, beside turns that have none."""
    path = tmp_path / "calls.parquet"
    calls = [
        {**CALLS[i], "function": {**CALLS[i]["function"], "arguments": {"an": "egg"}}}
        for i in (0, 1)
    ]
    calling = [CALLING[0], {**CALLING[1], "tool_calls": calls}, CALLING[2]]
    pd.DataFrame({"messages": [calling, PLAIN]}).to_parquet(path)
    read = pd.read_parquet(path)["messages"]
    assert isinstance(read[0][1]["tool_calls"], np.ndarray)
    found = reader(model, tools).transform(read)
    np.testing.assert_allclose(found, bare_rows(model, tools, [calling, PLAIN], LAYER), atol=1e-5)


def text_part(text, **more):
    return {"type": "text", "text": text, **more}


@pytest.mark.parametrize("template", [None, PARTS])
@pytest.mark.parametrize("more", [{}, {"image": None, "image_url": None}])
def test_one_text_part_is_its_text(model, tokenizer, template, more):
    """A list of one text part equals the text, with any kind of template."""
    own = tokenizer if template is None else with_template(tokenizer, template)
    text = [{"role": "user", "content": "boil an egg"}]
    parts = [{"role": "user", "content": [text_part("boil an egg", **more)]}]
    found = reader(model, own).transform([text, parts])
    expected = bare_rows(model, own, [text if template is None else parts], LAYER)
    np.testing.assert_allclose(found, np.repeat(expected, 2, axis=0), atol=1e-5)


def test_several_text_parts_go_as_they_are_to_a_template_over_parts(model, tokenizer):
    """Nothing is joined where the template wants parts."""
    own = with_template(tokenizer, PARTS)
    parts = [{"role": "user", "content": [text_part("boil"), text_part("an egg")]}]
    np.testing.assert_allclose(
        reader(model, own).transform([parts]), bare_rows(model, own, [parts], LAYER), atol=1e-5
    )


def test_several_text_parts_are_joined_for_a_template_over_texts(model, tokenizer):
    """In order, all of them; never the text of a Python list."""
    parts = [{"role": "user", "content": [text_part("boil "), text_part("an egg")]}]
    found = reader(model, tokenizer).transform([parts])
    np.testing.assert_allclose(
        found, bare_rows(model, tokenizer, ["boil an egg"], LAYER), atol=1e-5
    )


@pytest.mark.parametrize("content", [[], [text_part("")], [text_part(" "), text_part("\n")]])
def test_parts_without_any_text_are_an_error_with_their_row(model, tokenizer, content):
    """An empty list of parts is an empty prompt."""
    empty = [{"role": "user", "content": content}]
    with pytest.raises((TypeError, ValueError), match=r"X\[1\]"):
        reader(model, tokenizer).transform(["boil", empty])


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image"}, "image"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/secret"}}, "image"),
        ({"type": "input_audio", "input_audio": {"data": "secret"}}, "audio"),
        ({"type": "video", "path": "secret"}, "video"),
        ({"text": 5, "type": "text"}, "text"),
        ({"a": "secret"}, "type"),
        (5, "int"),
    ],
)
def test_parts_that_are_no_text_are_refused_by_name(model, tokenizer, part, kind):
    """The error says row and kind, and nothing of what is in it."""
    message = [{"role": "user", "content": [text_part("boil"), part]}]
    with pytest.raises((ValueError, TypeError), match=rf"(?s)X\[1\].*{kind}") as caught:
        reader(model, tokenizer).transform(["boil an egg", message])
    assert "secret" not in str(caught.value)
    if kind in ("image", "audio", "video"):
        assert isinstance(caught.value, ValueError)


def test_messages_of_all_kinds_can_be_steered(model, tools):
    """``SteeringWrapper`` takes what ``transform`` takes, and decides alike."""
    pipeline = make_pipeline(reader(model, tools), pooled_gate(calibration="threshold"))
    wrapper = SteeringWrapper(pipeline, generate_kwargs=GREEDY, strength=1.0).fit(
        PROMPTS, Y, language=LANGUAGE
    )
    parts = [{"role": "user", "content": [text_part("boil an egg")]}]
    several = [fill(PLAIN, "name"), CALLING, parts]
    clean = [PLAIN, CALLING, "boil an egg"]
    _, decisions = wrapper.generate(several, return_decisions=True)
    rows = bare_rows(model, tools, clean, LAYER)
    np.testing.assert_allclose(
        decisions["harm_score"], wrapper.gate_[-1].harm_score(rows), rtol=1e-3
    )


@pytest.mark.parametrize("calls", [1, "knock", {"function": {}}])
def test_tool_calls_are_a_list(model, tokenizer, calls):
    chat = [{"role": "user", "content": "boil"}, {"role": "assistant", "tool_calls": calls}]
    with pytest.raises(TypeError, match=r"X\[0\]\[1\]\['tool_calls'\] is a .*expected a list"):
        ActivationTransformer(model, tokenizer=tokenizer, layer=LAYER).transform([chat])


@pytest.mark.parametrize("content", ["", " \n"])
def test_the_last_message_of_the_user_has_text(model, tokenizer, content):
    """As a prompt that is a text must have some."""
    chat = [{"role": "user", "content": "boil"}, {"role": "user", "content": content}]
    with pytest.raises(ValueError, match=r"X\[1\]\[1\]\['content'\] is empty"):
        ActivationTransformer(model, tokenizer=tokenizer, layer=LAYER).transform(["boil", chat])


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT])
def test_a_missing_prompt_is_a_missing_value(model, tokenizer, gap):
    with pytest.raises(ValueError, match=r"X\[1\] is .*, a missing value"):
        ActivationTransformer(model, tokenizer=tokenizer, layer=LAYER).transform(["boil", gap])


# Half a surrogate pair


@pytest.mark.parametrize("chat_template", [True, False])
def test_half_a_surrogate_pair_names_row_and_cause(model, tokenizer, chat_template):
    """Row 500 of 501 is named, with the cause; what it says is not."""
    X = [f"boil {i}" for i in range(500)] + [f"secret {HALF} egg"]
    with pytest.raises(ValueError, match=r"(?s)X\[500\].*surrogate") as caught:
        reader(model, tokenizer, chat_template=chat_template).transform(X)
    assert "secret" not in str(caught.value)
    str(caught.value).encode()  # the message itself can be printed


@pytest.mark.parametrize("content", [f"egg {HALF}", [text_part(f"egg {HALF}")]])
def test_half_a_surrogate_pair_in_a_conversation(model, tokenizer, content):
    """In a message too, as text or as a part."""
    X = ["boil", [*PLAIN[:2], {"role": "user", "content": content}]]
    with pytest.raises(ValueError, match=r"(?s)X\[1\].*surrogate"):
        reader(model, tokenizer).transform(X)


def test_half_a_surrogate_pair_in_generate(model, tokenizer):
    """Before anything is generated."""
    pipeline = make_pipeline(reader(model, tokenizer), pooled_gate(calibration="threshold"))
    wrapper = SteeringWrapper(pipeline, generate_kwargs=GREEDY, strength=1.0).fit(
        PROMPTS, Y, language=LANGUAGE
    )
    with pytest.raises(ValueError, match=r"(?s)\[1\].*surrogate"):
        wrapper.generate(["boil", f"egg {HALF}"])


def test_half_a_surrogate_pair_in_the_system_prompt(model, tokenizer):
    """Not blamed on a row, but on ``system_prompt``."""
    with pytest.raises(ValueError, match=r"(?s)system_prompt.*surrogate"):
        reader(model, tokenizer, system_prompt=f"stop {HALF}").transform(["boil"])


def test_whole_surrogate_pairs_are_fine(model, tokenizer):
    """An emoji is no error."""
    X = [
        f"boil {WHOLE} egg",
        f"boil {HALF.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')}",
    ]
    np.testing.assert_allclose(
        reader(model, tokenizer).transform(X), bare_rows(model, tokenizer, X, LAYER), atol=1e-5
    )
