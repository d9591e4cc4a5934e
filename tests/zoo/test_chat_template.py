"""Forms of chat templates: the text of every conversation is the one that Jinja makes."""

import dataclasses
import json
from pathlib import Path

import pytest
from chat_cases import TOKENS, conversations, digest
from pydantic import TypeAdapter

from zoo.text.chat_form import ChatForm, render

FOLDER = Path(__file__).parent / "fixtures" / "chat_templates"
RECORDED = json.loads((FOLDER / "recorded.json").read_text(encoding="utf-8"))
NAMES = ["gemma", "llama2", "llama3", "mistral", "phi3", "qwen2", "zephyr"]


def recorded_form(name):
    return TypeAdapter(ChatForm).validate_python(RECORDED[name]["form"])


def compile_form(source):
    module = pytest.importorskip("zoo.text.chat_template", exc_type=ImportError)
    return module.chat_form(source, **TOKENS)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_those_that_jinja_made(name):
    form, texts = recorded_form(name), RECORDED[name]["texts"]
    for place, (messages, generate) in enumerate(conversations(name)):
        text = render(form, messages, generate)
        assert digest(text) == texts[8 * place : 8 * place + 8], (messages, generate, text)


@pytest.mark.parametrize("name", NAMES)
def test_the_form_of_a_template(name):
    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    assert dataclasses.asdict(compile_form(source)) == RECORDED[name]["form"]


def test_a_default_system_message_and_a_merged_one():
    ask = [{"role": "user", "content": " Why? "}]
    told = [{"role": "system", "content": "Be kind."}, *ask]
    assert render(recorded_form("qwen2"), ask) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n Why? <|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(recorded_form("gemma"), told) == (
        "<s><start_of_turn>user\nBe kind.\n\nWhy?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert render(recorded_form("mistral"), told) == "<s> [INST] Be kind.\n\n Why?  [/INST]"


def test_an_order_that_a_model_does_not_have():
    assistant = [{"role": "assistant", "content": "a"}]
    with pytest.raises(ValueError, match=r"no 'assistant' after 'start'; it has .*start>user"):
        render(recorded_form("gemma"), assistant)
    assert render(recorded_form("llama3"), assistant, generate=False).endswith("a<|eot_id|>")


LOOP = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for m in messages %}", "the chat template is no Jinja: "),
        ("{{ raise_exception('never') }}", "the chat template refuses user 'qz0.*: never"),
        ("{{ messages[0].missing.name }}", "the chat template refuses user"),
        ("nothing", "the chat template leaves out message 0"),
        (LOOP.replace("m.content", "m.content | upper"), "leaves out message 0"),
        # The number of messages, something in a content, a last turn: none is the roles' alone.
        (LOOP + "{{ messages | length }}", "no form that goes by roles: of .*, add_gen"),
        (LOOP.replace("m.content", "m.content.split('</think>')[-1]"), "no form .*think"),
        (LOOP + "{% if tools %}{{ messages[1:] | length }}{% endif %}{{ messages | length }}",
         "The template also reads tools, which no form holds"),
        ("{{ ''.__class__.__mro__ }}" + LOOP, "refuses user .*unsafe"),
    ],
)  # fmt: skip
def test_a_template_without_a_form_says_why(source, message):
    with pytest.raises(ValueError, match=message):
        compile_form(source)
