"""`trainers.data.prepare`: the text arrives whole, once, however the work was parted."""

import copy
import dataclasses
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

import trainers.data.prepare.__main__ as command
from trainers.config import TrainConfig
from trainers.data import text as text_module
from trainers.data.config import DataConfig, PrepareConfig
from trainers.data.prepare import job, shards
from trainers.data.prepare.job import prepare
from trainers.data.prepare.plan import make_plan
from trainers.data.prepare.shards import open_prepared
from trainers.loop import train
from trainers.tasks import make_task
from zoo.config import ConfigError, from_dict
from zoo.tokenizers import BytePairTokenizer, ByteTokenizer

ROOT = Path(__file__).resolve().parents[2]
END = 256


@pytest.fixture(autouse=True)
def _no_outside_data(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_DATA", raising=False)


def config(source, *, shard_mb=64.0, seed=0, record_tokens=16, tokenizer_from=None, **data):
    data = DataConfig(train=str(source), **{"tokenizer": "byte", **data})
    return PrepareConfig(
        data,
        tokenizer_from=tokenizer_from,
        shard_mb=shard_mb,
        seed=seed,
        record_tokens=record_tokens,
    )


def streams(folder):
    prepared = open_prepared(folder)
    return [all_ids(part) for part in (prepared.train, prepared.validation)]


def all_ids(shards):
    return np.concatenate([np.zeros(0, np.int32), *shards.chunks()])


def documents(folder):
    """The texts of both splits, by their end ids."""
    tokenizer = open_prepared(folder).tokenizer
    found = []
    for ids in streams(folder):
        assert ids[-1] == tokenizer.end_id
        parts = np.split(ids, np.flatnonzero(ids == tokenizer.end_id) + 1)[:-1]
        found.append([tokenizer.decode(part[None]).numpy()[0].decode() for part in parts])
    return found


def write_lines(path, count=60):
    lines = [f"line {number} says {number * 7919 % 1000}" for number in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return lines


# What arrives.


@settings(max_examples=10)
@given(
    st.lists(st.text("ab \n\u00e9", max_size=60), min_size=1, max_size=5).filter(
        lambda texts: sum(map(bool, texts)) >= 2
    ),
    st.floats(0.00001, 0.0002),
    st.integers(1, 60),
    st.sampled_from(["", ".gz"]),
)
def test_files_arrive_whole(tmp_path_factory, texts, shard_mb, block_bytes, suffix):
    source, out = tmp_path_factory.mktemp("text"), tmp_path_factory.mktemp("out")
    for number, text in enumerate(texts):
        content = text.encode()
        name = source / f"{number}.txt{suffix if text else ''}"
        name.write_bytes(gzip.compress(content) if suffix and text else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "BLOCK_BYTES", block_bytes)
        patch.setattr(text_module, "LOOK_BYTES", 8)
        index = prepare(config(source, shard_mb=shard_mb, validation_fraction=0.3), out)
    kept, held = documents(out)
    assert sorted(kept + held) == sorted(filter(None, texts))
    assert sum(shard.characters for shard in index.shards) == sum(map(len, texts))
    assert sum(shard.documents for shard in index.shards) == len(kept + held)


@pytest.mark.parametrize("shard_mb", [64.0, 0.0003, 0.00005])
def test_one_document_is_cut_and_has_no_end(tmp_path, shard_mb):
    path = tmp_path / "t.txt"
    write_lines(path)
    prepare(config(path, shard_mb=shard_mb), tmp_path / "out")
    kept, held = (bytes(ids.tolist()) for ids in streams(tmp_path / "out"))
    assert kept + held == path.read_bytes()
    assert kept.endswith(b"\n") and len(held) == pytest.approx(0.1 * path.stat().st_size, abs=30)
    index = open_prepared(tmp_path / "out").index
    assert not index.ends and (len(index.shards) > 10) == (shard_mb < 0.0001)
    packed = tmp_path / "t.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    prepare(config(packed, shard_mb=shard_mb), tmp_path / "packed")
    assert [bytes(ids.tolist()) for ids in streams(tmp_path / "packed")] == [kept, held]


def test_lines_go_by_their_text(tmp_path):
    path = tmp_path / "t.txt"
    lines = write_lines(path, 200)
    path.write_text("\n".join(lines + lines[:100]))  # copies
    whole = config(path, split="lines", validation_fraction=0.2)
    prepare(whole, tmp_path / "whole")
    kept, held = documents(tmp_path / "whole")
    assert sorted(kept + held) == sorted(lines + lines[:100])
    assert not set(kept) & set(held) and 20 < len(set(held)) < 60
    # Other parts of the work, the same splits in the same order.
    data = {"split": "lines", "validation_fraction": 0.2}
    prepare(config(path, shard_mb=0.0005, **data), tmp_path / "parts")
    assert len(open_prepared(tmp_path / "parts").index.shards) > 10
    for one, other in zip(streams(tmp_path / "whole"), streams(tmp_path / "parts")):
        np.testing.assert_array_equal(one, other)
    prepare(config(path, split="lines", validation_fraction=0.2, seed=1), tmp_path / "seed")
    assert documents(tmp_path / "seed")[1] != held


def test_rows_and_a_validation_source(tmp_path):
    for name, count in (("a.jsonl", 40), ("b.jsonl", 5)):
        rows = [json.dumps({"body": f"{name} {number}\nend"}) for number in range(count)]
        (tmp_path / name).write_text("\n".join(rows))
    settings = config(
        tmp_path / "a.jsonl",
        validation=str(tmp_path / "b.jsonl"),
        split="rows",
        text_column="body",
        shard_mb=0.0002,
    )
    index = prepare(settings, tmp_path / "out")
    kept, held = documents(tmp_path / "out")
    assert kept == [f"a.jsonl {number}\nend" for number in range(40)]
    assert held == [f"b.jsonl {number}\nend" for number in range(5)]
    assert len(index.split("train")) > 3
    assert [source["name"] for source in index.sources] == ["a.jsonl", "b.jsonl"]


def test_max_bytes_reads_a_part(tmp_path):
    path = tmp_path / "t.txt"
    lines = write_lines(path)
    prepare(config(path, split="lines", max_bytes=500, validation_fraction=0.5), tmp_path / "out")
    kept, held = documents(tmp_path / "out")
    found = set(kept + held)
    assert found == set(lines[: len(found)]) and 500 <= sum(len(line) + 1 for line in found) < 530


def test_byte_pairs_are_those_of_the_whole_text(tmp_path, monkeypatch):
    """Parts and blocks end where no token reaches across."""
    path = tmp_path / "t.txt"
    text = "".join(f"the fox {number}\n\n  says the  thing\n" for number in range(300))
    path.write_text(text)
    BytePairTokenizer.train([text], 300).save(tmp_path / "bpe")
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 700)
    settings = config(
        path, tokenizer="bytepair", tokenizer_from=str(tmp_path / "bpe"), shard_mb=0.003
    )
    index = prepare(settings, tmp_path / "out")
    assert len(index.shards) > 3
    tokenizer = open_prepared(tmp_path / "out").tokenizer
    kept, held = streams(tmp_path / "out")
    cut = sum(shard.characters for shard in index.split("train"))
    for ids, part in ((kept, text[:cut]), (held, text[cut:])):
        assert ids.tolist() == tokenizer.encode([part]).to_list()[0]


@pytest.mark.parametrize(
    ("task", "kind"),
    [("lm", "character"), ("lm", "bytepair"), ("mlm", "wordpiece"), ("mlm", "bytepair")],
)
def test_vocabularies_are_trained_on_training_text(tmp_path, task, kind):
    path = tmp_path / "t.txt"
    lines = [f"word{number} and more of it" for number in range(100)]
    path.write_text("\n".join(lines))
    data = DataConfig(train=str(path), split="lines", tokenizer=kind, max_vocabulary_size=320)
    index = prepare(PrepareConfig(data, task=task), tmp_path / "out")
    tokenizer = open_prepared(tmp_path / "out").tokenizer
    assert (index.tokenizer, index.fingerprint) == (kind, tokenizer.fingerprint)
    assert ("mask" in getattr(tokenizer, "roles", {}) or kind == "wordpiece") == (task == "mlm")
    kept, held = documents(tmp_path / "out")
    assert len(kept) + len(held) == 100


# Going on.


def test_several_processes_make_the_same_shards(tmp_path):
    path = tmp_path / "t.txt"
    write_lines(path)
    settings = config(path, split="lines", shard_mb=0.0005)
    one = prepare(settings, tmp_path / "one")
    two = prepare(settings, tmp_path / "two", processes=2)
    assert one == two and len(one.shards) > 3


def test_a_job_goes_on_where_it_was(tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    write_lines(path)
    settings = config(path, split="lines", shard_mb=0.0003)
    expected = prepare(settings, tmp_path / "whole")
    done, real = [], job.write_unit

    def fails(folder, plan, tokenizer, number):
        if number == 2 and 2 not in done:
            done.append(2)
            raise OSError("no space left")
        done.append(number)
        return real(folder, plan, tokenizer, number)

    monkeypatch.setattr(job, "write_unit", fails)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="no space"):
        prepare(settings, out)
    assert not (out / "index.json").exists()
    (out / ".partial-x").write_text("of a killed process")
    # A shard whose unit was not noted as finished, as when the process dies in between.
    (out / "units" / "00001.json").unlink()
    assert prepare(settings, out) == expected
    assert done == [0, 1, 2, *range(1, len(make_plan(settings).units))]
    assert not (out / ".partial-x").exists()
    done.clear()
    assert prepare(settings, out) == expected and not done
    # A shard that went astray is made again, and nothing else.
    (out / expected.shards[-1].file).unlink()
    assert prepare(settings, out) == expected and done == [expected.shards[-1].unit]


def test_another_job_is_refused(tmp_path):
    path = tmp_path / "t.txt"
    write_lines(path)
    prepare(config(path, split="lines"), tmp_path / "out")
    with pytest.raises(job.PrepareError, match=r"settings:\n  data\.split: 'lines' -> 'files'"):
        prepare(config(path), tmp_path / "out")
    in_use = pytest.raises(job.PrepareError, match="another process is preparing there")
    with job.claimed(tmp_path / "out"), in_use:
        prepare(config(path, split="lines"), tmp_path / "out")
    with open(path, "a") as file:
        file.write("more\n")
    with pytest.raises(job.PrepareError, match=r"source has changed since this job began: t\.txt"):
        prepare(config(path, split="lines"), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(job.PrepareError, match=r"not empty \(letter\.txt\).*choose another"):
        prepare(config(path), tmp_path / "mine")
    with pytest.raises(job.PrepareError, match="cannot be written"):
        prepare(config(path), path / "out")
    (tmp_path / "out" / "plan.json").write_text("{")
    with pytest.raises(job.PrepareError, match=r"plan\.json: damaged"):
        prepare(config(path, split="lines"), tmp_path / "out")


def test_a_file_that_changes_under_way_is_told(tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    write_lines(path)
    settings = config(path, split="lines")

    def make_and_touch(*arguments):
        plan = make_plan(*arguments)
        os.utime(path, ns=(1, 1))
        return plan

    monkeypatch.setattr(job, "make_plan", make_and_touch)
    with pytest.raises(ValueError, match=r"t\.txt: changed since this job began"):
        prepare(settings, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("x" * 100, {}, "cannot be cut at a line break.*--validation"),
        ("a\nb\n", {"split": "lines", "validation_fraction": 0.001}, "no validation text among 2"),
        ("", {}, "no text in 1 file"),
        (" \n\n", {"split": "lines"}, "no train text among 0"),
        ("a\0b\n" * 9, {}, "NUL byte"),
        ('{"a": 1}\n', {"split": "rows", "format": "jsonl"}, "no field 'text'"),
    ],
)
def test_text_that_cannot_be_prepared(tmp_path, text, data, expected):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(ValueError, match=expected):
        prepare(config(tmp_path / "t.txt", **data), tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()


def test_settings_that_make_no_sense(tmp_path):
    for field in ("shard_mb", "tokenizer_mb", "record_tokens", "seed"):
        with pytest.raises(ConfigError, match=f"{field} must be (above|at least)"):
            PrepareConfig(DataConfig(train="t"), **{field: -1})
    with pytest.raises(ConfigError, match="task 'lm' needs a tokenizer of kind character or byte"):
        PrepareConfig(DataConfig(train="t", tokenizer="wordpiece"))


# Training on it.


@pytest.fixture(scope="module")
def prepared_text(tmp_path_factory, text_file):
    out = tmp_path_factory.mktemp("prepared")
    data = DataConfig(train=str(text_file))
    prepare(PrepareConfig(data, record_tokens=100, shard_mb=0.002), out)
    return out


@pytest.mark.parametrize("family", ["gpt", "lstm"])
def test_a_model_trains_on_prepared_text(tmp_path, tiny, prepared_text, family):
    data = _with(tiny(family).data, train=str(prepared_text))
    settings = tiny(family, data=data, steps=10, sample_prompts=())
    bundle = train(settings, tmp_path / "run")
    assert bundle.tokenizer.fingerprint == open_prepared(prepared_text).tokenizer.fingerprint
    with open(tmp_path / "run" / "metrics.jsonl") as file:
        last = [json.loads(line) for line in file][-1]
    # A character is a token here, and every one but the first is predicted.
    characters = open_prepared(prepared_text).validation.characters
    assert last["val_bits_per_character"] == pytest.approx(
        last["val_loss"] / np.log(2) * (characters - 1) / characters
    )


def test_prepared_text_gives_the_batches_of_its_ids(tiny, prepared_text):
    settings = tiny("gpt", data=_with(tiny("gpt").data, train=str(prepared_text)))
    task = make_task(settings)
    corpus = task.corpus.corpora[""]
    ids = [all_ids(part) for part in (corpus.train_ids, corpus.validation_ids)]
    in_memory = copy.copy(task)
    corpus = _with(corpus, train_ids=ids[0], validation_ids=ids[1])
    in_memory.corpus = _with(task.corpus, corpora={"": corpus})
    for one, other in zip(task.training_data(5), in_memory.training_data(5), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = [task.training_data(5, host, 2) for host in range(2)]
    for whole, first, second in zip(in_memory.training_data(5), *rows, strict=True):
        np.testing.assert_array_equal(whole[0], np.concatenate([first[0], second[0]]))
    assert task.fingerprint() != in_memory.fingerprint()


def test_a_shard_damaged_under_way_is_named(tiny, prepared_text, tmp_path, monkeypatch):
    folder = shutil.copytree(prepared_text, tmp_path / "copy")
    monkeypatch.setattr(shards, "_HASHED_BYTES", 0)
    task = make_task(tiny("gpt", data=_with(tiny("gpt").data, train=str(folder))))
    damaged = folder / open_prepared(folder).index.split("train")[1].file
    content = bytearray(damaged.read_bytes())
    content[200] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        list(task.training_data(0).repeat(3))
    with pytest.raises(shards.DamagedShard, match=rf"{damaged.name}: damaged shard"):
        task.check_data()


def test_masked_windows_of_prepared_text(tmp_path, text_file):
    data = DataConfig(train=str(text_file), tokenizer="wordpiece", max_vocabulary_size=60)
    prepare(PrepareConfig(data, task="mlm", record_tokens=50), tmp_path / "out")
    settings = from_dict(
        TrainConfig,
        {
            "recipe": "tiny_mlm",
            "task": "mlm",
            "preset": "bert_tiny",
            "model": {"hidden_dim": 8, "num_layers": 1, "intermediate_dim": 16},
            "text": {"max_length": 16},
            "data": {"train": str(tmp_path / "out"), "tokenizer": "wordpiece"},
            "batch_size": 4,
            "steps": 3,
            "evaluate_every": 1,
            "baseline": False,
        },
    )
    task = make_task(settings)
    counts = np.bincount(all_ids(task.corpus.train_ids), minlength=task.tokenizer.vocabulary_size)
    shares = np.exp(keras.ops.convert_to_numpy(task.model.output_bias))
    np.testing.assert_allclose(shares, (counts + 0.5) / (counts + 0.5).sum(), rtol=1e-4)
    hosts = [list(task.training_data(1, host, 2).as_numpy_iterator()) for host in range(2)]
    for whole, first, second in zip(task.training_data(1), *hosts, strict=True):
        parts = zip(*map(tf.nest.flatten, (whole, first, second)))
        for expected, one, other in parts:
            np.testing.assert_array_equal(expected, np.concatenate([one, other]))


def test_settings_that_do_not_fit_the_prepared_text(tmp_path, tiny, prepared_text):
    def message(**data):
        settings = tiny("gpt", data=_with(tiny("gpt").data, train=str(prepared_text), **data))
        with pytest.raises(ValueError) as caught:
            make_task(settings)
        return str(caught.value)

    own = open_prepared(prepared_text).tokenizer.fingerprint
    told = message(tokenizer="byte")
    assert own in told and ByteTokenizer().fingerprint in told
    assert "prepared with 'character'" in message(tokenizer="bytepair")
    assert "data.validation" in message(validation="other.txt")
    settings = tiny("gpt", data=_with(tiny("gpt").data, train=str(prepared_text)))
    settings = _with(settings, model={**settings.model, "context_length": 4096})
    with pytest.raises(
        ValueError, match=r"prepared.*the validation text has .* fewer than context_length"
    ):
        make_task(settings)


def _with(config, **values):
    return dataclasses.replace(config, **values)


# The command.


def run_main(*arguments):
    values = flags.FlagValues()
    command.define_flags(values)
    command.run(values, values(["prepare", *map(str, arguments)]))


def test_the_command(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({"body": f"text {number}"}) for number in range(50)))
    out = tmp_path / "out"
    arguments = [
        f"--source={path}",
        f"--out={out}",
        "--field=body",
        "--tokenizer=byte",
        "--processes=1",
        "--set=record_tokens=7",
        "--set=data.validation_fraction=0.3",
    ]
    run_main(*arguments)
    assert f"--set=data.train={out}" in capsys.readouterr().out
    kept, held = documents(out)
    assert sorted(kept + held) == sorted(f"text {number}" for number in range(50))
    run_main(f"--verify={out}")
    assert "shards are whole" in capsys.readouterr().out
    # The tokenizer of another folder.
    arguments[1], arguments[3] = f"--out={tmp_path / 'b'}", f"--tokenizer={out}"
    run_main(*arguments)
    assert open_prepared(tmp_path / "b").index.fingerprint == ByteTokenizer().fingerprint


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--source and --out are needed"),
        (["--source=nowhere", "--out=O", "--tokenizer=byte"], "data source 'nowhere': no file"),
        (["--source=S", "--out=O", "--tokenizer=bytes"], "bytes/tokenizer.json: no such file"),
        (["--source=S", "--out=O", "--set=stepz=1"], "no key 'stepz'; known: "),
        (["--source=S", "--out=O", "--shard_mb=0"], "shard_mb must be above 0"),
        (["--verify=nowhere"], "nowhere/index.json"),
        (["--beam", "--source=S", "--out=O"], "--beam needs the package apache-beam"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(SystemExit) as caught:
        run_main(*arguments)
    assert caught.value.code.startswith("prepare: ") and "\n" not in caught.value.code
    assert expected in caught.value.code


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_time_it_goes_on(tmp_path, processes):
    """`kill -9` again and again; the shards are those of a job that was left alone."""
    path = tmp_path / "t.txt"
    write_lines(path, 150_000)
    settings = config(path, split="lines", shard_mb=0.2, record_tokens=1024)
    expected = prepare(settings, tmp_path / "whole")
    out = tmp_path / "out"
    arguments = [
        sys.executable,
        "-m",
        "trainers.data.prepare",
        f"--source={path}",
        f"--out={out}",
        "--tokenizer=byte",
        "--split=lines",
        "--shard_mb=0.2",
        f"--processes={processes}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = 0
    for count in range(1, 34, 8):
        process = subprocess.Popen(
            arguments, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(out.glob("units/*.json"))) < count:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 2
    subprocess.run(arguments, cwd=tmp_path, env=environment, check=True)
    index = open_prepared(out).index
    assert index.shards == expected.shards
    assert sorted(p.name for p in out.glob("*.tfrecord")) == sorted(s.file for s in index.shards)
