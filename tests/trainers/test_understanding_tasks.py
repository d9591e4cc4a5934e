"""Tasks on texts: what their batches hold, where they start, and what cannot be trained.

Whole runs of each task: tests/test_command_line_tasks.py.
"""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from trainers.config import DistillConfig, TrainConfig, with_overrides
from trainers.data.examples import LabeledTexts, Questions, TaggedTexts
from trainers.loop import train
from trainers.metrics import MetricsLog
from trainers.recipes import find_recipe
from trainers.tasks import make_task
from trainers.tasks.distillation import class_scores, load_teacher, pair_vectors, vectors
from trainers.tasks.running_text import texts_of
from trainers.tasks.tokens import tag_labels, tag_words, tagged_tokens
from zoo.bundle import bundle_in_memory
from zoo.config import ConfigError, from_dict

HUGGINGFACE = Path(__file__).parents[1] / "zoo" / "fixtures" / "huggingface"
NAMES, CITIES = ["Ada", "Bob", "Eve"], ["Rome", "Oslo"]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A small file for each kind of data."""
    folder = tmp_path_factory.mktemp("labeled")
    generator = random.Random(0)
    rows = []
    for _ in range(60):
        word = generator.choice(["good", "fine", "bad", "poor"])
        text = " ".join([*generator.choices(["the", "film", "was", "a"], k=4), word])
        label = "pos, good" if word in ("good", "fine") else 'neg "bad"'
        quoted = label.replace('"', '""')
        rows.append(f'{text},"{quoted}",{text} indeed,{len(word) * 1000}')
    lines = ["text,label,other,score", *rows]
    # A byte order mark and CRLF, as spreadsheets write them.
    (folder / "table.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    sentences = [
        f"{generator.choice(NAMES)}\tB-PER\nLee\tI-PER\nsaw\tO\n{generator.choice(CITIES)}\tB-LOC\n"
        for _ in range(40)
    ]
    (folder / "tags.conll").write_text("\n".join(sentences), encoding="utf-8")
    paragraphs = []
    for number in range(20):
        name, city = generator.choice(NAMES), generator.choice(CITIES)
        context = f"{name} went to {city} and stayed there for {number} days."
        answers = {"who?": name, "where?": city}
        paragraphs.append(
            {
                "context": context,
                "qas": [
                    {
                        "id": f"{number} {question}",
                        "question": question,
                        "answers": [{"text": text, "answer_start": context.index(text)}],
                    }
                    for question, text in answers.items()
                ],
            }
        )
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    (folder / "questions.json").write_text(json.dumps(data), encoding="utf-8")
    text = "\n".join(" ".join(generator.choices(["to", "be", "or", "not"], k=9)) for _ in range(80))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return folder


FILE = {"tag": "tags.conll", "span": "questions.json", "mlm": "text.txt"}
DATA = {
    "pair": {"pair_column": "other"},
    "embed": {"pair_column": "other"},
    "regress": {"label_column": "score"},
}


@pytest.fixture(scope="session")
def tiny(files):
    """`tiny(task, **fields)`: a config that trains in seconds, with dropout."""

    def config(task, data=None, **fields):
        values = {
            "recipe": f"tiny_{task}",
            "task": task,
            "preset": "bert_tiny",
            "model": {
                "hidden_dim": 8,
                "num_layers": 1,
                "intermediate_dim": 16,
                "context_length": 16,
                "dropout": 0.2,
            },
            "text": {"max_length": 16},
            "data": {
                "train": str(files / FILE.get(task, "table.csv")),
                "tokenizer": "wordpiece",
                "max_vocabulary_size": 120,
                "validation_fraction": 0.2,
                **DATA.get(task, {}),
                **(data or {}),
            },
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 2},
            "batch_size": 8,
            "steps": 4,
            "evaluate_every": 2,
            "jit_compile": False,
            "baseline": False,
            "sample_prompts": ["to [MASK] or"],
        }
        for name, value in fields.items():
            old = values.get(name)
            values[name] = {**old, **value} if isinstance(old, dict) else value
        return from_dict(TrainConfig, values)

    return config


@pytest.fixture(scope="module", autouse=True)
def _eager():
    """Training steps without tracing, which takes longer than all the steps of a tiny run."""
    compile_ = keras.Model.compile

    def compile_eagerly(self, *args, **options):
        compile_(self, *args, **{**options, "jit_compile": False, "run_eagerly": True})

    with pytest.MonkeyPatch.context() as patch:
        if keras.backend.backend() == "tensorflow":
            patch.setattr(keras.Model, "compile", compile_eagerly)
        yield


@pytest.fixture(scope="module")
def masked(tiny, tmp_path_factory):
    """The workdir of a masked language model."""
    workdir = tmp_path_factory.mktemp("mlm")
    train(tiny("mlm"), workdir)
    return workdir


@pytest.mark.parametrize("task", ["classify", "tag", "span"])
def test_batches_are_a_function_of_their_step(tiny, task):
    """A killed run goes on with the batches that an undisturbed one would have had."""
    one = make_task(tiny(task, data={"augment": {"delete": 0.2}}))
    for expected, found in zip(one.training_data(0).skip(2), one.training_data(2), strict=True):
        for part, other in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
            np.testing.assert_array_equal(part, other)


def test_of_many_classes_no_array_of_rows_by_classes_is_kept(tmp_path):
    classes = 600
    path = tmp_path / "many.csv"
    path.write_text(
        "text,label\n" + "".join(f"a b c,{i % classes}\n" for i in range(2 * classes)),
        encoding="utf-8",
    )
    config = find_recipe("polarity_bert")
    model = '{"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "intermediate_dim": 8}'
    settings = [f"data.train={path}", f"model={model}", "preset=bert_tiny", "data.test=null"]
    config = with_overrides(config, [*settings, "data.test_fraction=0", "text.max_length=16"])
    task = make_task(config)
    rows, kept = len(task.validation), task.answers(task.validation)
    assert {array.shape for array in kept} == {(rows,)} and rows >= classes
    assert task.evaluate({})["val_accuracy"] == np.mean(kept.predicted == task.ids(task.validation))
    train(dataclasses.replace(config, steps=1, evaluate_every=1), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["baseline"] is None


def test_start_from_a_masked_language_model(tiny, masked, tmp_path):
    start = {"init_from": str(masked), "freeze": "embeddings"}
    config = tiny("classify", finetune=start)
    task = make_task(config)
    source = zoo.load(masked)
    assert task.tokenizer.fingerprint == source.tokenizer.fingerprint
    bundle = train(config, tmp_path)
    before, after = (b.model.backbone.token_embedding.get_weights()[0] for b in (source, bundle))
    np.testing.assert_array_equal(before, after)
    with pytest.raises(ConfigError, match=r"data\.vocabulary cannot be set"):
        make_task(tiny("classify", finetune=start, data={"vocabulary": "vocab.txt"}))
    with pytest.raises(ConfigError, match=r"drop_layers must be below 1"):
        make_task(tiny("classify", finetune={**start, "drop_layers": 1}, model={}))


def test_a_teacher_of_something_else_is_refused(tiny, files, masked, tmp_path):
    wrong = {"teacher": str(masked)}
    with pytest.raises(ConfigError, match=r"distill.teacher=.* is of task 'mlm'; .* 'classify'"):
        make_task(tiny("classify", distill=wrong))
    table = tmp_path / "table.csv"
    table.write_bytes((files / "table.csv").read_bytes().replace(b"pos, good", b"up"))
    named = {"train": str(table)}
    other = train(tiny("classify", data=named, steps=1, evaluate_every=1), tmp_path / "run")
    with pytest.raises(ConfigError, match="must have the labels of the training data"):
        make_task(tiny("classify", distill={"teacher": str(other.folder)}))
    for fields, message in (
        ({"task": "mlm", "distill": wrong}, "for tasks classify, pair, tag, embed"),
        ({"task": "classify", "distill": {**wrong, "copies": 2}}, "which changes nothing"),
        ({"task": "pair", "distill": {**wrong, "texts": "more.txt"}}, "are for task classify"),
        ({"task": "classify", "distill": {"copies": 2}}, "set distill.teacher"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny(**fields)
    with pytest.raises(ConfigError, match="words that the teacher has tagged"):
        tiny("tag", distill=wrong, data={"augment": {"delete": 0.1}})


def test_a_teacher_from_transformers_may_be_of_pairs(tmp_path):
    for name in ("wordpiece", "bert_classify"):
        shutil.copytree(HUGGINGFACE / name, tmp_path, dirs_exist_ok=True)
    labels = ("so so", "bad", "g\u00fct")
    config = DistillConfig(teacher=str(tmp_path))
    for task, columns in (("classify", [[b"ada", b""]]), ("pair", [[b"ada", b""], [b"a", b"x"]])):
        teacher = load_teacher(config, task, labels)
        scores = class_scores(teacher, columns, labels)
        assert teacher.config.task == task and scores.shape == (2, 3)
        np.testing.assert_allclose(scores.mean(axis=1), 0, atol=1e-6)


def test_a_teacher_of_embeddings_reads_texts_behind_its_own_prompts(tiny):
    prompts = {"query": "was a ", "passage": "film "}
    for text in ({"prompts": prompts, "default_prompt": "passage"}, {}):
        task = make_task(tiny("embed", text=text))
        bundle = bundle_in_memory("", task.model, task.tokenizer, text=task.config.text)
        names = {"data.prompt": "query", "data.pair_prompt": None}
        columns, ours = [[b"good", b"bad"], [b"the", b"a"]], [[b"x good", b"x bad"], [b"the", b"a"]]
        found = pair_vectors(bundle, columns, ours, names)
        read = [[b"was a good", b"was a bad"], [b"film the", b"film a"]] if text else ours
        plain = make_task(tiny("embed"))
        plain.model.set_weights(task.model.get_weights())
        expected = np.stack(vectors(plain.text_model, read), axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        if text:
            with pytest.raises(ConfigError, match=r"data\.prompt, of the teacher.*query, passage"):
                pair_vectors(bundle, columns, ours, {**names, "data.prompt": "question"})


@pytest.mark.slow
def test_lora_is_merged_into_the_bundle(tiny, masked, tmp_path):
    start = {"init_from": str(masked), "lora_rank": 2}
    bundle = train(tiny("classify", finetune=start), tmp_path)
    texts = ["the film was good", "a"]
    scores = bundle.text_model.predict(texts)["scores"]
    loaded = zoo.load(tmp_path)
    np.testing.assert_allclose(loaded.text_model.predict(texts)["scores"], scores, atol=1e-6)
    assert not any("lora" in weight.path for weight in loaded.model.weights)


@pytest.mark.slow
def test_ngrams_stay_out_of_an_adapter_and_count_in_the_scores(tiny, tmp_path):
    """PEFT has no place for them; whoever reads the scores asks the model that has them."""
    for name in ("wordpiece", "bert_classify"):
        shutil.copytree(HUGGINGFACE / name, tmp_path / "base", dirs_exist_ok=True)
    start = {"init_from": str(tmp_path / "base"), "lora_rank": 2}
    adapters = []
    for ngrams in (False, True):
        workdir = tmp_path / f"run {ngrams}"
        config = dataclasses.replace(tiny("classify", finetune=start, ngrams=ngrams), model={})
        bundle = train(config, workdir)
        (file,) = (workdir / "adapter").glob("*.safetensors")
        adapters.append(file.read_bytes())
    assert adapters[0] == adapters[1] and bundle.model.ngrams
    task = make_task(config)
    task.text_model = bundle.text_model
    found = json.loads((workdir / "scores.json").read_text(encoding="utf-8"))["validation"]
    assert {f"val_{k}": v for k, v in found["scores"].items()} == pytest.approx(task.evaluate({}))


def test_patience_stops_and_keeps_the_best(tiny, tmp_path):
    config = tiny(
        "classify", steps=40, patience=2, optimizer={"learning_rate": 1e-9, "weight_decay": 0.0}
    )
    train(config, tmp_path)
    steps = [record["step"] for record in MetricsLog(tmp_path).read()]
    assert steps == [2, 4, 6]  # nothing moves, so the first evaluation is the best
    (tmp_path / "report.md").unlink()
    train(config, tmp_path)  # a resumed run knows that it had stopped
    assert [record["step"] for record in MetricsLog(tmp_path).read()] == steps


def test_weights_and_smoothing_reach_the_batches(tiny):
    task = make_task(tiny("classify", data={"class_weights": "balanced"}, label_smoothing=0.1))
    inputs, labels, weights = next(iter(task.training_data(0)))
    assert set(inputs) == {"token_ids", "padding_mask", "segment_ids"}
    assert labels.shape == weights.shape == (8,)
    counts = np.bincount(task.ids(task.train))
    expected = len(task.train) / (2 * counts[labels.numpy()])
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert task.losses()["loss"].label_smoothing == 0.1


def test_long_texts_train_in_windows_that_share_their_weight(tiny, tmp_path):
    lines = ["text,label", *(f"{'word ' * 50},{'ab'[i % 2]}" for i in range(10))]
    path = tmp_path / "long.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    task = make_task(tiny("classify", data={"train": str(path)}))
    assert len(task.rows) > len(task.train)
    totals = np.bincount(task.rows, weights=task.row_weights.numpy())
    np.testing.assert_allclose(totals, 1, rtol=1e-5)


def test_span_labels_point_at_the_answers(tiny):
    task = make_task(tiny("span"))
    for inputs, labels, _ in task.training_data(0):
        for ids, (start, end) in zip(inputs["token_ids"].numpy(), labels.numpy()):
            if end:
                answer = task.tokenizer.decode(ids[None, start : end + 1]).numpy()[0].decode()
                assert answer in [name.lower() for name in NAMES + CITIES]
                assert start <= end


def test_pieces_carry_their_words_tags():
    tokenizer = zoo.WordPieceTokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "'", "s", "a", "##b", "x"]
    )
    words = tf.ragged.constant([["it's", "ab"], ["x"]])
    tags = tf.ragged.constant([[1, 0], [2]], tf.int32)
    ids, labels, weights = tagged_tokens(tokenizer, words, tags, tf.constant([0, 2, 2]))
    assert ids.to_list() == [[5, 6, 7, 8, 9], [10]]
    assert labels.to_list() == [[1, 2, 2, 0, 0], [2]]
    assert weights.to_list() == [[1, 1, 1, 1, 0], [1]]


def test_tags_of_words_come_from_their_first_token(tiny):
    task = make_task(tiny("tag"))
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    predicted = tag_words(task.text_model, task.validation)
    assert [len(tags) for tags in predicted] == [len(words) for words in task.validation.words]
    invisible = type(task.validation)([["\u200b", "Ada"]], [["O", "O"]], ["x:1"])
    assert tag_words(task.text_model, invisible)[0][0] == "O"


def test_labelled_data_give_running_text():
    tagged = TaggedTexts([["a", "b"], ["c"]], [["O", "O"], ["O"]], ["x:1", "x:4"])
    assert texts_of(tagged) == ["a b", "c"]
    questions = Questions(["1", "2"], ["q", "r"], ["same", "same"], [[], []], [[], []], ["x", "y"])
    assert texts_of(questions) == ["same"]
    assert texts_of(LabeledTexts(["t"], None, ["l"], ["x:1"])) == ["t"]


def test_one_tag_only_is_refused(tiny, tmp_path):
    path = tmp_path / "o.conll"
    path.write_text("a\tO\nb\tO\n\nc\tO\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"all words have the tag O"):
        make_task(tiny("tag", data={"train": str(path)}))
    assert tag_labels([["NOUN", "O", "I-X"]], "x") == (
        "O",
        "NOUN",
        "B-X",
        "I-X",
    )


def test_one_class_only_is_refused(tiny, tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("text,label\na,x\nb,x\nc,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"one\.csv.*all 2 labels are 'x'"):
        make_task(tiny("classify", data={"train": str(path)}))


def test_unknown_label_at_evaluation_is_named(tiny, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("text,label\na,unheard of\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"new\.csv:2.*unheard of"):
        make_task(tiny("classify", data={"validation": str(path)}))


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("tag", "o.conll", "Ada B-person\nsaw O\n", r"no tag of .*has B-person; .*B-LOC"),
        ("tag", "o.conll", "Ada NOUN\nsaw O\n", r"no tag of .*has NOUN; .*B-LOC"),
        ("classify", "o.csv", "text,label\na,x\n", r"o\.csv:2: unknown label 'x'"),
        ("pair", "o.csv", "text,label,other\na,x,b\n", r"o\.csv:2: unknown label 'x'"),
        ("regress", "o.csv", "text,score\na,high\n", r"o\.csv:2: the label 'high'"),
    ],
)
def test_labels_that_do_not_meet_are_refused(tiny, tmp_path, split, task, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        make_task(tiny(task, data={split: str(path)}))


def test_some_tags_that_are_unknown_are_warned_about(tiny, tmp_path, warnings):
    path = tmp_path / "o.conll"
    path.write_text("Ada B-PER\nKyoto B-GPE\n", encoding="utf-8")
    make_task(tiny("tag", data={"validation": str(path)}))
    assert "o.conll:1: 1 tag(s) are not in the training data" in warnings[0]
    assert "B-GPE" in warnings[0]


@pytest.mark.parametrize(
    ("recipe", "file", "size"),
    [("polarity_bert", "table.csv", 60), ("wnut17_bert", "tags.conll", 40)]
    + [("drcd_bert", "questions.json", 40)],
)
def test_nothing_of_a_recipes_data_set_is_read_beside_ones_own(
    files, tmp_path, monkeypatch, recipe, file, size
):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setattr("trainers.data.sources.find_published", pytest.fail)
    monkeypatch.setattr("trainers.data.datasets.find_published", pytest.fail)
    monkeypatch.setattr("trainers.data.sources.download", pytest.fail)
    settings = [
        f"data.train={files / file}",
        "preset=bert_tiny",
        'model={"hidden_dim": 8, "num_layers": 1, "intermediate_dim": 16}',
        "text.max_length=16",
    ]
    task = make_task(with_overrides(find_recipe(recipe), settings))
    parts = (task.train, task.validation, task.test)
    assert sum(map(len, parts)) == size and min(map(len, parts)) >= 3
    assert {place.partition(":")[0] for part in parts for place in part.where} == {file}
    assert len({place for part in parts for place in part.where}) == size


def test_a_file_too_small_for_a_test_says_how_to_do_without(tiny, tmp_path):
    path = tmp_path / "o.csv"
    path.write_text("text,label\na,x\nb,y\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no test examples.*data\.test_fraction=0"):
        make_task(tiny("classify", data={"train": str(path), "test_fraction": 0.1}))


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("pair", {"data": {"pair_column": None}}, "needs data.pair_column"),
        ("embed", {"data": {"pair_column": None}}, "needs data.pair_column"),
        ("classify", {"data": {"pair_column": "other"}}, 'task "pair"'),
        ("regress", {"data": {"pair_column": "other"}}, "text.pairs=true"),
        ("embed", {"batch_size": 1}, "batch_size of 2"),
        ("classify", {"monitor": "val_f1"}, "val_macro_f1"),
        ("tag", {"text": {"cleaning": {"html": True}}}, "places in the text"),
        ("classify", {"text": {"max_length": 17}}, "context_length is only 16"),
        ("classify", {"data": {"label_column": "stars"}}, "stars"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, task, fields, message):
    with pytest.raises(ValueError, match=message):
        make_task(tiny(task, **fields))


@pytest.mark.parametrize("task", ["lm", "classify"])
def test_a_task_needs_its_tokenizer(tiny, task):
    with pytest.raises(ConfigError, match=r"needs data\.tokenizer="):
        tiny(task, data={"tokenizer": "wordpiece" if task == "lm" else "byte"})


def test_a_masked_language_model_begins_with_the_frequencies_of_its_tokens(tiny):
    task = make_task(tiny("mlm"))
    bias = keras.ops.convert_to_numpy(task.model.output_bias)
    counts = np.bincount(task.corpus.train_ids, minlength=len(bias)) + 0.5
    np.testing.assert_allclose(np.exp(bias), counts / counts.sum(), rtol=1e-5)


def test_masked_language_modelling_goes_on_with_its_head(tiny, masked):
    task = make_task(tiny("mlm", finetune={"init_from": str(masked)}))
    for weight, there in zip(task.model.weights, zoo.load(masked).model.weights):
        np.testing.assert_array_equal(weight, there)


def test_a_language_model_is_no_start(tiny, tmp_path):
    model = zoo.build("gpt_quick", vocabulary_size=257)
    zoo.save(tmp_path, model, zoo.ByteTokenizer())
    with pytest.raises(ConfigError, match="holds a language model"):
        make_task(tiny("classify", finetune={"init_from": str(tmp_path)}))


@pytest.mark.slow
def test_bidirectional_lstm_trains(tiny, tmp_path):
    model = {"hidden_dim": 4, "num_layers": 1, "context_length": 16}
    config = dataclasses.replace(tiny("tag"), preset="lstm_encoder_cpu", model=model)
    assert train(config, tmp_path).config.family == "lstm"
