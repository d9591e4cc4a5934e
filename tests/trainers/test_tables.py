"""Tables, folders, lines: texts and labels arrive exactly, bad rows are told by file and line."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import labeled
from trainers.data.config import DataConfig
from trainers.data.rows import text_rows


def read_labeled(source, data_dir=None, task="classify", **options):
    return labeled.read_labeled(source, DataConfig(train=source, **options), data_dir, task)


def read(tmp_path, content, name="a.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labeled(str(path), **options)


def error(tmp_path, content, name="a.csv", **options):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, content, name, **options)
    return str(caught.value).replace(str(tmp_path), "")


# CSV.


def test_csv_with_byte_order_mark_line_ends_commas_and_quotes(tmp_path, warnings):
    content = (
        "\ufefftext, label \r\n"
        '"Hi, ""you""\r\nthere",  "a, ""b"""\r\n'  # No quotes rule after a space: strict CSV.
    )
    with pytest.raises(ValueError, match=r"a\.csv:2: 3 column"):
        read(tmp_path, content)
    content = content.replace('  "a', '"a') + '5" disk, x \r\n'
    examples = read(tmp_path, content)
    assert examples.text == ['Hi, "you"\nthere', '5" disk']
    assert examples.label == ['a, "b"', "x"]
    assert examples.where == ["a.csv:2", "a.csv:4"] and examples.text_pair is None
    assert not warnings


def test_named_and_numbered_columns_and_headers(tmp_path):
    content = "id,label,text,0\n7,x,hi,zero\n"
    assert read(tmp_path, content).text == ["hi"]
    assert read(tmp_path, content, pair_column="-1").text_pair == ["zero"]
    assert read(tmp_path, content, pair_column="0").text_pair == ["zero"]  # Its name is "0".
    numbered = {"text_column": "2", "label_column": "-3"}
    assert read(tmp_path, content, **numbered).text == ["text", "hi"]
    assert read(tmp_path, content, **numbered, header="first").label == ["x"]
    assert read(tmp_path, content, **numbered).where == ["a.csv:1", "a.csv:2"]
    assert read(tmp_path, content, text_column=2, task="embed").label is None


def test_a_line_of_names_above_numbered_columns_is_warned_about(tmp_path, warnings):
    numbered = {"text_column": 0, "label_column": 1}
    content = "review,stars\na,4\nb,4\nc,5\n"
    assert len(read(tmp_path, content, **numbered)) == 4
    assert len(warnings) == 1 and "a.csv:1: no other row has the label 'stars'" in warnings[0]
    assert read(tmp_path, content, **numbered, header="first").label == ["4", "4", "5"]
    assert len(read(tmp_path, content, **numbered, header="none")) == 4
    assert len(warnings) == 1


def test_a_field_of_any_length_is_read(tmp_path):
    limit = csv.field_size_limit()
    text = "word " * 60_000
    assert read(tmp_path, f'text,label\n"{text}",x\n').text == [text]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    "content, options, expected",
    [
        ("text,category\na,b\n", {}, ["/a.csv:1", "'label' (label_column)", "'text', 'category'"]),
        ("a,b\n", {"header": "none"}, ["/a.csv:1", "'text'", "0 to 1 (no names)"]),
        ("a,b\n", {"text_column": "0", "label_column": "2"}, ["'2' (label_column)", "0 to 1"]),
        ("text;label\na;b\n", {}, ["'text'", "'text;label'"]),
        ("text,label,text\na,b,c\n", {}, ["/a.csv:1: 2 columns 'text' (text_column)"]),
        ("text,label\na,b\nc,d,e\n", {}, ["/a.csv:3: 3 column(s)", "has 2", "quotes"]),
        ('text,label\n"a\n\n",b\n\nc\n', {}, ["/a.csv:6: 1 column(s)"]),
        ('text,label\na,b\n"c,d\ne,f\n', {}, ["/a.csv:3: the quotes of the row that starts here"]),
        ('text,label\n"a" b,c\n', {}, ["/a.csv:2: the quotes"]),
        ("text,label\na,b\nc, \n", {}, ["/a.csv:3: no label in column 'label'", "--task=lm"]),
        ("", {}, ["/a.csv: no examples", "1 file(s)"]),
        ("\ufefftext,label\r\n", {}, ["/a.csv: no examples"]),
        ("text,label\ncafé,b\n".encode("latin-1"), {}, ["/a.csv: binary or not utf-8", "latin-1"]),
        ("text,label\na,b\n".encode("utf-16"), {}, ["/a.csv", "utf-16"]),
    ],
)
def test_bad_tables_are_refused(tmp_path, content, options, expected):
    message = error(tmp_path, content, **options)
    for part in expected:
        assert part in message


def test_numeric_labels(tmp_path):
    good = read(tmp_path, "text,label\na, -1.5e2 \nb,3\n", task="regress")
    assert good.label == ["-1.5e2", "3"]
    for bad in ("high", "nan", "inf", "-Infinity", "1e999", "1_0", "1,5", "0x1"):
        message = error(tmp_path, f'text,label\na,1\nb,"{bad}"\n', task="regress")
        assert "a.csv:3" in message and repr(bad) in message and "finite number" in message


def test_blank_texts_are_kept_and_counted(tmp_path, warnings):
    examples = read(tmp_path, 'text,label,b\n"",x,z\n" \u3000",y,z\nc,x,\n', pair_column="b")
    assert examples.text == ["", " \u3000", "c"] and examples.text_pair == ["z", "z", ""]
    first, second = warnings
    assert "2 of 3" in first and "a.csv:2" in first
    assert "1 of 3" in second and "a.csv:4" in second and "second text" in second


def test_repeated_ids_are_counted_and_kept(tmp_path, warnings):
    content = "id,text,label\n1,a,x\n2,b,x\n1,c,y\n1,d,y\n2,e,x\n3,f,x\n"
    assert len(read(tmp_path, content, id_column="id")) == 6
    (warning,) = warnings
    assert "2 id(s)" in warning and "'1' (3 times)" in warning
    warnings.clear()
    read(tmp_path, content)
    assert not warnings


_FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8)


@given(st.lists(st.tuples(_FIELD, _FIELD), min_size=1, max_size=5))
def test_what_the_csv_module_writes_is_read_back(rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    columns = {"text_column": "0", "label_column": "1"}
    found = list(text_rows("a.csv", file.getvalue(), "csv", columns, DataConfig(train="a.csv")))
    assert [(row["text_column"], row["label_column"]) for _, row in found] == rows
    lines = file.getvalue().split("\n")
    assert all(lines[line - 1].startswith('"') for line, _ in found)


@pytest.mark.parametrize("label", ["NaN", "nan", "inf", "-Infinity"])
def test_labels_that_are_no_finite_numbers_are_no_classes(tmp_path, warnings, label):
    content = f"text,label\nnan,a\nc, {label} \n"
    assert f"/a.csv:3: the label in column 'label' is {label!r}" in error(tmp_path, content)
    assert read(tmp_path, content, task="embed").text == ["nan", "c"]  # a word may be "nan"
    assert "1 text(s) are NaN" in warnings[0] and "a.csv:2" in warnings[0]


# TSV.


def test_tsv_keeps_lone_quotes(tmp_path, warnings):
    content = 'text\tlabel\n"start\ta\nend"\tb\n5" "x"\tc "d", e\n'
    examples = read(tmp_path, content, "a.tsv")
    assert examples.text == ['"start', 'end"', '5" "x"'] and examples.label[2] == 'c "d", e'
    assert not warnings


def test_tsv_with_quotes_is_read_as_asked(tmp_path, warnings):
    content = 'text\tlabel\n"say ""hi""\tnow"\tb\n'
    assert "3 column(s)" in error(tmp_path, content, "a.tsv")
    assert read(tmp_path, content, "a.tsv", quotes=True).text == ['say "hi"\tnow']
    assert not warnings
    assert read(tmp_path, content.replace("\tnow", ""), "a.tsv").text == ['"say ""hi"""']
    assert "1 row(s)" in warnings[0] and "quotes=True" in warnings[0]


def test_tsv_without_header(tmp_path):
    content = "to category\t标题，一\t历史学\nto category\t标题二\t管理学\n"
    numbered = {"text_column": "1", "label_column": "2"}
    examples = read(tmp_path, content, "a.tsv", **numbered)
    assert examples.text == ["标题，一", "标题二"] and examples.label == ["历史学", "管理学"]
    assert "/a.tsv:1: no column 'text'" in error(tmp_path, content, "a.tsv")


# JSON lines.


def test_json_lines(tmp_path, warnings):
    rows = [
        {"text": "a\r\nb", "label": 'x, "y"', "n": 1},
        {"text": "\u2028é", "label": 1},
        {"label": True, "text": ""},
        {"label": 1.50, "text": "c"},
    ]
    content = (
        "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n\r\n"
    )
    examples = read(tmp_path, content.replace("1.5", "1.50"), "a.jsonl")
    assert examples.text == ["a\r\nb", "\u2028é", "", "c"]
    assert examples.label == ['x, "y"', "1", "true", "1.50"]
    assert examples.where[3] == "a.jsonl:4"
    assert len(warnings) == 1 and "1 of 4" in warnings[0]


def test_half_a_pair_is_replaced(warnings):
    text, data = r'{"t": "a\ud83d \ud83d\ude00"}', DataConfig(train="a")
    (row,) = text_rows("a.jsonl", text, "jsonl", {"text_column": "t"}, data)
    assert row == (1, {"text_column": "a\ufffd 😀"})
    assert "1 field(s)" in warnings[0]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("{'text': 1}", ["/a.jsonl:2: not JSON", "column 2"]),
        ("[1]", ["/a.jsonl:2: a JSON list, not an object"]),
        ('{"text": "a"}', ["/a.jsonl:2: no field 'label' (label_column)", "are 'text'"]),
        ('{"label": "a"}', ["/a.jsonl:2: no field 'text' (text_column)", "are 'label'"]),
        ('{"text": null, "label": "a"}', ["/a.jsonl:2: null in field 'text'"]),
        ('{"text": ["a"], "label": "a"}', ["/a.jsonl:2: an array in field 'text'"]),
        ('{"text": "a", "label": {}}', ["/a.jsonl:2: an object in field 'label'"]),
        ('{"text": "a", "label": null}', ["/a.jsonl:2: no label"]),
        ('{"text": "a", "label": " "}', ["/a.jsonl:2: no label"]),
        ("[" * 100_000, ["/a.jsonl:2: not JSON"]),
        ('{"text": "a", "label": NaN}', ["/a.jsonl:2: no label"]),
        ('{"text": NaN, "label": "a"}', ["/a.jsonl:2: NaN in field 'text'"]),
        ('{"text": -Infinity, "label": "a"}', ["/a.jsonl:2: -Infinity in field 'text'"]),
        ('{"text": "a", "label": Infinity}', ["/a.jsonl:2: Infinity in field 'label'"]),
        ('{"text": "a", "label": 1e999}', ["/a.jsonl:2: Infinity in field 'label'"]),
        ('{"text": -1e999, "label": "a"}', ["/a.jsonl:2: -Infinity in field 'text'"]),
    ],
    ids=range(16),
)
def test_bad_json_lines_are_refused(tmp_path, line, expected):
    message = error(tmp_path, '{"text": "a", "label": "b"}\n' + line + "\n", "a.jsonl")
    for part in expected:
        assert part in message


def test_json_numbers_that_are_not_finite_are_no_labels(tmp_path):
    content = '{"text": "a", "label": 2}\n{"text": "b", "label": NaN}\n'
    assert "a.jsonl:2" in error(tmp_path, content, "a.jsonl", task="regress")


# Folders, lines, several files.


def test_a_folder_per_label(tmp_path, warnings):
    for name, text in {"pos/2.txt": "good\r\n", "pos/1.txt": "", "neg/1.txt": "bad"}.items():
        (tmp_path / "reviews" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reviews" / name).write_bytes(text.encode())
    examples = read_labeled("reviews", data_dir=str(tmp_path))
    assert examples.label == ["neg", "pos", "pos"] and examples.text == ["bad", "", "good\n"]
    assert examples.where == ["neg/1.txt:1", "pos/1.txt:1", "pos/2.txt:1"]
    assert "1 of 3" in warnings[0]
    assert read_labeled(str(tmp_path / "reviews/*/1.txt")).label == ["neg", "pos"]
    assert read_labeled(str(tmp_path / "reviews"), task="embed").label is None
    (tmp_path / "reviews" / "urls.txt").write_text("not a review")
    with pytest.raises(ValueError, match=r"urls\.txt.*side by side.*glob"):
        read_labeled(str(tmp_path / "reviews"))
    with pytest.raises(ValueError, match="no pair_column"):
        read_labeled(str(tmp_path / "reviews"), pair_column="b")


def test_several_files_gzip_and_mixed_folders(tmp_path, warnings):
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"label,text\ny,two\n"))
    (tmp_path / "c.csv").write_bytes(b"")
    read(tmp_path, "text,label\none,x\n")
    examples = read_labeled(str(tmp_path))
    assert examples.text == ["one", "two"] and examples.where == ["a.csv:2", "b.csv.gz:2"]
    assert "1 file(s) have no rows" in warnings[0] and "c.csv" in warnings[0]
    (tmp_path / "LICENSE").write_text("free")
    with pytest.raises(ValueError, match=r"LICENSE.*\.csv.*data\.pattern"):
        read_labeled(str(tmp_path))
    assert len(read_labeled(str(tmp_path), pattern="*.csv")) == 2
    with pytest.raises(ValueError, match="cannot tell the format"):
        read_labeled(str(tmp_path / "LICENSE"))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv.*data_dir"):
        read_labeled("none.csv", data_dir=str(tmp_path))
