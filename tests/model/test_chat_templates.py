"""The macro that takes the place of the clock, and what is found out about templates."""

from __future__ import annotations

import copy
import datetime
from concurrent.futures import ThreadPoolExecutor

import pytest

from skgate import ActivationTransformer
from skgate.model._templates import ChatTemplate

DAY = "2024-02-09"
ASK = [{"role": "user", "content": "boil an egg"}]


def make(tokenizer, source, day=DAY, **arguments):
    own = copy.deepcopy(tokenizer)
    own.chat_template = source
    return ChatTemplate(own, arguments, day)


@pytest.mark.parametrize(
    "code",
    [
        "%d %b %Y",
        "%A, %-d %B",
        "%H:%M:%S",
        "100%% on %j",
        "%%Y",
        "%%%Y",
        "%e|%y|%I %p",
        "%F %T",
        "",
    ],
)
def test_the_macro_formats_as_python_does(tokenizer, code):
    source = f"{{{{ messages[0]['content'] }}}}[{{{{ strftime_now({code!r}) }}}}]"
    expected = datetime.datetime.fromisoformat(DAY).strftime(code)
    assert make(tokenizer, source).render(ASK) == f"boil an egg[{expected}]"


def test_the_clock_in_macros_loops_and_variables(tokenizer):
    source = (
        "{% macro when(form) %}{{ strftime_now(format=form) }}{% endmacro %}"
        "{% set today = strftime_now('%d ' ~ '%B') if strftime_now is defined else 'never' %}"
        "{% for m in messages %}{{ when('%Y') }} {{ today | upper }} {{ m.content }}{% endfor %}"
    )
    assert make(tokenizer, source).render(ASK) == "2024 09 FEBRUARY boil an egg"


@pytest.mark.parametrize("start", ["", "\n", "  {% if true %}x{% endif %}\n", "\n\n  "])
def test_the_macro_leaves_white_space_as_it_is(tokenizer, start):
    body = "{{ messages[0]['content'] }}"
    silent = make(tokenizer, start + body).render(ASK)
    clock = "{% if false %}{{ strftime_now('%Y') }}{% endif %}"
    assert make(tokenizer, start + body + clock).render(ASK) == silent


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        ("{{ messages[0].content }}", {}, ""),
        ("{{ messages[0].content }}{# strftime_now() #}", {}, ""),
        ("{{ messages[0].content }} strftime_now 'strftime_now'", {}, ""),
        ("{{ messages[0].content }}{{ strftime_now('%Y') }}", {}, DAY),
        ("{{ messages[0].content }}{{ date or strftime_now('%Y') }}", {}, DAY),
        ("{{ messages[0].content }}{{ date or strftime_now('%Y') }}", {"date": "today"}, ""),
        ("{{ messages[0].content }}{{ date or strftime_now('%Y') }}", {"other": 1}, DAY),
        # The clock may be read for other conversations.
        ("{{ messages[0].content }}{% if tools %}{{ strftime_now('%Y') }}{% endif %}", {}, DAY),
    ],
)
def test_which_templates_read_the_clock(tokenizer, source, arguments, expected):
    assert make(tokenizer, source, **arguments).date == expected


def test_threads_see_their_own_dates(tokenizer):
    source = "{{ messages[0].content }} {{ strftime_now('%Y-%m-%d') }}"
    days = [f"2024-02-{i:02}" for i in range(1, 29)]
    templates = [make(tokenizer, source, day) for day in days]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda template: template.render(ASK), templates))
    assert texts == [f"boil an egg {day}" for day in days]


def test_a_template_over_parts_may_take_system_messages_as_text(tokenizer):
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | upper }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}|{% endfor %}"
    )
    messages = [{"role": "system", "content": "stop"}, *ASK]
    assert make(tokenizer, source).render(messages) == "STOP|boil an egg|"


def test_a_template_for_both_gets_what_there_is(tokenizer):
    source = (
        "{% if messages[0].content is string %}text {{ messages[0].content }}{% else %}"
        "{% for part in messages[0].content %}{{ part.text }}{% endfor %}{% endif %}"
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": t} for t in ("boil ", "it")]}]
    assert make(tokenizer, source).render(parts) == "boil it"
    assert make(tokenizer, source).render(ASK) == "text boil an egg"


def test_a_template_for_text_alone_gets_text(tokenizer):
    parts = [{"role": "user", "content": [{"type": "text", "text": t} for t in ("boil ", "it")]}]
    for source in ("{{ messages[0].content }}", "{{ messages[0]['content'] | tojson }}"):
        assert "type" not in make(tokenizer, source).render(parts)


def test_what_a_tool_says_gets_the_form_that_its_part_of_the_template_takes(tokenizer):
    source = (
        "{% for m in messages %}{% if m.role == 'tool' %}RESULT {{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}|{% endfor %}"
    )
    messages = [*ASK, {"role": "tool", "content": "42"}]
    assert make(tokenizer, source).render(messages) == "boil an egg|RESULT 42|"


def test_a_system_prompt_that_is_not_written_is_an_error(model, tokenizer):
    source = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    reader = ActivationTransformer(
        model,
        tokenizer=tokenizer,
        layer=1,
        system_prompt="be polite",
        chat_template_kwargs={"chat_template": source},
    )
    with pytest.raises(ValueError, match="does not write system messages"):
        reader.transform(["boil an egg"])
    reader.set_params(system_prompt=None).transform(["boil an egg"])


def test_a_last_user_message_that_is_not_written_is_named(model, tokenizer):
    chat = [*ASK, {"role": "assistant", "content": "stop"}]
    reader = ActivationTransformer(
        model,
        tokenizer=tokenizer,
        layer=1,
        position="instruction",
        chat_template_kwargs={"chat_template": "{{ messages[-1]['content'] }}"},
    )
    with pytest.raises(ValueError, match=r"X\[1\] has a last message of the user"):
        reader.transform(["boil an egg", chat])


def test_a_template_that_fails_for_short_prompts_is_not_judged(tokenizer):
    template = make(tokenizer, "{{ raise_exception('only with documents') }}")
    assert not template.loses("user")
    with pytest.raises(Exception, match="only with documents"):
        template.render(ASK)
