"""SQuAD files: answers stand at their offsets, or are counted; broken files are told by place."""

import json

import pytest

from trainers.data import labeled
from trainers.data.config import DataConfig

CONTEXT = "漢斯 👩\u200d🔬 said “naïve”\r\nin 1786."


def read_questions(source, **options):
    return labeled.read_questions(source, DataConfig(train=source, **options))


def entry(name="q1", text="1786", start=None, **fields):
    start = CONTEXT.index(text) if start is None else start
    answers = [{"text": text, "answer_start": start}]
    return {"id": name, "question": "When?", "answers": answers} | fields


def document(*entries, context=CONTEXT):
    return {"version": "x", "data": [{"paragraphs": [{"context": context, "qas": [*entries]}]}]}


def read(tmp_path, content, name="a.json", **options):
    path = tmp_path / name
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_questions(str(path), **options)


def error(tmp_path, content, **options):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, content, **options)
    return str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize("ascii", [True, False])
def test_offsets_count_characters(tmp_path, warnings, ascii):
    content = document(entry(), entry("q2", "naïve", ignored=1), entry("q3", "👩\u200d🔬"))
    content = json.dumps(content, ensure_ascii=ascii, indent=1).replace("\n", "\r\n")
    questions = read(tmp_path, "\ufeff" + content)
    assert questions.id == ["q1", "q2", "q3"] and questions.context == [CONTEXT] * 3
    assert questions.answers == [["1786"], ["naïve"], ["👩\u200d🔬"]]
    for context, answers, starts in zip(questions.context, questions.answers, questions.starts):
        assert context[starts[0] :].startswith(answers[0])
    assert questions.where[2] == "a.json: data[0].paragraphs[0].qas[2]"
    assert questions.mismatched == 0 and len(questions) == 3 and not warnings
    assert questions.select([2]).id == ["q3"]


def test_questions_without_an_answer(tmp_path):
    impossible = {"plausible_answers": [{"text": "1786", "answer_start": 0}]}
    questions = read(
        tmp_path,
        document(
            entry("q1", is_impossible=True, **impossible),
            {"id": "q2", "question": "?", "is_impossible": True},
            {"id": "q3", "question": "?", "answers": []},
            entry("q4", is_impossible=False),
        ),
    )
    assert questions.answers == [[], [], [], ["1786"]] and questions.starts[:3] == [[], [], []]


def test_several_answers_and_files(tmp_path):
    twice = entry(1)
    twice["answers"] *= 2
    read(tmp_path, document(twice), "b.json")
    read(tmp_path, document(entry("2")))
    questions = read_questions(str(tmp_path))
    assert questions.id == ["2", "1"] and questions.answers[1] == ["1786", "1786"]
    read(tmp_path, document(entry("2")), "c.json")
    with pytest.raises(ValueError, match=r"c\.json: data.*id '2' is also that of .*a\.json: data"):
        read_questions(str(tmp_path))


def test_mismatched_answers_are_an_error_with_their_number(tmp_path):
    content = document(
        entry("late", start=CONTEXT.index("1786") + 1),
        entry("bytes", start=len(CONTEXT[: CONTEXT.index("1786")].encode())),
        entry("negative", CONTEXT[-1], start=-1),
        entry("gone") | {"answers": [{"text": "1787", "answer_start": 2}]},
        entry("good"),
        entry("empty") | {"answers": [{"text": "", "answer_start": 2}]},
    )
    message = error(tmp_path, content)
    start = CONTEXT.index("1786")
    for part in (
        "5 answer(s)",
        f"/a.json: data[0].paragraphs[0].qas[0]: question 'late', answer '1786' at offset "
        f"{start + 1}, where '786.' stands (it stands at {start})",
        "'bytes'",
        "'negative'",
        "...",
        "--set=data.mismatched=skip",
    ):
        assert part in message
    assert "'gone'" not in message


def test_mismatched_answers_are_skipped_when_asked(tmp_path, warnings):
    half = entry("half")
    half["answers"].append({"text": "1786", "answer_start": 0})
    content = document(entry("none", start=0), half)
    questions = read(tmp_path, content, mismatched="skip")
    assert questions.id == ["half"] and questions.answers == [["1786"]]
    assert questions.mismatched == 2 and questions.select([0]).mismatched == 2
    assert questions.left_out == questions.select([0]).left_out == 1
    assert "2 answer(s)" in warnings[0] and "'none'" in warnings[0]
    assert "whose answers match" in error(tmp_path, document(entry(start=0)), mismatched="skip")


def test_half_a_pair_keeps_the_offsets(tmp_path):
    content = json.dumps(document(entry("q", "b", 2), context="\ud83dab"))
    (question,) = read(tmp_path, content).context
    assert question == "\ufffdab"


def test_blank_questions_and_contexts_are_kept(tmp_path, warnings):
    blank = {"id": "q", "question": " ", "answers": []}
    assert read(tmp_path, document(blank, context="\n")).question == [" "]
    assert len(warnings) == 2 and "a.json: data[0].paragraphs[0].qas[0]" in warnings[0]


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", ["/a.json:1:1", "the file is empty"]),
        ('{"data":\n [}', ["/a.json:2:3: not JSON"]),
        ("[" * 100_000, ["/a.json: not JSON", "too deep"]),
        ("[]", ["/a.json: a JSON list"]),
        ({}, ["/a.json: data: missing"]),
        ({"data": []}, ["/a.json: no questions in 1 file(s)"]),
        ({"data": [3]}, ["/a.json: data[0]: not an object"]),
        ({"data": [{"paragraphs": {}}]}, ["/a.json: data[0].paragraphs: found '{}'"]),
        ({"data": [{"paragraphs": [{}]}]}, ["/a.json: data[0].paragraphs[0].context: missing"]),
        (document(context=[1]), ["paragraphs[0].context: found '[1]'", "string"]),
        (document({"question": "?"}), ["qas[0].id: missing"]),
        (document({"id": True}), ["qas[0].id: found 'True'"]),
        (document({"id": "a"}), ["qas[0].question: missing"]),
        (document({"id": "a", "question": "?"}), ["qas[0].answers: missing, where a list"]),
        (document(entry(start="12")), ["qas[0].answers[0].answer_start: found '12'"]),
        (document(entry(start=1.0)), ["answers[0].answer_start: found '1.0'"]),
        (document(entry() | {"answers": [{"answer_start": 1}]}), ["answers[0].text: missing"]),
        (document(entry(), entry()), ["qas[1]: the id 'q1' is also that of", "qas[0]"]),
        ('{"é": 1}'.encode("latin-1"), ["/a.json: binary or not utf-8"]),
    ],
)
def test_broken_files_are_refused(tmp_path, content, expected):
    message = error(tmp_path, content)
    for part in expected:
        assert part in message


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_questions(str(tmp_path / "none.json"))
