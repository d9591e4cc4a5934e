"""Tasks translate and summarize: what is read, what is trained, and what the report says."""

import dataclasses
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from trainers.checkpoints import Checkpoints
from trainers.config import OptimizerConfig, Seq2SeqTraining, TrainConfig, with_overrides
from trainers.data.config import DataConfig
from trainers.data.examples import TextPairs
from trainers.data.parallel import are_alike, folded, pair_groups, read_pairs, shared_texts
from trainers.loop import train
from trainers.metrics import MetricsLog
from trainers.own_data import own_config
from trainers.recipes import find_recipe
from trainers.recorder import Recorder
from trainers.report.sections import Comparison, writing_sections
from trainers.report.text_scores import (
    chrf_of_each,
    extractive_oracle,
    rouge_of_each,
    translation_scores,
)
from trainers.tasks import make_task
from trainers.tasks.base import read_initial
from zoo.config import ConfigError

FIXTURES = Path(__file__).parents[1] / "zoo" / "fixtures" / "encoder_decoders"
ONES = ["one", "two", "three", "four", "five", "six", "seven"]
UNOS = ["uno", "dos", "tres", "cuatro", "cinco", "seis", "siete"]
PAIRS = [
    (f"{ONES[i]} and {ONES[j]} {'now' * (k + 1)}", f"{UNOS[i]} y {UNOS[j]} {'ya' * (k + 1)}")
    for i, j, k in itertools.product(range(7), range(7), range(2))
]
TIMES = {"seconds", "cpu_seconds", "tokens_per_second"}


def texts(rows, **fields):
    sources, targets = map(list, zip(*rows))
    return TextPairs(sources, targets, [f"f:{i}" for i in range(len(rows))], **fields)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("\n".join(f"{a}.\t{b}." for a, b in PAIRS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def tiny(table):
    """`tiny(task, **fields of TrainConfig)`."""

    def config(task="translate", **fields):
        data = {"train": table, "text_column": 0, "pair_column": 1, "tokenizer": "bytepair"}
        data |= {"max_vocabulary_size": 280} | fields.pop("data", {})
        values = {
            "recipe": "tiny",
            "task": task,
            "preset": "seq2seq_cpu",
            "model": {
                "hidden_dim": 8,
                "num_layers": 2,
                "num_heads": 2,
                "intermediate_dim": 8,
                "dropout": 0.1,
            },
            "optimizer": OptimizerConfig(name="muon", learning_rate=0.02, warmup_steps=2),
            "seq2seq": Seq2SeqTraining(validation_rows=4, report_rows=6, num_beams=2),
            "batch_size": 4,
            "steps": 6,
            "evaluate_every": 3,
            "jit_compile": False,
        }
        return TrainConfig(data=DataConfig(**data), **{**values, **fields})

    return config


@pytest.fixture
def eager(monkeypatch):
    """Training steps without tracing, which takes longer than a few tiny steps."""
    compile_ = keras.Model.compile

    def compile_eagerly(self, *args, **options):
        compile_(self, *args, **{**options, "jit_compile": False, "run_eagerly": True})

    monkeypatch.setattr(keras.Model, "compile", compile_eagerly)


# Reading.


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("p.tsv", "a b\tx\nc\ty z\n", (0, 1)),
        ("p.csv", "en,es\na b,x\nc,y z\n", ("en", "es")),
        ("p.jsonl", '{"s": "a b", "t": "x"}\n{"s": ["c"], "t": ["y z"]}\n', ("s", "t")),
    ],
)
def test_tables_and_json(tmp_path, name, content, columns):
    (tmp_path / name).write_text(content, encoding="utf-8")
    data = DataConfig(train=name, text_column=columns[0], pair_column=columns[1])
    found = read_pairs(str(tmp_path / name), data)
    assert (found.source, found.target) == (["a b", "c"], ["x", "y z"])
    assert found.where[1] == f"{name}:{3 if name == 'p.csv' else 2}" and found.references is None
    back = DataConfig(train=name, text_column=columns[1], pair_column=columns[0])
    assert read_pairs(str(tmp_path / name), back).source == ["x", "y z"]
    back = read_pairs(str(tmp_path / name), dataclasses.replace(data, reverse=True))
    assert (back.source, back.target) == (["x", "y z"], ["a b", "c"])


def test_two_files_of_lines(tmp_path):
    for name, content in {"t.en": "a b\nc\n", "t.es": "x\ny z", "short.es": "x"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    data = DataConfig(train="t.en,t.es")
    found = read_pairs("t.en,t.es", data, str(tmp_path))
    assert (found.source, found.target, found.where) == (
        ["a b", "c"],
        ["x", "y z"],
        ["t.en:1", "t.en:2"],
    )
    back = read_pairs("t.en,t.es", dataclasses.replace(data, reverse=True), str(tmp_path))
    assert back.source == ["x", "y z"]
    with pytest.raises(ValueError, match=r"t\.en has 2 lines and .*short\.es 1: each line of the"):
        read_pairs("t.en,short.es", data, str(tmp_path))
    with pytest.raises(ValueError, match="two files of lines are SOURCES,TARGETS"):
        read_pairs("t.en,t.es,t.fr", data, str(tmp_path))


def test_several_right_targets_and_sentences(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"s": ["A b.", "C."], "t": ["x", "y"]}\n{"s": "D.", "t": "z"}\n')
    data = DataConfig(train=str(path), text_column="s", pair_column="t")
    found = read_pairs(str(path), data)
    assert found.source == ["A b. C.", "D."] and found.target == ["x", "z"]
    assert found.references == [["x", "y"], ["z"]]
    back = read_pairs(str(path), dataclasses.replace(data, reverse=True))
    assert back.source == ["x y", "z"] and back.references == [["A b.", "C."], ["D."]]
    path.write_text('{"s": "a", "t": null}\n')
    with pytest.raises(ValueError, match=r"s\.jsonl:1: no string, or strings, in field 't' \(pair"):
        read_pairs(str(path), data)


def test_an_empty_side_is_an_error_or_left_out(tmp_path, warnings):
    path = tmp_path / "p.tsv"
    path.write_text("a\tb\nc\t \n\td\n")
    data = DataConfig(train=str(path), text_column=0, pair_column=1)
    with pytest.raises(ValueError, match=r"p\.tsv:2: the target is empty; 2 pair\(s\) of .*skip"):
        read_pairs(str(path), data)
    found = read_pairs(str(path), DataConfig(**{**vars(data), "mismatched": "skip"}))
    assert found.source == ["a"] and found.empty == found.select([0]).empty == 2
    assert "p.tsv:2: the target is empty; 2 pair(s) of" in warnings[0]


# Splits.


def test_pairs_that_share_a_text_are_one_group():
    pairs = texts([("A b", "1"), ("a  B", "2"), ("c", "2"), ("c", "3"), ("d", "4"), ("3", "d")])
    groups = pair_groups(pairs)
    assert len(set(groups[:4])) == 1, "by source, by target, and by both in turn"
    assert len({groups[0], groups[4], groups[5]}) == 3, "a source that is a target says nothing"


def test_splits_share_no_text(tiny, tmp_path):
    rows = [(f"s {i // 3}", f"t {i // 2}") for i in range(0, 120, 1) if i % 12 < 9]
    path = tmp_path / "many.tsv"
    path.write_text("\n".join(map("\t".join, rows)))
    data = {"train": str(path), "validation_fraction": 0.2, "test_fraction": 0.2}
    task = make_task(tiny(data=data))
    parts = [task.train, task.validation, task.test]
    assert sum(map(len, parts)) == len(rows) and min(map(len, parts)) > 10
    for one, other in itertools.combinations(parts, 2):
        assert not {*map(folded, one.source)} & {*map(folded, other.source)}
        assert not {*map(folded, one.target)} & {*map(folded, other.target)}
        assert shared_texts(one, other) == 0
    assert shared_texts(task.train, texts([(task.train.source[0], "new"), ("x", "y")])) == 1


# Batches and the loss.


def test_batches_hold_every_pair_once_as_it_is_served(tiny):
    options = Seq2SeqTraining(prefix="es: ", validation_rows=0)
    task = make_task(tiny(seq2seq=options, steps=60, evaluate_every=60))
    end = task.tokenizer.end_id
    assert task.text_model.config.prefix == "es: "
    seen, shapes = [], set()
    for inputs, labels, weights in task.training_data(0).take(task.plan.steps_per_epoch):
        shapes.add((*inputs["token_ids"].shape, *labels.shape))
        assert inputs["token_ids"].shape == inputs["padding_mask"].shape
        for row in np.flatnonzero(weights.numpy().sum(axis=1)):
            size = int(weights[row].numpy().sum())
            target, given = labels[row].numpy()[:size], inputs["target_ids"][row].numpy()
            assert given[0] == end and np.array_equal(given[1:size], target[:-1])
            assert target[-1] == end and not weights[row, size:].numpy().any()
            source = inputs["token_ids"][row][inputs["padding_mask"][row]].numpy()
            assert source[-1] == end
            texts_ = [task.tokenizer.decode(tf.constant([ids[:-1]])) for ids in (source, target)]
            seen.append(tuple(text.numpy()[0].decode() for text in texts_))
    wanted = [(f"es: {s}", t) for s, t in zip(task.train.source, task.train.target)]
    assert sorted(seen) == sorted(wanted)
    assert {shape[1::2] for shape in shapes} <= {tuple(size) for size in task.sizes.numpy()}
    steps = task.plan.steps_per_epoch
    assert task.trained_tokens(0, steps) == task.lengths.sum()


def test_a_batch_is_a_function_of_seed_and_step_and_hosts_share_it(tiny):
    task = make_task(tiny())
    whole = [tf.nest.flatten(batch) for batch in task.training_data(0)]
    rest = [tf.nest.flatten(batch) for batch in task.training_data(4)]
    for one, other in zip(tf.nest.flatten(whole[4:]), tf.nest.flatten(rest), strict=True):
        np.testing.assert_array_equal(one, other)
    hosts = [[tf.nest.flatten(batch) for batch in task.training_data(0, h, 2)] for h in range(2)]
    for step, batch in enumerate(whole):
        for place, values in enumerate(batch):
            both = tf.concat([hosts[0][step][place], hosts[1][step][place]], axis=0)
            np.testing.assert_array_equal(both, values)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_real_tokens(tiny, smoothing):
    task = make_task(tiny(label_smoothing=smoothing, model={**tiny().model, "dropout": 0.0}))
    task.compile("sgd")
    inputs, labels, weights = next(iter(task.training_data(0)))
    logits = keras.ops.convert_to_numpy(task.model(inputs)).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    right = np.take_along_axis(log_p, labels.numpy()[..., None], axis=-1)[..., 0]
    each = -((1 - smoothing) * right + smoothing * log_p.mean(axis=-1))
    expected = (each * weights.numpy()).sum() / weights.numpy().sum()
    found = task.trained_model.evaluate(inputs, labels, sample_weight=weights, verbose=0)
    assert np.reshape(found, -1)[0] == pytest.approx(expected, rel=1e-5)


def test_validation_is_the_served_score(tiny):
    """Nats a token over all pairs, whatever is smoothed in training."""
    task = make_task(tiny(label_smoothing=0.2))
    found = task.forced_scores(task.validation)
    served = task.text_model.score(task.validation.source, task.validation.target)
    tokens = served["token_count"].numpy().sum() + len(task.validation)
    assert found["loss"] == pytest.approx(
        -served["log_likelihood"].numpy().sum() / tokens, rel=1e-5
    )
    assert 0 <= found["accuracy"] <= 1


def test_long_sources_are_cut_and_long_targets_left_out(tiny, tmp_path):
    rows = [*PAIRS, ("word " * 99, "short"), ("short", "palabra " * 99), ("", "none")]
    path = tmp_path / "long.tsv"
    path.write_text("\n".join(map("\t".join, rows)))
    data = {"train": str(path), "validation_fraction": 0.01, "mismatched": "skip"}
    task = make_task(tiny(data=data, seq2seq=Seq2SeqTraining(max_source=30, validation_rows=0)))
    assert task.lengths.max(axis=0)[0] == 30 and len(task.lengths) == len(task.train) - 1
    assert "(1 without a source or target, left out; " in task.data_summary()
    assert "1 training targets too long, left out" in task.data_summary()
    assert "1 training sources cut to 29 tokens" in task.data_summary()  # and its end
    with pytest.raises(ValueError, match="all targets are longer than 2 tokens"):
        make_task(tiny(seq2seq=Seq2SeqTraining(max_target=2)))


def test_suspicious_columns_are_told(tiny, tmp_path, warnings):
    path = tmp_path / "odd.tsv"
    path.write_text("\n".join(f"text {i}\ttext {i}" for i in range(20)))
    make_task(tiny(data={"train": str(path)}))
    assert "18 of 18 targets are their sources" in warnings[0]
    path.write_text("\n".join(f"s {i}\ta longer text {i}" for i in range(20)))
    make_task(tiny("summarize", data={"train": str(path)}))
    assert "the summaries are longer than their sources" in warnings[1]
    make_task(tiny(data={"train": str(path), "validation": str(path)}))
    assert "20 of 20 validation pairs have a source or target that trains, too" in warnings[2]
    path.write_text(
        "\n".join(f"{one}.\t{other}!" for (one, _), (other, _) in zip(PAIRS, PAIRS[9:]))
    )
    make_task(tiny(data={"train": str(path)}))
    assert "targets ('" in warnings[3] and "') look like one language: are the" in warnings[3]
    make_task(tiny("summarize", data={"train": str(path)}))
    assert not any("one language" in warning for warning in warnings[4:])


@pytest.mark.slow
def test_weights_that_translate_the_other_way_are_told(tiny, tmp_path, warnings):
    config = tiny(steps=120, evaluate_every=120, model={**tiny().model, "hidden_dim": 32})
    bundle = train(config, tmp_path / "first")
    assert not warnings
    start = [f"finetune.init_from={bundle.folder}"]
    make_task(with_overrides(tiny(model={}), start))
    assert not warnings
    make_task(with_overrides(tiny(model={}), [*start, "data.reverse=true"]))
    assert "first write the sources rather than the targets (" in warnings[0]
    assert "--set=data.reverse=true swaps them" in warnings[0]


@pytest.mark.skipif(not os.environ.get("ZOO_DATA"), reason="set ZOO_DATA to the data sets' folder")
def test_languages_of_real_data():
    """Two languages are told from one: of the first pairs, of any, and of few."""
    folder = Path(os.environ["ZOO_DATA"])
    columns = {"format": "tsv", "text_column": 0, "pair_column": 1}
    english = []
    for name in ("tatoeba_spa", "tatoeba_cmn"):
        pairs = read_pairs(name, DataConfig(train=name, **columns), str(folder))
        english.append(pairs.source)
        for start in range(0, len(pairs) - 1000, 4000):
            for size in (20, 100, 1000):
                assert not are_alike(pairs.select(np.arange(start, start + size)))
    size = len(english[1])
    assert are_alike(TextPairs(english[0][-size:], english[1], [""] * size))
    fields = {"text_column": "source", "pair_column": "target"}
    papers = read_pairs("scitldr/dev", DataConfig(train="scitldr/dev", **fields), str(folder))
    assert are_alike(papers)  # of which a summary is no mistake
    assert not sum(map(len, papers.target)) > sum(map(len, papers.source))


@pytest.mark.slow
@pytest.mark.tensorflow_only
@pytest.mark.skipif(not os.environ.get("ZOO_DATA"), reason="set ZOO_DATA to the data sets' folder")
def test_a_recipe_in_both_directions(tiny, tmp_path, warnings):
    """English to Chinese by one setting, with little of the rest of the recipe."""
    settings = ["data.reverse=true", "steps=2", "evaluate_every=2", "seq2seq.validation_rows=0"]
    settings += ["seq2seq.report_rows=4", "model.num_layers=1", "model.hidden_dim=16"]
    settings += ["data.max_vocabulary_size=400", "data.validation_fraction=0.01"]
    config = with_overrides(find_recipe("tatoeba_cmn_seq2seq"), settings)
    bundle = train(config, tmp_path / "run", os.environ["ZOO_DATA"])
    found = bundle.seq2seq.translate(["Hello."], max_new_tokens=[3])
    assert found["text"].shape == (1,)
    assert not any("columns" in warning for warning in warnings)
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    texts = report.partition("## Texts by chance")[2]
    assert re.search(r"[\u4e00-\u9fff]", texts) and "tok:zh" in report


def test_what_cannot_be_trained(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"needs data\.pair_column, the column of the targets"):
        tiny(data={"pair_column": None})
    with pytest.raises(ConfigError, match=r"needs data\.tokenizer=bytepair or sentencepiece"):
        tiny(data={"tokenizer": "wordpiece"})
    with pytest.raises(ConfigError, match="bert cannot do task 'translate'"):
        make_task(tiny(preset="bert_tiny", model={}))
    tokenizer = zoo.CharacterTokenizer("abc")
    model = zoo.build("gpt_quick", vocabulary_size=tokenizer.vocabulary_size)
    zoo.save(tmp_path / "lm", model, tokenizer)
    with pytest.raises(ConfigError, match="holds a language model: no start for translate"):
        make_task(with_overrides(tiny(), [f"finetune.init_from={tmp_path}/lm"]))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_weights_of_a_wrong_kind_are_refused_before_they_are_read(name, tiny, tmp_path):
    folder = shutil.copytree(FIXTURES / name, tmp_path / name)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="holds an encoder-decoder: no start for classify"):
        read_initial(with_overrides(find_recipe("polarity_bert"), [f"finetune.init_from={folder}"]))
    with pytest.raises(zoo.BundleError, match=r"model\.safetensors"):
        read_initial(with_overrides(tiny(), [f"finetune.init_from={folder}"]))


def test_a_start_is_read_for_its_new_task(tiny, tmp_path):
    """T5's "summarize: " does not stand before what is translated; its beams are kept."""
    folder = shutil.copytree(FIXTURES / "t5", tmp_path / "t5")
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"task_specific_params": {"summarization": {"prefix": "summarize: "}}}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "generation_config.json").write_text('{"num_beams": 3, "length_penalty": 0.5}')
    start, data = [f"finetune.init_from={folder}"], {"tokenizer": "sentencepiece"}
    fields = {"model": {}, "seq2seq": Seq2SeqTraining(no_repeat_ngram_size=2)}
    for task, prefix in {"translate": "", "summarize": "summarize: "}.items():
        config = make_task(with_overrides(tiny(task, **fields, data={**data}), start))
        config = config.bundle_options["seq2seq"]
        assert config.prefix == prefix
        search = zoo.SearchConfig(num_beams=3, length_penalty=0.5, no_repeat_ngram_size=2)
        assert config.search == search
    assert make_task(tiny()).bundle_options["seq2seq"].search.num_beams == 2


# Whole runs.


def log_of(workdir):
    return [{k: v for k, v in one.items() if k not in TIMES} for one in MetricsLog(workdir).read()]


@pytest.mark.slow
@pytest.mark.tensorflow_only
def test_stopped_and_resumed_is_as_if_never_stopped(tiny, tmp_path, monkeypatch):
    config = tiny()
    bundle = train(config, tmp_path / "whole")
    assert bundle.config.seq2seq.target_start == (bundle.tokenizer.end_id,)
    original = Recorder.on_train_batch_end

    def stop(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "parts")
    assert Checkpoints(tmp_path / "parts").latest().step == 3
    resumed = train(config, tmp_path / "parts")
    for one, other in zip(bundle.model.get_weights(), resumed.model.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    lines = log_of(tmp_path / "whole")
    assert lines[0].keys() >= {"val_loss", "val_accuracy", "val_bleu", "val_chrf"}
    report = (tmp_path / "whole" / "report.md").read_text(encoding="utf-8")
    assert report.startswith(("**Better than the base", "**Not better than the base"))
    assert "nats a token (step " in report and "tok:13a|smooth:exp" in report
    for title in ("## Scores, validation", "## Texts by chance", "## Best", "## Worst"):
        assert title in report
    scores = json.loads((tmp_path / "whole" / "scores.json").read_text())
    assert scores["model"].keys() == {"bleu", "chrf", "loss", "accuracy_of_tokens"}
    assert scores["baseline"].keys() == {"bleu", "chrf"}
    assert bundle.seq2seq.translate(["one and two now"], max_new_tokens=[3])["text"].shape == (1,)


@pytest.mark.slow
@pytest.mark.tensorflow_only
@pytest.mark.usefixtures("eager")
def test_summaries_go_on_from_weights_and_their_form(tiny, tmp_path):
    first = tiny("translate", seq2seq=Seq2SeqTraining(prefix="sum: ", max_source=40, report_rows=2))
    train(first, tmp_path / "first")
    rows = [(f"Long text {i}. And {a} more.", f"text {i}") for i, (a, _) in enumerate(PAIRS)]
    lines = [{"article": [s], "summary": [t, "other"]} for s, t in rows]
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    config, told = own_config(
        "summarize", str(path), ["steps=2", "batch_size=2"], init_from=str(tmp_path / "first")
    )
    assert "reading columns 'article' as source, 'summary' as its summary" in "\n".join(told)
    config = with_overrides(config, ["seq2seq.report_rows=3", "seq2seq.validation_rows=2"])
    bundle = train(config, tmp_path / "second")
    assert bundle.config.task == "summarize" and bundle.config.seq2seq.prefix == "sum: "
    assert bundle.tokenizer.fingerprint == zoo.load(tmp_path / "first").tokenizer.fingerprint
    scores = json.loads((tmp_path / "second" / "scores.json").read_text())
    assert {"rouge1", "rouge2", "rougeL"} <= scores["model"].keys()
    # The first sentence is here the one that the oracle finds, too.
    assert scores["baseline"]["rouge1"] == scores["oracle"]["rouge1"] > 0.5
    assert "no program can know, has rouge1" in (tmp_path / "second" / "report.md").read_text()


# One's own file.


def test_columns_of_own_files_are_found(table, tmp_path):
    config, told = own_config("translate", table)
    data = config.data
    assert (data.text_column, data.pair_column, data.header) == ("0", "1", "none")
    assert (config.preset, data.tokenizer, data.mismatched) == ("seq2seq_cpu", "bytepair", "skip")
    assert config.steps % config.evaluate_every == 0 and config.batch_size == 64
    lines = "\n".join(told)
    assert "reading columns '0' as source, '1' as its translation; change with --text" in lines
    assert "98 pairs: 10.0% validates" in lines and "no --init_from" in lines
    path = tmp_path / "three.tsv"  # as manythings.org has them, the longest column is none of both
    path.write_text("\n".join(f"{a}.\t{b}.\tCC-BY 2.0 Attribution: #{i}" for i, (a, b) in
                              enumerate(PAIRS)))  # fmt: skip
    data = own_config("translate", str(path))[0].data
    assert (data.text_column, data.pair_column) == ("0", "1")
    for name, column in {"a.en": 0, "a.es": 1}.items():
        (tmp_path / name).write_text("\n".join(pair[column] for pair in PAIRS))
    config, told = own_config("translate", f"{tmp_path}/a.en,{tmp_path}/a.es")
    assert "a line of the first for each of the second" in told[0]
    assert len(make_task(config).train) == 98 - 10
    with pytest.raises(FileNotFoundError, match=r"--data=.*none: no such file"):
        own_config("translate", f"{tmp_path}/a.en,{tmp_path}/none")


# Scores.


def test_scores_are_those_of_the_packages():
    references = [["el gato está en la mesa"], ["hola a todos", "hola"]]
    scores, signature = translation_scores(["el gato está en la mesa", "hola"], references)
    assert scores["bleu"] == pytest.approx(100) and signature.startswith("nrefs:")
    assert chrf_of_each(["hola", "adiós"], [["hola"], ["hola"]])[0] == pytest.approx(100)
    chinese, signature = translation_scores(["你好嗎朋友"], [["你好嗎朋友"]])
    assert chinese["bleu"] == pytest.approx(100) and "tok:zh" in signature
    each = rouge_of_each(["the cats sat", "a b"], [["cat sat"], ["x", "b a"]])
    assert each["rouge1"].tolist() == pytest.approx([0.8, 1.0])  # by stems; the nearest reference
    assert each["rouge2"].tolist() == pytest.approx([2 / 3, 0.0])
    assert rouge_of_each(["你好"], [["你好"]])["rouge2"].tolist() == [1.0]
    oracle = extractive_oracle(["Nothing here. The cat sat. No."], [["a cat sat"]])
    assert oracle == ["The cat sat."]


def test_sections_show_the_best_and_the_worst():
    pairs = texts([("s0", "right"), ("s1", "long and right"), ("s2", "no")])
    comparison = Comparison("test", "3 pairs", {"bleu": 3.0}, {"bleu": 2.0}, "copy")
    written, of_each = ["right", "long and right", "x"], np.array([100.0, 100.0, 0.0])
    scores, chance, best, worst = writing_sections(
        comparison, pairs, written, "chrf", of_each, "About."
    )
    assert scores.endswith("About.") and chance.startswith("## Texts by chance")
    assert best.index("s1") < best.index("s0") < best.index("s2")
    assert worst.index("s2") < worst.index("s0")
