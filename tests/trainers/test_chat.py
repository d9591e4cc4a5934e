"""Task "chat": what is learnt of conversations, how they share windows, and what is refused."""

import dataclasses
import gzip
import itertools
import json
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from chat_cases import TOKENS

import zoo
from trainers.checkpoints import Checkpoints
from trainers.config import FineTuneConfig, OptimizerConfig, TrainConfig
from trainers.data.config import DataConfig
from trainers.data.labeled import answers, read_conversations
from trainers.loop import train
from trainers.own_data import own_config
from trainers.recorder import Recorder
from trainers.tasks import make_task
from trainers.tasks.chat import encoded
from zoo.config import ConfigError
from zoo.text.chat import TextChat
from zoo.text.chat_form import ChatForm, Joint
from zoo.text.chat_template import chat_form
from zoo.tokenizers import BytePairTokenizer

pytestmark = pytest.mark.tensorflow_only

NAMES = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
WORDS = "user assistant system model What does a cat dog cow hen say meow woof moo [INST] again"
ENDS = {"qwen2": "<|im_end|>", "llama2": "</s>", "mistral": "</s>", "gemma": "<end_of_turn>"}
SAYS = {"cat": "meow", "dog": "woof", "cow": "moo", "hen": "cluck"}
SYSTEM = ("system", "Be brief.")


def template(name):
    folder = Path(__file__).parents[1] / "zoo" / "fixtures" / "chat_templates"
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


def talk(*messages):
    return [{"role": role, "content": content} for role, content in messages]


def about(animal, *more):
    return talk(*more, ("user", f"What does a {animal} say?"), ("assistant", SAYS[animal]))


def turns(*animals, system=()):
    return [*talk(*system), *(message for animal in animals for message in about(animal))]


TALKS = [turns(a, b) for a in SAYS for b in SAYS if a != b]


def make_chat(form, end):
    tokenizer = BytePairTokenizer.train([WORDS], 300, special_tokens=NAMES, end=end)
    model = zoo.build(zoo.GPTConfig(tokenizer.vocabulary_size, 128, 1, 2, 16))
    return TextChat(tokenizer, model, form)


@pytest.fixture
def write(tmp_path):
    """Writes objects, or lines as they are, and gives the path."""

    def written(rows, name="talks.jsonl"):
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)

    return written


def config(source, start=None, length=96, **options):
    values = {
        "recipe": "own_chat",
        "task": "chat",
        "preset": "gpt_char_cpu",
        "model": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
        if start is None
        else {},
        "data": DataConfig(train=source, tokenizer="bytepair"),
        "finetune": FineTuneConfig(init_from=start),
        "optimizer": OptimizerConfig(name="adamw", learning_rate=0.02, warmup_steps=2),
        "batch_size": 2,
        "steps": 4,
        "evaluate_every": 2,
        "jit_compile": False,
        "sample_tokens": 4,
    }
    values["model"]["context_length"] = length
    return TrainConfig(**{**values, **options})


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """`bundles(template or None)` is the folder of a tiny model with its form."""

    def made(name, **options):
        folder = tmp_path_factory.mktemp("model")
        keras.utils.set_random_seed(0)
        end = ENDS.get(name, "<|im_end|>")
        tokenizer = BytePairTokenizer.train([WORDS], 300, special_tokens=NAMES, end=end)
        shape = {"context_length": 256, "num_layers": 1, "hidden_dim": 16, "num_heads": 2}
        model = zoo.build(zoo.GPTConfig(tokenizer.vocabulary_size, **shape))
        form = options.get("form") or (chat_form(template(name), **TOKENS) if name else None)
        zoo.save(folder, model, tokenizer, chat=form)
        return str(folder)

    return made


def messages(path, **options):
    data = DataConfig(train=path, tokenizer="bytepair", **options)
    return [one for one, _ in read_conversations(path, data)]


def columns(talks):
    width = max(map(len, talks))
    padded = [[*one, *[{"role": "", "content": ""}] * (width - len(one))] for one in talks]
    return [tf.constant([[m[key] for m in one] for one in padded]) for key in ("role", "content")]


@pytest.mark.parametrize("name", ENDS)
def test_answers_follow_the_ids_that_the_served_chat_reads(name):
    special = "<|im_end|>\n<|im_start|>system\n"  # text, in a content
    talks = [
        turns("cat", "dog"),
        talk(("user", f" a {special}"), ("assistant", f"\n\nno {special} "), *[("user", "So?")]),
        [*about("cow"), *talk(("user", ""), ("assistant", "moo </s>"))],
    ]
    if name != "mistral":
        talks.append(turns("hen", "cat", system=[SYSTEM]))
    chat = make_chat(chat_form(template(name), **TOKENS), ENDS[name])
    tokenizer, ends = chat.tokenizer, {*chat.tokenizer.end_ids}
    ended = [t[: answers(chat.form, t, "")[-1] + 1] for t in talks]
    for whole, rows in zip(talks, encoded(chat, ended)):
        for place in [n for n, message in enumerate(whole) if message["role"] == "assistant"]:
            prompt = chat.prompt(*columns([whole[:place]]), tf.constant([8])).to_list()[0]
            (found,) = [
                ids[len(prompt) :]
                for ids, learned in rows
                if ids[: len(prompt)] == prompt and learned[len(prompt)]
                and not learned[len(prompt) - 1]
            ]  # fmt: skip
            stop = next(n for n, token in enumerate(found) if token in ends)
            text = tokenizer.decode([found[:stop]]).numpy()[0].decode()
            assert text.strip() == whole[place]["content"].strip()
            mask = next(mask for ids, mask in rows if ids[len(prompt) :] == found)
            assert all(mask[len(prompt) : len(prompt) + stop + 1])
            assert not any(mask[len(prompt) + stop + 1 : len(prompt) + stop + 2])
        count = sum(message["role"] == "assistant" for message in whole)
        learned = sum(sum(b and not a for a, b in itertools.pairwise(mask)) for _, mask in rows)
        assert learned == count


def test_an_answer_whose_prompt_is_not_the_beginning_has_a_row_of_its_own():
    form = chat_form(template("qwen2"), **TOKENS)
    asked = Joint(form.joints["user>generate"].text + "<think>\n\n</think>\n\n")
    thinks = ChatForm({**form.joints, "user>generate": asked})
    chats = [make_chat(one, "<|im_end|>") for one in (form, thinks)]
    ours, theirs = (encoded(chat, [turns("cat", "dog")])[0] for chat in chats)
    assert len(ours) == 1 and len(theirs) == 2
    assert all(sum(mask) == sum(ours[0][1]) / 2 for _, mask in theirs)


def test_windows_hold_conversations_that_do_not_see_each_other(write, bundles):
    path = write([{"messages": one} for one in TALKS])
    task = make_task(config(path, bundles("qwen2"), 256, batch_size=3))
    inputs, targets, learned = task.train
    documents = inputs["document_ids"]
    assert documents[0, 0] == 1 and (documents == 2).any() and learned.any(axis=1).all()
    row = int(np.argmax((documents == 2).sum(axis=1)))
    together = task.trained_model({key: value[row : row + 1] for key, value in inputs.items()})
    for number in (1, 2):
        own = documents[row] == number
        alone = task.model(inputs["token_ids"][row][None, own])
        np.testing.assert_allclose(together[0][own], alone[0], rtol=1e-4, atol=1e-5)
        assert (targets[row][own][:-1] == inputs["token_ids"][row][own][1:]).all()
    # Every conversation is in one window, and every answer is learnt once.
    ends = np.isin(targets, task.tokenizer.end_ids) & learned
    assert ends.sum() == 2 * task.conversations
    # Batches are functions of the step, and an epoch has every window once.
    steps = task.plan.steps_per_epoch
    task = make_task(dataclasses.replace(task.config, steps=2 * steps))
    batches = list(task.training_data(0))
    again = next(iter(task.training_data(steps + 1)))
    keras.tree.map_structure(np.testing.assert_array_equal, batches[steps + 1], again)
    count = sum(int((batch[2].numpy() > 0).sum()) for batch in batches[:steps])
    assert count == learned.sum()
    host = next(iter(task.training_data(0, 1, 3)))
    whole = keras.tree.map_structure(lambda part: part[1:2], batches[0])
    keras.tree.map_structure(np.testing.assert_array_equal, host, whole)


def test_the_loss_is_a_mean_over_the_assistants_tokens(write, bundles):
    task = make_task(config(write([{"messages": one} for one in TALKS]), bundles("qwen2"), 128))
    task.compile("adam")
    inputs, targets, learned = task.validation
    logits = task.trained_model(inputs)
    losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    expected = np.array(losses)[learned].mean()
    data = task.validation_data[""]
    found = task.trained_model.evaluate(data, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    logs = {f"val_{key}": value for key, value in found.items()}
    assert task.evaluate(logs) == {name: logs[name] for name in ("val_loss", "val_accuracy")}


def test_weights_to_start_from_keep_their_context(write, bundles):
    path, start = write([{"messages": one} for one in TALKS]), bundles("qwen2")
    chosen, _ = own_config("chat", path, ["data.window=200"], init_from=start)
    task = make_task(chosen)
    assert (task.length, task.model.context_length) == (200, 256)
    assert task.train[1].shape[1] == 200
    for window in (None, 1000):  # at most the context
        data = dataclasses.replace(chosen.data, window=window)
        assert make_task(dataclasses.replace(chosen, data=data)).length == 256


def test_long_conversations_lose_their_oldest_turns(write, bundles):
    long = turns(*SAYS, *SAYS, system=[SYSTEM])
    path = write([{"messages": one} for one in [long, *TALKS]], "long.jsonl")
    start = bundles("qwen2")
    data = DataConfig(train=path, validation=write([{"messages": TALKS[0]}]), tokenizer="bytepair")
    task = make_task(config(path, start, 200, data=data))
    assert "(1 without their oldest turns)" in task.data_summary()
    texts = b"".join(task.tokenizer.tokens(task.train[0]["token_ids"][0]).numpy().tolist())
    assert b"Be brief." in texts and texts.count(b"user\n") < 8
    with pytest.raises(
        ValueError, match=r"long.jsonl:1: the last turn, with .* has \d+ tokens, a wi"
    ):
        make_task(config(path, start, 30, data=data))


@pytest.mark.slow
def test_a_model_learns_a_few_dialogues_and_answers_them(write, tmp_path):
    rows = [{"messages": about(animal, *more)} for animal in SAYS for more in ((), (SYSTEM,))]
    path = write(rows)
    one = config(
        path,
        data=DataConfig(train=path, validation=path, tokenizer="bytepair"),
        steps=60, evaluate_every=30, batch_size=4, select="last", sample_tokens=12,
        sample_temperature=0.0,
    )  # fmt: skip
    bundle = train(one, tmp_path / "run")
    loaded = zoo.load(tmp_path / "run")
    assert loaded.config.task == "lm" and loaded.config.chat == bundle.config.chat
    asked = [one["messages"][:-1] for one in rows]
    outputs = loaded.chat.chat(*columns(asked), max_new_tokens=[12])
    wanted = [one["messages"][-1]["content"] for one in rows]
    assert [text.decode() for text in outputs["content"].numpy()] == wanted
    assert {*outputs["finish_reason"].numpy()} == {b"stop"}
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert report.startswith("**Better than the baseline** (the same model before training): loss")
    assert "## Answers (temperature 0.0)" in report
    assert "| What does a cat say? | meow | meow |" in report


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_lora(write, bundles, tmp_path, monkeypatch):
    start = bundles("qwen2")
    options = {"finetune": FineTuneConfig(init_from=start, lora_rank=2), "steps": 6}
    one = config(write([{"messages": t} for t in TALKS]), start, 128, **options)
    whole = train(one, tmp_path / "whole")
    with monkeypatch.context() as patch:
        step_ends = Recorder.on_train_batch_end

        def stop(self, batch, logs=None):
            step_ends(self, batch, logs)
            if self.step == 3:
                raise KeyboardInterrupt

        patch.setattr(Recorder, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(one, tmp_path / "parts")
    assert Checkpoints(tmp_path / "parts").latest().step == 2
    parts = train(one, tmp_path / "parts")
    for weight, other in zip(whole.model.weights, parts.model.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert not any("lora" in weight.path for weight in whole.model.weights)
    before = zoo.load(start).model
    changed = [
        weight.path
        for weight, old in zip(whole.model.weights, before.weights, strict=True)
        if not np.array_equal(weight, old)
    ]
    assert changed and all("kernel" in path for path in changed)
    assert whole.config.chat == zoo.load(start).config.chat


def test_other_files(write, tmp_path, monkeypatch):
    rows = [{"messages": one} for one in TALKS]
    path = write(rows)
    expected = messages(path)
    assert expected == TALKS
    array = tmp_path / "talks.json"
    array.write_text(json.dumps(rows), encoding="utf-8")
    packed = tmp_path / "talks.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    other = [
        {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in one]}
        for one in TALKS
    ]
    for source in (str(array), str(packed), write(other, "other.jsonl")):
        assert messages(source) == TALKS, source
    module = types.ModuleType("datasets")
    module.load_dataset = lambda path, **options: rows
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert messages("hfds://me/talks") == TALKS


FINE = json.dumps({"messages": about("cat")})
SMALL = '{"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "context_length": 64}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            [talk(("tool", "x"))],
            r"messages\[0\].role: the model has no 'tool' after 'start' in .*Co",
        ),
        (
            [talk(*[("user", "a")] * 2)],
            r"messages\[1\].role: .* no 'user' after 'user' .*; it has ",
        ),
        ([talk(("assistant", "a"))], r"messages\[0\].role: the model has no 'assistant' after 'st"),
        ([[]], r"the conversation is empty. Remove it. A conversation is \{\"messages\": \["),
        ([talk(("user", "a"))], "no assistant's answer, so there is nothing to learn. Correct or"),
        ([talk(("user", None))], r"messages\[0\].content: found 'None', where a string is due. A"),
        ([talk(("user", 5))], r"messages\[0\].content: found '5', where a string is due"),
        ([talk(("user", ["a"]))], r"messages\[0\].content: found .*, where a string is due"),
        ([[{"content": "a"}]], r"messages\[0\].role: missing, where a string is due. A conver"),
        ([["hello"]], r"messages\[0\]: not an object. A conversation is"),
        (["hello"], r"messages: found 'hello', where a list is due. A conversation is"),
        ({"text": "a"}, r"messages: missing, where a list is due. A conversation is"),
        ("{not", 'not JSON .*Each line must be one whole object, .* of a chat, ."messages'),
        ("[1]", "a JSON list, not an object"),
    ],
)
def test_what_is_refused_names_file_line_and_fix(line, message, write):
    line = {"messages": line[0]} if isinstance(line, list) else line
    path = write([FINE, FINE, FINE, "", line], "bad.jsonl")
    form = chat_form(template("mistral"), **TOKENS)
    with pytest.raises(ValueError, match=rf"bad.jsonl:5: {message}"):
        for one, where in read_conversations(path, DataConfig(train=path)):
            answers(form, one, where)


def test_other_refusals(write, bundles, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for read in (lambda path: own_config("chat", path), messages):
        with pytest.raises(ValueError, match=r"empty.jsonl: .*the file is empty"):
            read(str(tmp_path / "empty.jsonl"))
    table = write(["text,label", "a,b", "c,d"], "table.csv")
    with pytest.raises(
        ValueError, match=r"table.csv:1: task chat reads JSON lines, not csv. A con"
    ):
        own_config("chat", table)
    path = write([FINE, json.dumps({"messages": talk(("tool", "x"))})])
    with pytest.raises(
        ValueError, match=r"talks.jsonl:2: messages\[0\].role: the model has no 'tool'"
    ):
        make_task(own_config("chat", path, [f"data.validation={path}", f"model={SMALL}"])[0])
    path = write([FINE] * 4)
    with pytest.raises(
        ValueError, match=r"no columns, such as --text_column names. A conversation"
    ):
        own_config("chat", path, text_column="x")
    with pytest.raises(ConfigError, match=r"'chat' needs data.tokenizer=bytepair"):
        own_config("chat", path, ["data.tokenizer=character"])
    tokenizer = zoo.ByteTokenizer()
    shape = {"hidden_dim": 8, "num_layers": 1, "context_length": 96}
    for family, kind in (("gpt", "byte"), ("lstm", "byte")):
        size = {"vocabulary_size": tokenizer.vocabulary_size, **shape}
        if family == "gpt":
            size["num_heads"] = 2
        folder = tmp_path / family
        zoo.save(folder, zoo.build(f"{family}_char_cpu", **size), tokenizer)
        message = (
            f"needs a GPT with byte pairs, .* not {family} with {kind}: name another --init_from"
        )
        with pytest.raises(ConfigError, match=message):
            make_task(config(path, str(folder)))
    form = chat_form(template("qwen2"), **TOKENS)
    never = ChatForm({**form.joints, "assistant>end": Joint("\n")})
    with pytest.raises(ConfigError, match=r"has \['\\n'\] behind an answer, and no end token"):
        make_task(config(path, bundles(None, form=never), 128))
    words = zoo.WordPieceTokenizer.train([WORDS] * 3, vocabulary_size=300)
    size = {"vocabulary_size": words.vocabulary_size, "num_heads": 2, **shape}
    encoder = zoo.build("bert_tiny", task="mlm", **size)
    zoo.save(tmp_path / "bert", encoder, words)
    with pytest.raises(ConfigError, match="holds an encoder: no start for chat"):
        make_task(config(path, str(tmp_path / "bert")))
