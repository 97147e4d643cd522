"""Chat templates: which content they take, and what day it is for those that read the clock."""

from __future__ import annotations

import re
import string
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from skgate._base import find_stack_level
from skgate.model._fingerprint import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from skgate._messages import Message

T = TypeVar("T")

_CLOCK = "strftime_now"  # the function that transformers gives to templates
# Two prompts of equal length: a template may well count the characters of content it ignores.
# They differ in their first and last characters, so that both ends of a prompt can be found.
PROBES = ("apple trees are green", "olive trees grow here")
_OTHER_DAYS = ("2001-02-03", "2012-11-10")
_MAX_FOUND = 512

_found: dict[str, Any] = {}  # what is known of each template
_told: set[str] = set()  # templates whose date was told
_telling = threading.Lock()


def check_template_date(value: Any) -> str:
    """Return the parameter ``template_date``; raise a ValueError if it is no ISO date."""
    try:
        if date.fromisoformat(value).isoformat() == value:
            return str(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"Got template_date={value!r}, expected an ISO date as a str, such as '2026-01-01'."
    )


def stable(value: Any) -> Any:
    """Replace functions by what the template sees of them, which is the same in every process."""
    if isinstance(value, dict):
        return {key: stable(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(stable, value))
    if not callable(value):
        return value
    from transformers.utils.chat_template_utils import get_json_schema

    try:
        return get_json_schema(value)
    except Exception:  # no schema can be made: the template gets the function itself
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """A tokenizer's chat template, and what it is rendered with.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer.
    arguments : mapping
        Further arguments of ``tokenizer.apply_chat_template``.
    day : str
        The date that the template sees if it reads the clock, as "2026-01-01".
    """

    tokenizer: PreTrainedTokenizerBase
    arguments: Mapping[str, Any]
    day: str

    @cached_property
    def date(self) -> str:
        """The date that prompts depend on; "" if the template does not read the clock."""
        return self.day if self._names_clock and self._recall("clock", self._reads_clock) else ""

    def loses(self, role: str) -> bool:
        """Whether a conversation looks the same whatever the messages of a role say."""
        takes = [self._takes(role, form) for form in ("text", "parts")]
        return False in takes and True not in takes

    def tell_date(self) -> None:
        """Warn that the template sees a fixed date, once per process and template."""
        if not self.date:
            return
        with _telling:
            is_new = digest(self._text) not in _told
            _told.add(digest(self._text))
        if is_new:
            warnings.warn(
                "The chat template reads the clock, so that prompts would change every day. It is "
                f"rendered as on {self.date}; set the date with template_date.",
                UserWarning,
                stacklevel=find_stack_level(),
            )

    def render(self, messages: Sequence[Message]) -> str:
        """Render a conversation, ready for the model's reply.

        Parameters
        ----------
        messages : sequence of dict
            The messages, as :func:`skgate._messages.check_prompt` returns them.

        Returns
        -------
        text : str
            The text that the model sees.
        """
        return self._apply([self._fit(message) for message in messages], self.day, self.arguments)

    @cached_property
    def _text(self) -> str:
        """Source of the template; "" if there is none in Jinja."""
        given = self.arguments.get("chat_template")
        if not (given or self.tokenizer.chat_template):
            return ""
        text = self.tokenizer.get_chat_template(given, self.arguments.get("tools"))
        return text if isinstance(text, str) else ""

    @cached_property
    def _key(self) -> str:
        return digest(self._text, stable(sorted(self.arguments.items())))

    @cached_property
    def _names_clock(self) -> bool:
        """Whether the template may read the clock that skgate sets."""
        if _CLOCK not in self._text or _CLOCK in self.arguments:
            return False
        return _recall(digest("names clock", self._text), lambda: _names(self._text, _CLOCK))

    def _recall(self, what: str, find: Callable[[], T]) -> T:
        """Find out something about the template, once."""
        return _recall(f"{what} {self._key}", find)

    def _apply(
        self, messages: Sequence[Mapping[str, Any]], day: str, arguments: Mapping[str, Any]
    ) -> str:
        if self._names_clock:
            text = self._text
            set_clock = _recall(digest("set clock", text, day), lambda: _set_clock(text, day))
            arguments = {**arguments, "chat_template": f"{set_clock}{text}"}
        return self.tokenizer.apply_chat_template(  # type: ignore[return-value]  # (a str, not tokenized)
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            **arguments,
        )

    def _reads_clock(self) -> bool:
        """Whether prompts depend on the date, unless an argument such as Llama's replaces it."""
        needed = {k: v for k, v in self.arguments.items() if k == "chat_template"}
        others = len(self.arguments) > len(needed)
        return not others or self._sees(self.arguments) or not self._sees(needed)

    def _sees(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a short conversation looks different on another day."""
        for messages in self._conversations("user", PROBES[0]):
            fitted = [self._fit(message) for message in messages]
            try:
                one, two = (self._apply(fitted, day, arguments) for day in _OTHER_DAYS)
            except Exception:  # the template is not for such conversations
                continue
            if one != two:
                return True
        return False

    def _fit(self, message: Message) -> Message:
        """Give a message's content the form that the template takes."""
        role, content = message["role"], message.get("content")
        if content is None:
            return message
        if isinstance(content, str):
            is_other = not self._takes(role, "text") and self._takes(role, "parts")
            content = _give_form(content, "parts") if is_other else content
        elif not self._takes(role, "parts"):
            content = "".join(part["text"] for part in content)
        return {**message, "content": content}

    def _takes(self, role: str, form: str) -> bool | None:
        """Whether the template writes the content of a role's messages in a form.

        None if no short conversation with such a message can be rendered.
        """
        return self._recall(f"{role} {form}", lambda: self._try(role, form))

    def _try(self, role: str, form: str) -> bool | None:
        pairs = (self._conversations(role, _give_form(probe, form)) for probe in PROBES)
        for conversations in zip(*pairs, strict=True):
            try:
                one, two = (self._apply(one, self.day, self.arguments) for one in conversations)
            except Exception:  # the template is not for such conversations
                continue
            return one != two and not (form == "parts" and _is_written_whole(one))
        return None

    def _conversations(self, role: str, content: Any) -> list[list[Message]]:
        """List short conversations in which one message, of the given role, has the content."""
        message = {"role": role, "content": content}
        if role == "user":
            form = "text" if isinstance(content, str) else "parts"
            system = {"role": "system", "content": _give_form(PROBES[0], form)}
            return [[message], [system, message]]
        user = self._fit({"role": "user", "content": PROBES[0]})
        if role == "system":
            return [[message, user]]
        return [[user, message, user], [user, message]]


def _give_form(text: str, form: str) -> Any:
    return [{"type": "text", "text": text}] if form == "parts" else text


def _is_written_whole(text: str) -> bool:
    """Whether a list of parts was written as a list, and not as the texts in it."""
    return re.search(r"""['"]type['"]: ?['"]text""", text) is not None


def _names(text: str, name: str) -> bool:
    """Whether the code of a template, outside of comments and texts, contains a name."""
    import jinja2

    try:
        tokens = list(jinja2.Environment().lex(text))
    except jinja2.TemplateSyntaxError:
        return True  # rendering will say what is wrong
    return any(kind == "name" and value == name for _, kind, value in tokens)


def _set_clock(text: str, day: str) -> str:
    """Write a macro that takes the place of the clock, in front of a template.

    Functions can't be passed to templates since transformers 5.23. So each format code, such as
    ``%Y``, is replaced by what it means on the given day.
    """
    midnight = datetime.fromisoformat(day)
    codes = {f"%{letter}" for letter in string.ascii_letters}
    codes |= set(re.findall(r"%[-_0^#:EO]+[A-Za-z]", text))
    replace = ""
    for code in sorted(codes):
        try:
            value = midnight.strftime(code)
        except ValueError:  # not known on this system
            continue
        if value != code:
            replace += f" | replace({code!r}, {value!r})"
    return (
        f"{{% macro {_CLOCK}(format) %}}{{% for piece in format.split('%%') %}}"
        f"{{% if not loop.first %}}{{{{ '%' }}}}{{% endif %}}{{{{ piece{replace} }}}}"
        "{% endfor %}{% endmacro %}\n"  # (the line's end is not rendered)
    )


def _recall(key: str, find: Callable[[], T]) -> T:
    """Return what was found under a key before, else find it."""
    try:
        value: T = _found[key]
    except KeyError:
        value = find()
        if len(_found) >= _MAX_FOUND:
            _found.clear()
        _found[key] = value
    return value
