"""A file of one's own is looked at: format, separator, encoding, header and columns are found."""

import bz2
import dataclasses
import json

import pytest

from trainers.data import labeled
from trainers.data.config import DataConfig
from trainers.data.parallel import read_pairs
from trainers.data.tables import inspect_table

REVIEWS = [("I liked the film, all of it", "pos"), ("what a long evening it was", "neg")] * 3


def read_labeled(source, data_dir=None, task="classify", **options):
    return labeled.read_labeled(source, DataConfig(train=source, **options), data_dir, task)


def look(tmp_path, content, task="classify", name="a.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return inspect_table(str(path), task)


def table(separator, header=("review", "stars"), rows=REVIEWS):
    lines = [header] if header else []
    for text, label in [*lines, *rows]:
        yield separator.join((f'"{text}"' if separator in text else text, label))


@pytest.mark.parametrize(
    ("separator", "name", "format"),
    [(",", "comma", "csv"), (";", "semicolon", "csv"), ("\t", "tab", "tsv"), ("|", "pipe", "csv")],
)
@pytest.mark.parametrize("file", ["a.csv", "a.data"])
def test_separators_and_headers(tmp_path, separator, name, format, file):
    found = look(tmp_path, "\n".join(table(separator)), name=file)
    assert (found.format, found.separator, found.encoding) == (format, name, "utf-8")
    assert found.header and found.columns == ("review", "stars")
    assert (found.text_columns, found.label_column) == (("review",), "stars")
    found = look(tmp_path, "\n".join(table(separator, header=None)), name=file)
    assert not found.header and found.columns == ("0", "1")
    assert (found.text_columns, found.label_column) == (("0",), "1")
    # What was found is enough to read the file.
    read = read_labeled(
        str(tmp_path / file),
        format=found.format,
        separator=found.separator,
        header="none",
        text_column=found.text_columns[0],
        label_column=found.label_column,
    )
    assert list(zip(read.text, read.label)) == REVIEWS


@pytest.mark.parametrize(
    ("encoding", "text", "found"),
    [
        ("utf-8-sig", "café noir", "utf-8"),
        ("utf-16", "café noir", "utf-16"),
        ("utf-16-le", "cafe noir", "utf-16-le"),
        ("cp1252", "café noir €", "cp1252"),
        ("gb18030", "睿化著鸿明缇管一阳生睿化著鸿明", "gb18030"),
    ],
)
def test_encodings(tmp_path, encoding, text, found):
    layout = look(tmp_path, "\n".join(f"{t},{k}" for t, k in [(text, "x")] * 9).encode(encoding))
    assert layout.encoding == found and layout.columns == ("0", "1")


def test_json_lines_and_arrays(tmp_path):
    rows = [{"id": n, "body": text, "kind": label} for n, (text, label) in enumerate(REVIEWS)]
    for name, content in {
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "a.json": json.dumps(rows, indent=2),
    }.items():
        found = look(tmp_path, content, name=name)
        assert found.format == name[2:] and found.columns == ("id", "body", "kind")
        assert (found.text_columns, found.label_column) == (("body",), "kind")
        read = read_labeled(str(tmp_path / name), text_column="body", label_column="kind")
        assert list(zip(read.text, read.label)) == REVIEWS
    assert read.where[1] == "a.json:7"
    (tmp_path / "a.json").write_text('[{"text": "a",\n"label": 1},\n {"text": ]')
    with pytest.raises(ValueError, match=r"a\.json:3: not JSON"):
        read_labeled(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('[{"text": "a"}\n{"text": "b"}]')
    with pytest.raises(ValueError, match=r"a\.json:1: not JSON .*no comma"):
        read_labeled(str(tmp_path / "a.json"), task="embed")
    squad = '{"version": "1.1", "data": []}'
    assert look(tmp_path, squad, "span", "a.json").format == "squad"


def test_packed_tables(tmp_path):
    packed = bz2.compress("\n".join(table(",")).encode())
    assert look(tmp_path, packed, name="a.csv.bz2").label_column == "stars"
    options = {"text_column": "review", "label_column": "stars"}
    assert len(read_labeled(str(tmp_path / "a.csv.bz2"), **options)) == 6


def test_short_sentences_are_no_names_of_columns(tmp_path):
    found = look(tmp_path, "Go.\tVe.\nRun!\tCorre.\nI see.\tYa veo.\n", "embed", "spa.txt")
    assert not found.header
    assert found.text_columns == ("0", "1")


def test_ids_are_no_texts(tmp_path):
    lines = [{"paper_id": "9" * 40 + "x", "title": "On it", "summary": "It is so"}] * 3
    content = "".join(json.dumps(line) + "\n" for line in lines)
    assert look(tmp_path, content, "embed", "a.jsonl").text_columns == ("title", "summary")


def test_columns_by_task(tmp_path):
    pairs = "id,premise,hypothesis,gold_label\n" + "".join(
        f"{n},some long text here,another,{n % 3}\n" for n in range(9)
    )
    found = look(tmp_path, pairs, "pair")
    assert (found.text_columns, found.label_column) == (("premise", "hypothesis"), "gold_label")
    assert look(tmp_path, pairs, "embed").label_column is None
    scores = "a,b,c\n" + "".join(f"text number {n},{n},{n / 7:.3f}\n" for n in range(9))
    found = look(tmp_path, scores, "regress")
    assert (found.text_columns, found.label_column) == (("a",), "c")
    # A file sorted by its labels begins with one of them; of a whole file that is no label.
    rows = "text,label,from\n" + "".join(
        f"text {n},{'neg' if n < 3000 else 'pos'},a{n % 7}\n" for n in range(6000)
    )
    assert look(tmp_path, rows).label_column == "label"
    assert look(tmp_path, rows[:2000]).label_column == "from"
    unlabelled = look(tmp_path, "text\n" + "some words\n" * 5, "classify")
    assert (unlabelled.text_columns, unlabelled.label_column) == (("text",), None)
    assert look(
        tmp_path, "A story, told\nin lines. Of, course, commas\n", "lm", "a.txt"
    ).format == ("lines")
    assert look(tmp_path, "EU\tB-ORG\nsaid\tO\n", "tag", "a.conll").format == "conll"


def test_what_cannot_be_looked_at(tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv: the file is empty"):
        look(tmp_path, " \n")
    with pytest.raises(ValueError, match=r"a\.csv:3: the quotes"):
        look(tmp_path, 'text,label\na,b\n"c,d\n')


def test_parquet_has_labels_too(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts, labels = zip(*REVIEWS)
    path = str(tmp_path / "a.parquet")
    parquet.write_table(arrow.table({"text": texts, "label": [len(x) for x in labels]}), path)
    assert inspect_table(path, "classify").label_column == "label"
    assert read_labeled(path).label == ["3"] * 6


@pytest.mark.parametrize(
    ("first", "second", "header"),
    [
        ("en\tes", "the cat\tel gato", True),
        ("EN\tzh-CN", "cat\tgato", True),
        ("English\tSpanish", "cat\tgato", True),
        ("Englisch\tDeutsch", "I am a cat\tich bin eine Katze", True),
        ("id\teins\tzwei", "1\ta b\tc d", True),
        ("source\ttarget", "cat\tgato", True),
        ("dog\tperro", "cat\tgato", False),
        ("Go\tVe", "Run\tCorre", False),
        ("one and one\tuno y uno", "two and two\tdos y dos", False),
    ],
)
def test_a_first_pair_is_no_header(tmp_path, first, second, header):
    found = look(tmp_path, f"{first}\n{second}\n", "translate", "a.tsv")
    assert found.header == header and len(found.text_columns) == 2


def test_fields_inside_of_objects(tmp_path):
    """As Hugging Face keeps translations."""
    rows = [{"id": str(i), "translation": {"en": f"a b {i}", "es": f"c d {i}"}} for i in range(3)]
    found = look(tmp_path, "\n".join(map(json.dumps, rows)), "translate", "a.jsonl")
    assert found.text_columns == ("translation.en", "translation.es")
    columns = dict(zip(("text_column", "pair_column"), found.text_columns))
    data = DataConfig(train="a", format="jsonl", **columns)
    pairs = read_pairs(str(tmp_path / "a.jsonl"), data)
    assert pairs.source[0] == "a b 0" and pairs.target[2] == "c d 2"
    for wrong in ("translation", "translation.de"):
        with pytest.raises(ValueError, match=r"a\.jsonl:1: .*'translation\.en', 'translation\.es'"):
            read_pairs(str(tmp_path / "a.jsonl"), dataclasses.replace(data, text_column=wrong))
