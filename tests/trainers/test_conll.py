"""CoNLL files: every scheme becomes BIO, what is broken is repaired and counted or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import conll
from trainers.data.config import DataConfig
from trainers.data.conll import to_bio


def read_tagged(source, **options):
    return conll.read_tagged(source, DataConfig(train=source, **options))


def read(tmp_path, content, name="a.conll", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_tagged(str(path), **options)


def error(tmp_path, content, **options):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, content, **options)
    return str(caught.value).replace(str(tmp_path), "")


# Files.


def test_tab_columns_byte_order_mark_and_line_ends(tmp_path, warnings):
    content = "\ufeffNew York\tB-loc\r\n#is\tO\r\n\t\r\n\r\nEU\tB-org\r\n".encode()
    tagged = read(tmp_path, content)
    assert tagged.words == [["New York", "#is"], ["EU"]]
    assert tagged.tags == [["B-loc", "O"], ["B-org"]]
    assert tagged.where == ["a.conll:1", "a.conll:5"] and len(tagged) == 2
    assert tagged.select([1]).words == [["EU"]]
    assert not warnings


def test_spaces_docstart_columns_and_comments(tmp_path):
    content = "-DOCSTART- -X- O O\n\n# id 1\nEU  NNP \tI-NP I-ORG\nrejects VBZ I-VP O \n"
    tagged = read(tmp_path, content, separator="space")
    assert tagged.words == [["EU", "rejects"]] and tagged.tags == [["B-ORG", "O"]]
    tagged = read(tmp_path, content, separator="space", tag_column=1)
    assert tagged.tags == [["NNP", "VBZ"]]
    tagged = read(tmp_path, "1 a X _\n2 b Y _\n", token_column=1, tag_column=-2)
    assert tagged.words == [["a", "b"]] and tagged.tags == [["X", "Y"]]


_CONLL_U = """\
# newdoc
# text = V\u00e1monos a\tb
1-2\tV\u00e1monos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos a\tnos\tPRON\t_\t_\t1\tobj\t_\t_
2.1\tx\tx\tX\t_\t_\t_\t_\t_\t_

# sent_id = 2
1\t#hi\thi\tX\t_\t_\t0\troot\t_\t_
"""
_NAMED = {"token_column": "FORM", "tag_column": "UPOS"}


@pytest.mark.parametrize(
    "content, options, words, tags",
    [
        (_CONLL_U, _NAMED, "Vamos|nos a||#hi", "VERB PRON||X"),
        (_CONLL_U, {"token_column": 1, "tag_column": "3"}, "Vamos|nos a||#hi", "VERB PRON||X"),
        ("# global.columns = ID UPOS FORM\n1\tX\ta\n", _NAMED, "a", "X"),
        ("FORM L UPOS\na b X\n", _NAMED, "a", "X"),
        # MultiCoNER: a tab in comments that look like words, none elsewhere.
        ("# id 1\tdomain=en\nthe _ _ O\nlion _ _ B-C\n", {}, "the|lion", "O B-C"),
        # A word of "#" and one that begins with it, at the start of a sentence.
        ("a O\n\n# id 1 2\n# O\n#is B-x\n", {}, "a||#|#is", "O||O B-x"),
        ("EU  NNP \tI-NP I-ORG\nin VBZ I-VP O\n", {}, "EU|in", "B-ORG O"),
        ("New York\tB-loc\na O\nb O\n", {}, "New York|a|b", "B-loc O O"),
    ],
)
def test_comments_separators_and_names_just_work(tmp_path, warnings, content, options, words, tags):
    tagged = read(tmp_path, content, **options)
    assert tagged.words == [sentence.split("|") for sentence in words.split("||")]
    assert tagged.tags == [sentence.split() for sentence in tags.split("||")]
    assert not warnings


def test_a_comment_that_may_be_a_word_is_warned_about(tmp_path, warnings):
    assert read(tmp_path, "a NN\n\n#b QQ\nc NN\n").words == [["a"], ["c"]]
    assert "a.conll:3: 1 line(s) that start with #" in warnings[0]


def test_only_line_feeds_and_tabs_separate(tmp_path):
    odd = "a\u2028b\u00a0c\x85"
    assert read(tmp_path, f"{odd}\tO\n").words == [[odd]]
    assert read(tmp_path, f"{odd} O\n").words == [[odd]]


def test_a_folder_is_read_in_order(tmp_path):
    (tmp_path / "b.conll").write_text("b O")
    (tmp_path / "a.conll").write_text("a\tB-x\n")
    tagged = read_tagged(str(tmp_path), pattern="*.conll")
    assert tagged.words == [["a"], ["b"]] and tagged.where == ["a.conll:1", "b.conll:1"]


@pytest.mark.parametrize(
    "content, options, expected",
    [
        ("a\tO\nb\n", {}, ["/a.conll:2: 1 column(s) in 'b'", "token_column=0", "tabs"]),
        (
            "a O\n\nb",
            {},
            ["/a.conll:3: 1 column(s) in 'b'", "spaces", "--set=data.token_column"],
        ),
        ("a O\n", {"tag_column": 3}, ["/a.conll:1: 2 column(s)", "tag_column=3"]),
        ("a O\n", {"tag_column": 0}, ["/a.conll:1: 2 column(s)", "tag_column=0"]),
        ("a O\n", {"token_column": -3}, ["/a.conll:1: 2 column(s)", "token_column=-3"]),
        ("a\t\n", {}, ["/a.conll:1: the tag is empty"]),
        ("a\tO\n\tO\n", {}, ["/a.conll:2: the word is empty"]),
        ("", {}, ["/a.conll: no sentences"]),
        ("\n\t\n-DOCSTART- O\n", {}, ["/a.conll: no sentences"]),
        ("a B-x\nb PER\n", {}, ["/a.conll:2: the tag 'PER'", "'bio'", "'raw'"]),
        ("a B-x\nb E-x\n", {"scheme": "bio"}, ["/a.conll:2: the tag 'E-x'", "scheme"]),
        ("a B-\n", {"scheme": "iob2"}, ["/a.conll:1: the tag 'B-'"]),
        (_CONLL_U, {}, ["/a.conll:3: column 0 holds the numbers", "data.token_column=FORM"]),
        (_CONLL_U, {**_NAMED, "tag_column": "NER"}, ["no column 'NER' (tag_column)", "'UPOS'"]),
        ("a O\n", {"tag_column": "NER"}, ["/a.conll:1: no column 'NER'", "0 to 1", "of names"]),
        ("a O\nd\tO\nc O y\n", {}, ["/a.conll:3: 3 column(s)", "lines have 2", "separator"]),
        ("a O", {"separator": "comma"}, ["separator='comma'", "'space'"]),
        ("café O".encode("latin-1"), {}, ["/a.conll: binary or not utf-8", "0xe9", "latin-1"]),
        (b"a O\n" * 99 + b"caf\xe9 O", {"invalid": "strict"}, ["/a.conll", "line 100"]),
    ],
)
def test_bad_files_are_refused(tmp_path, content, options, expected):
    message = error(tmp_path, content, **options)
    for part in expected:
        assert part in message


def test_a_declared_encoding(tmp_path):
    assert read(tmp_path, "café O".encode("latin-1"), encoding="latin-1").words == [["café"]]


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.conll"):
        read_tagged(str(tmp_path / "none.conll"))


# Schemes.


@pytest.mark.parametrize(
    "scheme, tags, expected, problems",
    [
        ("bio", "O B-a I-a B-a O", "O B-a I-a B-a O", []),
        ("bio", "O I-a I-a I-b", "O B-a I-a B-b", [1, 3]),
        ("iob1", "I-a I-a B-a I-b O I-b", "B-a I-a B-a B-b O B-b", []),
        ("iob1", "B-a O", "B-a O", [0]),
        ("bioes", "B-a I-a E-a S-a S-b O B-a E-a", "B-a I-a I-a B-a B-b O B-a I-a", []),
        ("bioes", "S-a I-a E-a E-b O E-a", "B-a B-a I-a B-b O B-a", [1, 3, 5]),
        ("bioes", "B-a O B-b I-b", "B-a O B-b I-b", [0, 3]),
        ("bioes", "B-a I-b E-b", "B-a B-b I-b", [0, 1]),
        ("bio", "B-creative-work I-creative-work", "B-creative-work I-creative-work", []),
        ("bio", "", "", []),
    ],
)
def test_schemes(scheme, tags, expected, problems):
    assert to_bio(tags.split(), scheme) == (expected.split(), problems)


@pytest.mark.parametrize(
    "tags, scheme, expected, repaired",
    [
        ("B-a I-a O B-b", "bio", "B-a I-a O B-b", 0),
        ("I-a I-a B-a O I-b", "iob1", "B-a I-a B-a O B-b", 0),
        ("B-a O I-b O", "bio", "B-a O B-b O", 1),
        ("S-a B-b E-b", "bioes", "B-a B-b I-b", 0),
        ("NN VB NN", "raw", "NN VB NN", 0),
    ],
)
def test_the_scheme_is_found(tmp_path, warnings, monkeypatch, tags, scheme, expected, repaired):
    told = []
    monkeypatch.setattr("absl.logging.info", lambda message, *args: told.append(message % args))
    content = "".join(f"w {tag}\n" for tag in tags.split())
    assert read(tmp_path, content).tags == [expected.split()]
    assert repr(scheme) in told[0]
    assert len(warnings) == bool(repaired)


def test_repairs_are_counted_with_the_first_place(tmp_path, warnings):
    read(tmp_path, "a B-x\n\nb O\nc I-x\n\nd I-y\n")
    (warning,) = warnings
    assert "2 tag(s)" in warning and "a.conll:4" in warning


def test_entity_tags_without_prefixes_are_warned_about(tmp_path, warnings):
    assert read(tmp_path, "a PER\nb O\n").tags == [["PER", "O"]]
    assert "B-type" in warnings[0]
    warnings.clear()
    read(tmp_path, "a PER\nb O\n", scheme="raw")
    assert not warnings


# The CoNLL evaluation script's rules, as tables: which pairs of neighbours start and end a chunk.
_STARTS = {"BB", "IB", "OB", "EB", "OI", "EI", "OE", "EE"}
_ENDS = {"BB", "BO", "IB", "IO", "EE", "EI", "EO", "EB"}


def script_chunks(tags):
    chunks, begin, kind, before = [], None, "", ("O", "")
    for index, tag in enumerate([*tags, "O"]):
        now = (tag[0], tag[2:])
        pair, changed = before[0] + now[0], before[1] != now[1]
        if begin is not None and (pair in _ENDS or changed):
            chunks.append((kind, begin, index))
            begin = None
        if now[0] != "O" and (pair in _STARTS or changed):
            begin, kind = index, now[1]
        before = now
    return chunks


@given(st.lists(st.sampled_from(["O"] + [f"{p}-{k}" for p in "BIE" for k in "ab"]), max_size=9))
def test_repairs_are_those_of_the_evaluation_script(tags):
    scheme = "bioes" if any(tag[0] == "E" for tag in tags) else "bio"
    repaired, problems = to_bio(tags, scheme)
    assert script_chunks(repaired) == script_chunks(tags)
    assert to_bio(repaired, "bio") == (repaired, [])
    if scheme == "bio":
        assert to_bio(tags, "iob1")[0] == repaired
        assert bool(problems) == (repaired != tags)


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 3)), max_size=5))
def test_every_scheme_of_the_same_entities_reads_alike(entities):
    bio, bioes = [], []
    for kind, length in entities:
        if not kind:
            bio += ["O"] * length
            bioes += ["O"] * length
        else:
            bio += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
            inner = ["S"] if length == 1 else ["B"] + ["I"] * (length - 2) + ["E"]
            bioes += [f"{prefix}-{kind}" for prefix in inner]
    iob1 = [
        f"I-{tag[2:]}" if tag[0] == "B" and bio[i - 1 : i] not in ([tag], [f"I-{tag[2:]}"]) else tag
        for i, tag in enumerate(bio)
    ]
    bioul = [tag.replace("E-", "L-").replace("S-", "U-") for tag in bioes]
    for scheme, tags in (("bio", bio), ("bioes", bioes), ("bioes", bioul), ("iob1", iob1)):
        assert to_bio(tags, scheme) == (bio, [])
