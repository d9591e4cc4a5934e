"""Named data sets: found locally or downloaded once, read as published, and paths work alike."""

import hashlib
import os

import pytest

from trainers.data import datasets
from trainers.data.config import DataConfig
from trainers.data.datasets import NAMED_DATASETS, describe_datasets
from trainers.data.examples import label_classes
from trainers.data.sources import find_published

SHARED = os.environ.get("ZOO_DATA")


def read_examples(task, source, data_dir=None, **options):
    return datasets.read_examples(task, source, DataConfig(train=source, **options), data_dir)


@pytest.fixture(autouse=True)
def _no_outside_data(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def put(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")


@pytest.mark.skipif(not SHARED, reason="ZOO_DATA names no folder with the data sets")
@pytest.mark.parametrize("name", NAMED_DATASETS)
def test_every_set_is_read_whole(name, warnings):
    named = NAMED_DATASETS[name]
    examples = read_examples(named.kind, name, SHARED)
    assert len(examples) == named.size and not warnings
    if named.kind == "classify":
        classes = {"banking77": 77, "sentence_polarity": 2, "csl": 13}[name.split("/")[0]]
        assert len(label_classes(examples.label, examples.where)) == classes
    elif named.kind == "tag":
        kinds = {tag[2:] for tags in examples.tags for tag in tags} - {""}
        assert len(kinds) == 6
    else:
        assert examples.mismatched == 0 and all(examples.answers)


def test_local_files_come_first(tmp_path):
    put(tmp_path, "banking77/test.csv", 'text,category\n"Hi, you",card\n')
    put(tmp_path, "csl_zh/cls_ctg_dev.tsv", "to category\t“标题\t历史学\n")
    put(tmp_path, "wnut17/emerging.dev.conll", "a\tB-person\n\t\nb\tO\n")
    data_dir = str(tmp_path)
    examples = read_examples("classify", "banking77/test", data_dir, label_column="ignored")
    assert examples.text == ["Hi, you"] and examples.where == ["banking77/test.csv:2"]
    assert read_examples("classify", "csl/dev", data_dir=data_dir).label == ["历史学"]
    tagged = read_examples("tag", "wnut17/dev", data_dir=data_dir)
    assert tagged.where == ["wnut17/emerging.dev.conll:1", "wnut17/emerging.dev.conll:3"]


def test_zoo_data_is_searched(tmp_path, monkeypatch):
    put(tmp_path, "xquad/xquad.en.json", '{"data": []}')
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"xquad\.en\.json: no questions"):
        read_examples("span", "xquad_en")


def test_polarity_tests_on_every_tenth_line(tmp_path):
    for label in ("neg", "pos"):
        lines = "".join(f"{label} {i} é \n" for i in range(1, 26))
        put(tmp_path, f"sentence_polarity/rt-polarity.{label}", lines)
    test = read_examples("classify", "sentence_polarity/test", data_dir=str(tmp_path))
    assert test.text == ["neg 10 é", "neg 20 é", "pos 10 é", "pos 20 é"]
    assert test.label == ["neg"] * 2 + ["pos"] * 2
    assert test.where[0] == "sentence_polarity/rt-polarity.neg:10"
    train = read_examples("classify", "sentence_polarity/train", data_dir=str(tmp_path))
    assert len(train) == 46 and not set(train.where) & set(test.where)


def test_polarity_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rt-polarity\.neg.*not set.*nltk_data.*DATA_DIR"):
        read_examples("classify", "sentence_polarity/train")


def test_a_published_file_is_downloaded_once(tmp_path, monkeypatch):
    source = tmp_path / "there.csv"
    source.write_text("text,label\na,b\n")
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    asked = []

    def download(url, path, sha256, limits):
        asked.append((url, sha256))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.link(source, path)

    monkeypatch.setattr("trainers.data.sources.download", download)
    url = "https://raw.githubusercontent.com/owner/repository/0123/data/a.csv"
    file = find_published("set/a.csv", url, checksum, None)
    assert asked == [(url, checksum)]
    assert file.name == "set/a.csv" and file.path == str(tmp_path / "cache" / "set" / "a.csv")


def test_every_published_file_has_a_fixed_commit_and_checksum(monkeypatch):
    asked = []

    def find(name, url, sha256, data_dir):
        asked.append((name, url, sha256))
        raise InterruptedError

    monkeypatch.setattr(datasets, "find_published", find)
    for name, named in NAMED_DATASETS.items():
        if not name.startswith("sentence_polarity"):
            with pytest.raises(InterruptedError):
                named.read(None)
    names, urls, checksums = map(set, zip(*asked))
    assert len(asked) == len(names) == len(urls) == len(checksums) == len(NAMED_DATASETS) - 2
    for _, url, checksum in asked:
        commit = url.removeprefix("https://raw.githubusercontent.com/").split("/")[2]
        assert len(commit) == 40 and len(checksum) == 64
        assert set(commit + checksum) <= set("0123456789abcdef")


def test_paths_work_as_names_do(tmp_path):
    put(tmp_path, "my.csv", "review,stars\ngood,5\n")
    options = {"text_column": "review", "label_column": "stars"}
    examples = read_examples("regress", "my.csv", data_dir=str(tmp_path), **options)
    assert examples.label == ["5"] and examples.where == ["my.csv:2"]
    put(tmp_path, "my.conll", "a\tI-x\n")
    assert read_examples("tag", str(tmp_path / "my.conll"), scheme="iob1").tags == [["B-x"]]


def test_wrong_names_list_the_right_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"banking78.*by name: banking77/train"):
        read_examples("classify", "banking78", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"'drcd/dev' is a data set of kind 'span'.*wnut17/train"):
        read_examples("tag", "drcd/dev")
    with pytest.raises(FileNotFoundError, match="by name: drcd/dev, drcd/test, xquad_en"):
        read_examples("span", "nothing.json")


def test_the_list_names_every_set():
    lines = describe_datasets().split("\n")
    assert [line.split()[0] for line in lines] == list(NAMED_DATASETS)
    assert all(
        str(d.size) in line and d.licence in line for d, line in zip(NAMED_DATASETS.values(), lines)
    )
