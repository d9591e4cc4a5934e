"""Answers as people read them."""

import pytest

from export.client.printing import readable

TAGS = {
    "tokens": ["Ada", "spoke", ""],
    "tags": ["B-PER", "O", ""],
    "start": [0, 4, -1],
    "end": [3, 9, -1],
    "scores": [0.9871, 0.5, 0.0],
}
MANY = {"classes": list("abcdefg"), "scores": [0.1, 0.3, 0.2, 0.05, 0.15, 0.12, 0.08]}


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        (TAGS, ["B-PER  0.987        0-3  Ada", "O      0.500        4-9  spoke"]),
        ({name: [] for name in TAGS}, [""]),
        (
            {"answer": "Ada", "start": 3, "end": 6, "score": 0.25},
            ["Ada  (score 0.250, bytes 3-6)"],
        ),
        ({"answer": "", "start": -1, "end": -1, "score": 0.5}, ["(no answer)  (score 0.500)"]),
        (
            {
                "text": "a b",
                "tokens": [["a", "##c"], ["", ""]],
                "probabilities": [[0.5, 0.25], [0.0, 0.0]],
            },
            ["a b", "  a 0.500, ##c 0.250"],
        ),
        ({"tokens": ["a", "\n"], "probabilities": [0.5, 0.25]}, ["0.500  'a'", r"0.250  '\n'"]),
        (
            {"log_probabilities": [-1.5, 0], "token_count": 1, "tokens": ["a\n", ""]},
            ["token_count: 1", r"  -1.500  'a\n'"],
        ),
        (
            {"label": "good", "classes": ["bad", "good"], "scores": [0.1, 0.9]},
            ["good", "  0.900  good", "  0.100  bad"],
        ),
        (
            MANY,
            ["b"]
            + ["  0.300  b", "  0.200  c", "  0.150  e", "  0.120  f", "  0.100  a"]
            + ["  and 2 more, which --json shows"],
        ),
        ({"embedding": [0.5, -1.0]}, ["embedding of 2 numbers: 0.5000, -1.0000"]),
        (
            {"embedding": [0.0] * 9},
            ["embedding of 9 numbers: " + ", ".join(["0.0000"] * 8) + ", ..."],
        ),
        ({"text": "a\nb", "token_count": 1}, ["a", "b"]),
        ({"outputs": 0.5, "other": [1]}, ["outputs: 0.5", "other: [1]"]),
    ],
)
def test_each_kind_of_answer_has_its_form(row, lines):
    assert readable(row).split("\n") == lines
