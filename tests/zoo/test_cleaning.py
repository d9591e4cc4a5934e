"""Cleaning against Python's own text functions, on texts that hypothesis makes."""

import html
import html.entities
import unicodedata

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from zoo.config import ConfigError, from_dict, to_dict
from zoo.text.cleaning import clean
from zoo.text.config import ENGLISH_STOP_WORDS, CleaningConfig

EVERYTHING = CleaningConfig(
    html=True,
    control_characters=True,
    unicode="nfkc",
    lowercase=True,
    urls="mask",
    emails="mask",
    stop_words=ENGLISH_STOP_WORDS,
    whitespace=True,
)
# What is hard: pieces that belong together, and pieces that must not grow together.
PIECES = [
    "http://", "https://a.cn/x_(y)", "www.", "ftp://é.de", "@", "a@b.co", ".co", "/", "(", ")",
    "the", "THE", "of", "’", "'", "i'm", " ", "\u3000", "\t", "\r\n", "\x00", "\u200e", "\u0301",
    "J\u030c", "İ", "ﬁ", "Ａ", "Σ", "中", "link", "email", "-", "_", "=", "\u0338", "7", "\ufffd",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
treatments = st.sampled_from(["keep", "mask", "remove"])
configs = st.builds(
    CleaningConfig,
    control_characters=st.booleans(),
    unicode=st.sampled_from(["none", "nfc", "nfkc"]),
    lowercase=st.booleans(),
    urls=treatments,
    emails=treatments,
    stop_words=st.sampled_from([(), ("the", "of", "i'm"), ENGLISH_STOP_WORDS]),
    whitespace=st.booleans(),
)


def cleaned(text, **options):
    text = text if isinstance(text, bytes) else text.encode()
    return clean([text], CleaningConfig(**options)).numpy()[0].decode()


@given(st.lists(st.binary(max_size=12), max_size=4))
def test_nothing_switched_on_changes_no_byte(strings):
    assert clean(strings, CleaningConfig(url_mask="x")).numpy().tolist() == strings


@given(texts, configs)
def test_cleaning_twice_is_cleaning_once(text, config):
    once = clean([text], config)
    assert clean(once, config).numpy()[0] == once.numpy()[0]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), configs)
def test_any_bytes_become_valid_text(strings, config):
    for options in (config, EVERYTHING):
        if options == CleaningConfig():
            continue
        result = clean(strings, options).numpy()
        assert len(result) == len(strings)
        for string in result:
            string.decode("utf-8")


@given(texts)
def test_whitespace_as_str_split(text):
    assert cleaned(text, whitespace=True) == " ".join(text.split())


@given(texts, st.sampled_from(["nfc", "nfkc"]))
def test_unicode_form(text, form):
    # Python's Unicode tables may be older than ICU's: only characters that both know.
    text = "".join(c for c in text if unicodedata.category(c) != "Cn")
    assert cleaned(text, unicode=form) == unicodedata.normalize(form.upper(), text)


numbers = st.integers(0, 0x110010) | st.integers(0, 10**12)
references = st.one_of(
    st.builds("&#{}{}".format, numbers, st.sampled_from(["", ";"])),
    st.builds("&#{}{:0>9x};".format, st.sampled_from("xX"), numbers),
    st.builds("&#x{:X}{}".format, numbers, st.sampled_from(["", ";"])),
    st.sampled_from([f"&{name}" for name in html.entities.html5 if name[-1] == ";"]),
    st.sampled_from(["& ", "&#", "&#;", "&#x", "&#xg;", "&;", "&zzz;", "&Q", "&中;", ";"]),
    st.text(max_size=3).map(lambda text: text.replace("&", "").replace("<", "")),
)


@given(st.lists(st.lists(references, max_size=6).map("".join), min_size=1, max_size=4))
def test_entities_as_html_unescape(strings):
    result = clean(strings, CleaningConfig(html=True)).numpy().tolist()
    expected = [html.unescape(text) for text in strings]
    # A reference may make a "<" that begins a tag: tags go before references are decoded.
    assert [text.decode() for text in result] == expected


def test_every_name_and_no_name_without_its_semicolon():
    names = list(html.entities.html5)
    result = clean([f"a&{name} b" for name in names], CleaningConfig(html=True)).numpy()
    for name, text in zip(names, result):
        expected = html.entities.html5[name] if name[-1] == ";" else f"&{name}"
        assert text.decode() == f"a{expected} b"
    # Deliberate: html.unescape would find a registered sign and a "not" sign in these.
    assert cleaned("?a=1&region=2&notit;", html=True) == "?a=1&region=2&notit;"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>one</p><p>two</p>", " one  two "),
        ("one<br />two<BR/>three<br>", "one two three "),
        ("b<b>ol</b>d <a title='a>b' href=\"c>d\">link</a>", "bold link"),
        ("it <p it's> don't <i>x</i>", "it   don't x"),
        ("a<!-- <b>not</b> seen -->b<!-- no end", "ab"),
        ("a<script type=x>if (a<b) {}</script>b<STYLE>p{}</style >c<script>", "abc"),
        ("<!DOCTYPE html><?xml version='1'?>x<![CDATA[y]]>", "x"),
        ("1 < 2 > 0, I <3 you, a<", "1 < 2 > 0, I <3 you, a<"),
        ("&lt;b&gt; &amp;lt;", "<b> &lt;"),
        # The last eight digits alone would be an A.
        ("&#4200000065; &#x4200000041; &#0000000000065;", "\ufffd \ufffd A"),
        ("<preface>x</preface> <list>", "x "),
    ],
)
def test_html(text, expected):
    assert cleaned(text, html=True) == expected


def test_control_characters():
    text = "a\tb\r\nc\x0bd\x85e\x00f\x7fg\ufeffh\xadi\u202ej \u200d\u200c\n"
    assert cleaned(text, control_characters=True) == "a b c d efghij \u200d\u200c "


def test_lowercase_is_unicode():
    assert cleaned("ÀÇ ΣΑΣ ЖЯ İ", lowercase=True) == "àç σας жя i\u0307"


@pytest.mark.parametrize(
    ("text", "masked", "removed"),
    [
        ("see http://a.b/c?x=1&y=2. Then", "see link. Then", "see  . Then"),
        ("(https://a.org/wiki/B_(c)), HTTP://A", "(link), link", "( ),  "),
        ("访问https://a.cn看看，www.b.cn。", "访问link看看，link。", "访问 看看， 。"),
        ("http://me@a.de:80/x user@www.a.de", "link email", "   "),
        ("a.b+c@d-e.co.uk; josé@müller.de,", "email; email,", " ;  ,"),
        ("邮箱a@b.cn吗", "邮箱email吗", "邮箱 吗"),
        ("a@b 3@4.5 http:// xwww.a e.g.that", None, None),
    ],
)
def test_urls_and_emails(text, masked, removed):
    assert cleaned(text, urls="mask", emails="mask") == (masked or text)
    assert cleaned(text, urls="remove", emails="remove") == (removed or text)
    assert cleaned(text, urls="keep", emails="keep", html=True) == text


def test_masks_are_taken_literally():
    text = "http://a.b c@d.ee"
    result = cleaned(text, urls="mask", emails="mask", url_mask=r"<\1>", email_mask="[E]")
    assert result == r"<\1> [E]"


def test_stop_words_are_whole_words():
    words = ("the", "of", "don't")
    text = "The 'the' the's of the of the don’t DON'T éthe the_ the1 (of)the"
    expected = " '' the's       éthe the_ the1 ()"
    assert cleaned(text, stop_words=words) == expected
    assert cleaned(text, stop_words=words, whitespace=True) == "'' the's éthe the_ the1 ()"


@given(st.lists(st.sampled_from(["the", "Of", "cat", "a", "не", "HER", "hers", "中", "x1"])))
def test_stop_words_as_a_filter_over_words(words):
    stop_words = (*ENGLISH_STOP_WORDS, "не")
    expected = [word for word in words if word.lower() not in stop_words]
    assert cleaned(" ".join(words), stop_words=stop_words, whitespace=True).split() == expected


def test_one_function_eagerly_in_tf_data_and_in_a_saved_model(tmp_path):
    text = "<p>The CAF&Eacute;\x00 at http://a.b, 中\u3000文 a@b.cc "
    rows = [text, "", "plain", b"\xff&lt;"]
    expected = clean(rows, EVERYTHING).numpy().tolist()
    assert [row.decode() for row in expected] == ["café link, 中 文 email", "", "plain", "\ufffd<"]

    module = tf.Module()
    signature = tf.TensorSpec([None], tf.string)
    module.clean = tf.function(lambda text: clean(text, EVERYTHING), input_signature=[signature])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.clean(tf.constant(rows)).numpy().tolist() == expected
    # The export promises stateless operations: nothing to initialise, no Python.
    graph = module.clean.get_concrete_function().graph
    stateful = [op.type for op in graph.get_operations() if op.op_def.is_stateful]
    assert stateful == []

    dataset = tf.data.Dataset.from_tensor_slices(rows).batch(3)
    batches = dataset.map(lambda text: clean(text, EVERYTHING))
    assert [text for batch in batches.as_numpy_iterator() for text in batch] == expected
    # One text without a batch, and a matrix of texts.
    assert clean(rows[2], EVERYTHING).numpy() == b"plain"
    assert clean([rows[:2], rows[2:]], EVERYTHING).numpy().ravel().tolist() == expected


def test_config_is_strict_and_survives_json():
    assert from_dict(CleaningConfig, to_dict(EVERYTHING)) == EVERYTHING
    with pytest.raises(ConfigError, match="unicode"):
        from_dict(CleaningConfig, {"unicode": "nfd"})
    for word in ("", "two words", "'tis", "a.b", "*"):
        with pytest.raises(ConfigError, match="stop_words"):
            CleaningConfig(stop_words=(word,))
    with pytest.raises(ConfigError, match="url_mask"):
        CleaningConfig(url_mask="a url")
