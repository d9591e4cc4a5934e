"""From a Jinja chat template to its form: probes say what it is, random conversations check it.

The template runs in Jinja's sandbox, once, when a model is read; a served model has the form alone.
"""

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zoo.text.chat_form import END, GENERATE, ROLES, START, ChatForm, Joint, Messages, Strip, render

# Checked before a form is believed.
_CONVERSATIONS = 400
_CONTENTS = (
    *("", " ", "\n", "Hello", "What is 2 + 2?", "  two\n\nlines ", "\ta tab", "end\n"),
    *("{{ braces }} {% if %}", "<b>&amp;</b>", "[INST]", "\u4f60\u597d", "\U0001f600 \u00e9"),
    *("\u3000wide\u00a0", "'quotes' \"double\"", "a\\n", "\x85next line\x1c"),
)
# Orders of roles to ask for. The usual ones come first: where orders differ they say what two have.
_TURNS = (("user",), ("user", "assistant"), ("user", "assistant", "user"))
_USUAL = (*_TURNS, *(("system", *roles) for roles in _TURNS))
_OTHERS = tuple(roles for length in (1, 2, 3) for roles in itertools.product(ROLES, repeat=length))
# What a message may hold beside its content, and a form does not.
_BEYOND = ("tools", "tool_calls", "tool_call_id", "documents", "images", "reasoning_content")


class ChatTemplateError(ValueError):
    """A chat template has no form: the message says why, with the conversation that shows it."""


def chat_form(template: str, bos_token: str = "", eos_token: str = "") -> ChatForm:
    """The form of a chat template, as a `tokenizer_config.json` or `chat_template.jinja` has it.

    Conversations are an optional system message and then those of user and assistant, beginning
    with the user's; in any other order too where the template takes it. Tools have no form.

    Args:
        template: Jinja source.
        bos_token, eos_token: what the template knows by these names.

    Raises:
        ChatTemplateError: the template is no Jinja, takes no user's message, or answers some
            conversation otherwise than by roles that follow on each other.
    """
    ask = _Template(template, bos_token, eos_token)
    try:
        return _checked(ask, [*_USUAL, *_OTHERS])
    except ChatTemplateError:  # an order that it takes by chance, and makes nonsense of
        return _checked(ask, _USUAL)


def _checked(ask: "_Template", orders: Sequence[tuple[str, ...]]) -> ChatForm:
    """The form of these orders of roles, as random conversations have it, too."""
    form = ChatForm(_joints(ask, orders))
    rng = random.Random(0)
    for _ in range(_CONVERSATIONS):
        messages, generate = _conversation(rng, form, ask.strings), rng.random() < 0.5
        last = messages[-1]["role"]
        if f"{last}>{GENERATE if generate else END}" not in form.joints:
            continue
        wanted, got = ask(messages, generate), render(form, messages, generate)
        if wanted != got:
            raise ChatTemplateError(
                f"the chat template has no form that goes by roles: of {_shown(messages)}, "
                f"add_generation_prompt={generate}, it makes {wanted!r}, the form {got!r}"
                f"{ask.beyond()}"
            )
    return form


class _Template:
    """A template as transformers runs it, without the date of today."""

    def __init__(self, source: str, bos_token: str, eos_token: str):
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._source = source
        try:
            parsed = environment.parse(source)
            self._names = meta.find_undeclared_variables(parsed)
            # A template that looks for some text in a content ("</think>") has that written in it.
            constants = {node.value for node in parsed.find_all(nodes.Const)}
            self.strings = sorted(text for text in constants if isinstance(text, str) and text)
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template is no Jinja: {error}") from error

    def __call__(self, messages: Messages, generate: bool) -> str:
        """The text, or ChatTemplateError where the template refuses the conversation."""
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=generate,
                **self._tokens,
            )
        # A template is a program: what is wrong in it may be any Python error.
        except Exception as error:
            raise ChatTemplateError(
                f"the chat template refuses {_shown(messages)}: {error}{self.beyond()}"
            ) from error

    def beyond(self) -> str:
        """What the template reads and no form holds, as the end of a message."""
        names = [name for name in _BEYOND if name in self._names or name in self._source]
        return f". The template also reads {', '.join(names)}, which no form holds" if names else ""


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _shown(messages: Messages) -> str:
    return ", ".join(f"{one['role']} {one['content']!r}" for one in messages) or "no messages"


def _sentinel(place: int) -> str:
    """A content that no template holds."""
    return f"qz{place}contentzq"


def _joints(ask: _Template, orders: Sequence[tuple[str, ...]]) -> dict[str, Joint]:
    """What stands between sentinels in the shortest conversations that hold each pair of roles."""
    joints: dict[str, Joint] = {}
    for roles, end in itertools.product(orders, (GENERATE, END)):
        known = [START, *roles, end]
        if all(f"{a}>{b}" in joints for a, b in itertools.pairwise(known)):
            continue
        messages = [{"role": role, "content": _sentinel(i)} for i, role in enumerate(roles)]
        try:
            texts = _between(ask(messages, end == GENERATE), len(roles))
        except ChatTemplateError:
            if roles == ("user",):  # what every chat has
                raise
            continue  # an order that the template refuses
        for place, (before, after) in enumerate(itertools.pairwise(known)):
            joint = Joint(texts[place])
            if place < len(roles) and f"{before}>{after}" not in joints:
                strip = _strip(ask, messages, place, end == GENERATE)
                joint = Joint(texts[place], strip)
                if strip in ("right", "both"):
                    without = [*messages[:place], {**messages[place], "content": ""}]
                    made = ask([*without, *messages[place + 1 :]], end == GENERATE)
                    joined = texts[place] + texts[place + 1] not in made
                    joint = Joint(texts[place], strip, joined)
            joints.setdefault(f"{before}>{after}", joint)
    return joints


def _between(text: str, count: int) -> list[str]:
    """The `count + 1` parts of a text around sentinels, each of which it must hold once."""
    parts = []
    for place in range(count):
        before, found, text = text.partition(_sentinel(place))
        if not found:
            raise ChatTemplateError(f"the chat template leaves out message {place}, or moves it")
        parts.append(before)
    return [*parts, text]


def _strip(ask: _Template, messages: Messages, place: int, generate: bool) -> Strip:
    """On which sides the content of a message loses its whitespace."""
    spaced = {**messages[place], "content": f"\f{_sentinel(place)}\v"}  # no template has these
    text = ask([*messages[:place], spaced, *messages[place + 1 :]], generate)
    left, right = f"\f{_sentinel(place)}" in text, f"{_sentinel(place)}\v" in text
    if left:
        return "none" if right else "right"
    return "left" if right else "both"


def _conversation(
    rng: random.Random, form: ChatForm, strings: Sequence[str]
) -> list[dict[str, str]]:
    """A random conversation in an order that the form has, some of it in the template's words."""
    messages, before = [], START
    contents = [*_CONTENTS, *strings[: len(_CONTENTS)]]
    for _ in range(rng.randint(1, 7)):
        after = [role for role in ROLES if f"{before}>{role}" in form.joints]
        if not after:
            break
        before = rng.choice(after)
        content = "".join(rng.choices(contents, k=rng.randint(0, 3)))
        messages.append({"role": before, "content": content})
    return messages
