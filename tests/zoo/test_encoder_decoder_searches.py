"""What transformers' `generation_config.json` says: read, searched by, overridden, written."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_cases import change_json

import zoo
from zoo.generation.options import complete_options
from zoo.text.config import SearchConfig

FOLDER = Path(__file__).parent / "fixtures" / "encoder_decoders"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/searches.npz"))
BART, NEW = "bart", "generation_config.json"


def loaded(name: str, search: str, folder: Path) -> zoo.Bundle:
    """A fixture with one of its generation configs."""
    folder = shutil.copytree(FOLDER / name, folder / name)
    configs = json.loads((folder / "searches.json").read_text())
    (folder / NEW).write_text(json.dumps(configs[search]))
    return zoo.load(folder)


def found_by(bundle: zoo.Bundle, **options) -> tuple[list[list[int]], np.ndarray, int]:
    """Ids of targets as transformers has them, scores, and beams, of the fixture's four sources."""
    arrays, model = dict(np.load(bundle.folder / "expected.npz")), bundle.seq2seq
    signature = getattr(type(model), bundle.config.task)
    options = complete_options(options, signature.options_of(model))
    options = {k: np.broadcast_to(np.asarray(v), (4,)) for k, v in options.items()}
    ids, lengths, scores = map(
        np.asarray, model._search(arrays["token_ids"], arrays["mask"].astype(bool), options)
    )
    start, width = [*bundle.config.seq2seq.target_start], int(options["num_beams"].max())
    rows = [start + ids[i, k, : lengths[i, k]].tolist() for i in range(4) for k in range(width)]
    return rows, scores.reshape(-1), width


def expected(name: str, search: str, end: int) -> tuple[list[list[int]], np.ndarray | None]:
    arrays = np.load(FOLDER / name / "searches.npz")
    rows = [row.tolist() for row in arrays[search]]
    # The start token of some is their end.
    rows = [row[: row.index(end, 1)] if end in row[1:] else row for row in rows]
    return rows, arrays.get(f"{search}_scores")


def search_marks(name: str, search: str) -> list[pytest.MarkDecorator]:
    """`make test` runs each search and each family; JAX, which compiles for long, two of them."""
    quick = name == "bart" or search == "patient"
    jax = (name, search) in (("bart", "summary"), ("t5", "patient"))
    marks = [] if quick else [pytest.mark.slow]
    return marks if jax else [*marks, pytest.mark.tensorflow_only]


SEARCHES = [
    pytest.param(name, search, marks=search_marks(name, search))
    for name in NAMES
    for search in ("summary", "translation", "patient", "hasty", "greedy")
]


@pytest.mark.parametrize(("name", "search"), SEARCHES)
def test_searches_find_what_transformers_finds(name, search, tmp_path):
    """The n best targets of four sources in one batch, in their order, and their scores."""
    bundle = loaded(name, search, tmp_path)
    rows, scores, width = found_by(bundle)
    wanted, their_scores = expected(name, search, bundle.tokenizer.end_id)
    assert rows == wanted
    if width > 1:  # of one, transformers gives no score
        np.testing.assert_allclose(scores, their_scores, rtol=0, atol=1e-4)
    again = zoo.load(bundle.save_huggingface(tmp_path / "again"))
    assert again.config.seq2seq == bundle.config.seq2seq


def test_fields_are_read_as_transformers_counts(tmp_path):
    """Its lengths count what a target begins with."""
    search = loaded(BART, "summary", tmp_path).config.seq2seq.search
    assert search == SearchConfig(
        max_new_tokens=10,
        min_new_tokens=4,
        num_beams=4,
        length_penalty=2.0,
        early_stopping=True,
        no_repeat_ngram_size=2,
        forced_end=True,
        banned_ids=(3, 321),
    )
    folder = tmp_path / BART
    change_json(folder / NEW, min_new_tokens=1, max_new_tokens=4)  # come before the lengths
    search = zoo.load(folder).config.seq2seq.search
    assert (search.min_new_tokens, search.max_new_tokens) == (0, 3)
    (folder / NEW).unlink()
    assert zoo.load(folder).config.seq2seq.search == SearchConfig()
    change_json(folder / "config.json", num_beams=6, max_length=9)  # as in old folders
    assert zoo.load(folder).config.seq2seq.search == SearchConfig(max_new_tokens=7, num_beams=6)


@pytest.mark.parametrize(
    ("field", "value", "parts"),
    [
        ("num_beams", 20, ["num_beams must be a whole number from 1 to 16", "20"]),
        ("length_penalty", 9.5, [NEW, "length_penalty must be at most 8"]),
        ("early_stopping", "always", ["early_stopping must be true or false", "always"]),
        ("forced_eos_token_id", 7, ["forced_eos_token_id is 7", "has id 2"]),
        ("max_length", 2, ["max_length must be a whole number from 3"]),
        ("no_repeat_ngram_size", -1, ["no_repeat_ngram_size must be a whole number from 0 to 32"]),
        ("bad_words_ids", [[999]], ["ids must be in 0 to 321", "999"]),
    ],
)
def test_what_cannot_be_is_refused(field, value, parts, tmp_path):
    folder = loaded(BART, "summary", tmp_path).folder
    change_json(folder / NEW, **{field: value})
    with pytest.raises(zoo.BundleError) as error:
        zoo.load(folder)
    assert all(part in str(error.value) for part in [str(folder), *parts])


def test_what_is_not_read_is_told(tmp_path, caplog):
    folder = loaded(BART, "summary", tmp_path).folder
    change_json(folder / NEW, do_sample=True, repetition_penalty=1.0, bad_words_ids=[[5, 6]])
    assert zoo.load(folder).config.seq2seq.search.banned_ids == ()
    assert f"{NEW}: not read, so that other texts" in caplog.text
    assert "do_sample True, bad_words_ids [[5, 6]]" in caplog.text


@pytest.mark.tensorflow_only
def test_a_request_overrides_what_is_an_option(tmp_path):
    bundle = loaded("t5", "summary", tmp_path)
    model, texts = bundle.seq2seq, ["The quick brown fox.", "a dog"]
    default = model.summarize(texts)
    assert default["texts"].shape == (2, 4)
    options = {"max_new_tokens": [11], "min_new_tokens": [5]}
    options |= {"num_beams": [4], "length_penalty": [2.0]}
    for name, value in model.summarize(texts, **options).items():
        np.testing.assert_array_equal(value, default[name])
    own = model.summarize(texts, num_beams=[1, 3], max_new_tokens=[4], min_new_tokens=[0, 2])
    assert own["texts"].shape == (2, 3) and (own["token_count"].numpy() <= 3).all()
    assert own["texts"].numpy()[0, 1:].tolist() == [b"", b""]
    function = model.functions["summarize"].python_function.__signature__.parameters
    assert function["num_beams"].default.numpy() == [4]


def test_a_target_is_never_shorter_nor_repeats(tmp_path):
    """Also with more tokens than a cache has at first, and each row by its own length."""
    bundle = loaded("t5", "patient", tmp_path)
    search = dataclasses.replace(bundle.config.seq2seq.search, no_repeat_ngram_size=2)
    seq2seq = dataclasses.replace(bundle.config.seq2seq, search=search)
    bundle = zoo.save(tmp_path / "ours", bundle.model, bundle.tokenizer, seq2seq=seq2seq)
    assert zoo.load(tmp_path / "ours").config.seq2seq.search == search
    shutil.copy(FOLDER / "t5" / "expected.npz", tmp_path / "ours")
    least = np.array([40, 2, 35, 0], "int32")
    rows, _, width = found_by(bundle, max_new_tokens=[45], min_new_tokens=least)
    for place, row in enumerate(rows):
        assert len(row) - 1 >= least[place // width]
        pairs = [*itertools.pairwise(row)]
        assert len({*pairs}) == len(pairs)
