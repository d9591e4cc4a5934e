"""The page in headless Chromium: each task's form is filled in and answered, and copied."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from test_chat import FORM, NAMES
from test_page import GRPCURL
from tiny_models import HEADS, make_bundle
from toy_server import Client

import zoo
from export.saved_model import export_saved_model
from export.server import RestOptions, ServedModel, Server
from export.tensors import decode_tensor
from zoo.generation.options import OPTIONS, SEQ2SEQ_OPTIONS
from zoo.tokenizers import BytePairTokenizer

pytest.importorskip("selenium", reason="needs selenium: make peers")
from selenium.webdriver.common.action_chains import ActionChains

from tools.page_browser import CHROMIUM, DRIVER, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorflow_only,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]

ROOT = Path(__file__).resolve().parents[2]
# The first request of a signature may take long on a busy machine.
REST = RestOptions(port=0, timeout_ms=240_000)
TEXT = "Ada wrote in Z\u00fcrich \U0001f469\u200d\U0001f680 \u6625\u7720, a caf\u00e9!"


def make_chat(folder):
    keras.utils.set_random_seed(0)
    words = ["user assistant system hello"]
    tokenizer = BytePairTokenizer.train(words, 270, special_tokens=NAMES, end="<|im_end|>")
    shape = {"context_length": 64, "num_layers": 1, "hidden_dim": 8, "initializer_range": 0.5}
    model = zoo.build(zoo.LSTMConfig(vocabulary_size=tokenizer.vocabulary_size, **shape))
    return zoo.save(folder, model, tokenizer, chat=FORM)


def make_translator(folder):
    keras.utils.set_random_seed(0)
    tokenizer = BytePairTokenizer.train([TEXT], 270)
    shape = {"context_length": 32, "num_layers": 1, "num_heads": 2, "hidden_dim": 16}
    config = zoo.EncoderDecoderConfig(tokenizer.vocabulary_size, **shape, initializer_range=0.5)
    return zoo.save(folder, zoo.build(config, "translate"), tokenizer)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    bundles = {"chat": make_chat(folder / "a"), "translate": make_translator(folder / "b")}
    bundles["lm"] = make_bundle(folder / "c", "lm", "gpt", "bytepairs")
    for task in HEADS:
        bundles[task] = make_bundle(folder / f"run_{task}", task, "bert", "wordpiece")
    with pytest.MonkeyPatch.context() as patch:
        # Replayed by other tests.
        patch.setattr("export.saved_model.replay", lambda *_: [])
        for task, bundle in bundles.items():
            export_saved_model(bundle, folder / task)
    models = [ServedModel(task, str(folder / task)) for task in bundles]
    with Server(models, port=0, host="localhost", rest=REST) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server):
    with Page(f"http://localhost:{server.rest_port}/") as page:
        yield page


@pytest.fixture
def page(browser):
    """The page, of which nothing was said on the console by the end of a test."""
    browser.driver.get_log("browser")
    browser.resize(900, 800)
    yield browser
    assert [one["message"] for one in browser.driver.get_log("browser")] == []


def body_of(page):
    """The question as the page shows it for curl."""
    return json.loads(page.text("#curl").split("\n", 1)[1].removesuffix("EOF"))


def rest_answer(answer, method):
    """The outputs of a REST answer, by name where there are several."""
    answer = json.loads(answer.decode("utf-8", "replace"))
    if method == "classify":
        names = "classes", "scores"
        return {name: [[pair[k] for pair in row] for row in answer["results"]]
                for k, name in enumerate(names)}  # fmt: skip
    return answer["results"] if method == "regress" else answer["outputs"]


def answer_of(page, server):
    """The page's question, asked again."""
    path, method = re.search(r"(v1/models/\w+:(\w+))'", page.text("#curl")).groups()
    url = f"http://localhost:{server.rest_port}/{path}"
    with urllib.request.urlopen(url, json.dumps(body_of(page)).encode()) as response:
        return rest_answer(response.read(), method)


def table(page):
    """The rows of outputs without a picture."""
    rows = [page.texts(f"#answer > table {part}") for part in ("th", "td")]
    return dict(zip(*rows, strict=True))


def asked(page, model, signature="", **fields):
    page.open(model, signature)
    said = page.ask(**fields)
    assert re.fullmatch(r"answered in \d+ ms", said), said


def test_models_and_states_are_listed(page):
    page.open()
    assert page.texts("#models a") == sorted(["chat", "lm", "translate", *HEADS])
    assert set(page.texts("#models small")) == {"version 1 AVAILABLE"}
    assert page.texts("#models [aria-current]") == ["chat"]


def test_generate_with_the_stored_defaults(page, server):
    asked(page, "lm", text=TEXT, max_new_tokens="9", stop='["##", "", "", ""]')
    assert page.texts("#signatures a") == ["generate", "next_token", "score"]
    answer, body = answer_of(page, server), body_of(page)
    assert page.text("#answer .text") == TEXT + answer["completion"][0]
    page.until(lambda: page.texts(".piece"))
    assert page.text("#answer .text") == TEXT + answer["completion"][0]
    defaults = {name: [option.default] for name, option in OPTIONS.items()}
    wanted = {**defaults, "text": [TEXT], "max_new_tokens": [9], "stop": [["##", "", "", ""]]}
    assert body == {"signature_name": "generate", "inputs": wanted}
    shown = table(page)
    assert set(shown) == {"token_count", "log_probability", "finish_reason"}
    assert shown["token_count"] == "9"
    assert float(shown["log_probability"]) == pytest.approx(answer["log_probability"][0], rel=1e-3)


def pieces_of(server, text):
    """What `score` says of a text: whole characters, each with its probability."""
    answer = Client(server).predict("lm", signature="score", text=[text]).outputs
    tokens, logs = (decode_tensor(answer[name])[0] for name in ("tokens", "log_probabilities"))
    assert b"".join(tokens) == text.encode()
    pieces = []
    for token, log in zip(tokens, logs):
        if token[0] & 0xC0 == 0x80:  # goes on within a character
            pieces[-1] = (pieces[-1][0] + token, pieces[-1][1] + log)
        else:
            pieces.append((token, log))
    return [(token.decode(), np.exp(log)) for token, log in pieces]


def shown_pieces(page):
    page.until(lambda: page.texts(".piece"))
    elements = page.driver.find_elements("css selector", ".piece")
    titles = [element.get_attribute("title") for element in elements]
    chances = [float(re.findall(r" (\d\.\d{3})", title)[0]) for title in titles]
    return elements, page.texts(".piece"), chances


def test_probabilities_of_the_tokens_of_a_completion(page, server):
    asked(page, "lm", text="To be", max_new_tokens="6")
    elements, words, chances = shown_pieces(page)
    completion = answer_of(page, server)["completion"][0]
    whole = pieces_of(server, "To be" + completion)
    assert page.text("#answer .text") == "To be" + completion
    # Those of the completion, and a token that the prompt begins.
    count = len(words)
    assert words == [word for word, _ in whole[-count:]] and count > 2
    assert 0 <= len("".join(words)) - len(completion) < len(whole[-count][0])
    np.testing.assert_allclose(chances, [chance for _, chance in whole[-count:]], atol=6e-4)
    asks = "return performance.getEntriesByType('resource').map((one) => one.name)"
    names = [one for one in page.driver.execute_script(asks) if "/v1/models/lm" in one]
    assert len(names) == 3  # the question, its snippets, one score
    # What one looks at is told, with the likeliest tokens in its place.
    elements[0].click()
    status = "#answer [role=status]"
    page.until(lambda: " \u2013 likeliest: " in page.text(status))
    before = page.text(".prompt")
    assert before + "".join(words) == "To be" + completion
    next_token = Client(server).predict("lm", signature="next_token", text=[before]).outputs
    assert f"{next_token['probabilities'].float_val[0]:.3f}" in page.text(status)
    elements[0].send_keys("\ue014")  # arrow right
    assert page.driver.switch_to.active_element == elements[1]
    # Its own number is that of the same answer, if it is among those.
    asked_next = Client(server).predict("lm", signature="next_token", text=[before + words[0]])
    next_token = asked_next.outputs
    among = dict(zip(next_token["tokens"].string_val, next_token["probabilities"].float_val))
    own = among.get(words[1].encode(), chances[1])
    page.until(lambda: f" {own:.3f} \u2013 likeliest: " in page.text(status))
    pointer = ActionChains(page.driver).move_to_element(elements[2])
    pointer.perform()
    page.until(lambda: page.text(status) == elements[2].get_attribute("title"))
    # All tokens of the text are in the tab order as one.
    assert [one.get_property("tabIndex") for one in elements] == [0] + [-1] * (count - 1)


def test_next_token_and_score(page, server):
    asked(page, "lm", "next_token", text="To be")
    wanted = answer_of(page, server)["probabilities"][0]
    assert page.texts(".bars .number") == [f"{value:.3f}" for value in wanted]
    text = f"To be\nor {TEXT}"
    asked(page, "lm", "score", text=text)
    _, words, chances = shown_pieces(page)
    assert page.text("#answer .text") == text and len(words) < len(text.encode())
    assert words == [word for word, _ in pieces_of(server, text)]
    np.testing.assert_allclose(chances, [one for _, one in pieces_of(server, text)], atol=6e-4)
    assert set(table(page)) == {"log_likelihood", "token_count", "perplexity"}
    assert body_of(page)["inputs"]["text"] == [text]


def test_chat_is_a_conversation(page, server):
    page.open("chat")
    assert page.texts("#signatures [aria-current]") == ["chat"]
    page.fill(max_new_tokens="5")
    page.ask(system="Be kind.", message=TEXT)
    first = answer_of(page, server)["content"][0]
    said = ["user", TEXT, "assistant", first]
    assert page.texts("#talk small, #talk .text") == said
    assert page.find("textarea").get_property("value") == ""
    page.ask(message="Why?")
    body = body_of(page)["inputs"]
    assert body["role"] == [[""] * 12 + ["system", "user", "assistant", "user"]]
    assert body["content"] == [[""] * 12 + ["Be kind.", TEXT, first, "Why?"]]
    assert body["max_new_tokens"] == [5]
    assert page.texts("#talk .text")[2:] == ["Why?", answer_of(page, server)["content"][0]]
    page.find("[type=reset]").click()  # options are what they were, too
    assert page.texts("#talk li") == []
    assert page.find("[name=max_new_tokens]").get_property("value") == "64"


def test_a_refused_message_stays_in_its_field(page):
    page.open("chat")
    said = page.ask(message="")
    assert said.startswith("400 ") and "no messages" in said
    page.fill(temperature="-1")
    assert "temperature" in page.ask(message="Hello")
    assert page.find("textarea").get_property("value") == "Hello"
    assert page.texts("#talk li") == []
    assert page.find("#said").get_attribute("class") == "problem"
    page.driver.get_log("browser")  # which names each answer that is no 200


CLICK = "document.querySelector('form .main').click();"
# The snippets are shown as the question is sent.
RESET_ONCE_SENT = """
const reset = () => document.getElementById("curl").textContent.includes("Hello")
  ? document.querySelector("[type=reset]").click() : setTimeout(reset);
reset();
"""
IS_OPEN = "return document.querySelector('form details').open"


def test_an_answer_that_comes_late_belongs_to_no_new_conversation(page):
    page.open("chat")
    page.fill(message="Hello")
    page.driver.execute_script(CLICK + RESET_ONCE_SENT)
    asks = "return performance.getEntriesByType('resource').map((one) => one.name)"
    answer = page.address + "v1/models/chat:predict"
    page.until(lambda: answer in page.driver.execute_script(asks))
    page.ask(message="What now?")
    assert page.texts("#talk small") == ["user", "assistant"]
    assert page.texts("#talk .text")[0] == "What now?"
    page.find("[type=reset]").click()
    assert not page.find("#answered").is_displayed() and page.text("#said") == ""


def test_what_is_typed_while_an_answer_comes_stays(page):
    page.open("chat")
    page.fill(message="Hello")
    script = "document.getElementsByName('message')[0].value = 'And then?'"
    page.driver.execute_script(CLICK + script)
    page.until(lambda: len(page.texts("#talk li")) == 2)
    assert page.find("[name=message]").get_property("value") == "And then?"


def test_a_wrong_option_is_shown_and_named(page):
    page.open("chat")
    page.fill(message="Hello", max_new_tokens="")
    assert not page.driver.execute_script(IS_OPEN)
    page.find("form .main").click()
    assert page.driver.execute_script(IS_OPEN)
    assert page.driver.switch_to.active_element.get_attribute("name") == "max_new_tokens"
    page.ask(max_new_tokens="5")
    assert page.find("#answered").is_displayed()
    said = page.ask(message="Hello", stop="[")
    assert said.startswith("stop: ") and "JSON" in said
    assert not page.find("#answered").is_displayed()


def test_a_malformed_address_names_no_model(page):
    page.open()
    page.driver.execute_script("location.hash = '#%'")
    page.until(lambda: page.text("#state") == "% cannot be asked now: no version")
    assert page.text("#server") == "" and page.texts("#models li")
    page.open("chat")


def test_fill_mask(page, server):
    asked(page, "mlm", text="the [MASK] wrote a [MASK]")
    answer = answer_of(page, server)
    assert page.texts("#answer h3") == ["Mask 1", "Mask 2"]
    assert page.texts(".bars th") == [token for mask in answer["tokens"][0] for token in mask]
    assert table(page) == {"text": answer["text"][0]}


@pytest.mark.parametrize(("task", "fields"), [("classify", {}), ("pair", {"text_pair": "ada"})])
def test_labels_are_bars(page, server, task, fields):
    asked(page, task, text=TEXT, **fields)
    answer = answer_of(page, server)
    order = np.argsort(answer["scores"][0])[::-1]
    assert page.texts(".bars th") == [answer["classes"][0][place] for place in order]
    assert page.texts(".bars .number") == [f"{answer['scores'][0][place]:.3f}" for place in order]
    widths = [bar.size["width"] for bar in page.driver.find_elements("css selector", ".bar")]
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    classify = ["classify", "regress"] if task == "classify" else ["classify"]
    assert page.texts("#signatures a") == ["predict", *classify]
    # The same of the Classify API, which says nothing of its features: those of `predict`.
    page.find("#signatures a[href$=classify]").click()
    page.ask()
    assert body_of(page)["examples"] == [{"text": TEXT, **fields}]
    again = answer_of(page, server)
    assert again["classes"] == answer["classes"]
    np.testing.assert_allclose(again["scores"], answer["scores"], rtol=1e-5)
    assert page.texts(".bars th") == [answer["classes"][0][place] for place in order]
    if task == "classify":
        page.find("#signatures a[href$=regress]").click()
        page.ask()
        assert float(table(page)["outputs"]) == pytest.approx(answer["scores"][0][1], rel=1e-3)


def test_tags_are_marked_by_byte_offsets(page, server):
    asked(page, "tag", text=TEXT)
    answer = {name: value[0] for name, value in answer_of(page, server).items()}
    parts = page.texts("#answer mark")
    words = [
        TEXT.encode()[start:end].decode()
        for start, end, tag in zip(answer["start"], answer["end"], answer["tags"])
        if tag not in ("", "O")
    ]
    assert words, "the tiny model finds no name"
    assert "\u6625" in words or "\u7720" in words
    # One mark for each run of words of an entity, with its kind: all words stand in a mark.
    together = "".join(re.sub("^PER 0\\.\\d\\d ", "", part) for part in parts)
    assert re.sub(r"\s", "", together) == "".join(words)
    begins = [place for place, tag in enumerate(answer["tags"]) if tag.startswith("B-")]
    assert len(parts) == len(begins)
    marked = page.text("#answer .text")
    assert re.sub(r"PER 0\.\d\d ", "", marked) == TEXT


def test_an_answer_is_marked_in_its_context(page, server):
    asked(page, "span", question="Who?", context=TEXT)
    answer = {name: value[0] for name, value in answer_of(page, server).items()}
    assert page.texts("#answer mark") == [TEXT.encode()[answer["start"] : answer["end"]].decode()]
    assert page.text("#answer strong") == answer["answer"]
    assert page.text("#answer .text:has(mark)") == TEXT


def test_embeddings_are_a_table_of_similarities(page, server):
    asked(page, "embed", text="ada wrote\n\nin zurich\n the cafe")
    assert body_of(page)["inputs"]["text"] == ["ada wrote", "in zurich", " the cafe"]
    vectors = np.array(answer_of(page, server))
    cosines = [f"{value:.2f}" for value in (vectors @ vectors.T).ravel()]
    assert page.texts(".similarities td.number") == cosines
    names = page.texts(".similarities th[scope=row]")
    assert names == ["1 ada wrote", "2 in zurich", "3  the cafe"]
    assert page.text(".similarities caption") == "Cosines of vectors of 8 numbers"


def test_a_translation_stands_beside_its_text(page, server):
    asked(page, "translate", text=TEXT, num_beams="3", max_new_tokens="6")
    answer, body = answer_of(page, server), body_of(page)
    defaults = {name: [option.default] for name, option in SEQ2SEQ_OPTIONS.items()}
    wanted = {**defaults, "text": [TEXT], "num_beams": [3], "max_new_tokens": [6]}
    assert {**wanted, **body["inputs"]} == wanted
    assert page.texts("#answer h3") == ["Text", "Answer"]
    assert page.texts("#answer .sides .text") == [TEXT, answer["text"][0]]
    assert json.loads(table(page)["texts"]) == answer["texts"][0]
    target = "caf\u00e9 \U0001f680!"
    asked(page, "translate", "score", text="To be", target=target)
    _, words, chances = shown_pieces(page)
    assert "".join(words) == target and all(0 <= chance <= 1 for chance in chances)
    assert "perplexity" in table(page)


def test_a_number(page, server):
    asked(page, "regress", text=TEXT)
    value = answer_of(page, server)[0]
    assert float(table(page)["outputs"]) == pytest.approx(value, rel=1e-3)
    asked(page, "regress", "regress", text=TEXT)
    assert float(table(page)["outputs"]) == pytest.approx(value, rel=1e-3)


# --- to copy

HOSTILE = 'It\'s "$HOME" `id` \\n \\ \nEOF\n$(id) \U0001f469\u200d\U0001f680 \u2028 \x7f \u6625'


CHAT = {"message": HOSTILE, "system": "Be kind.", "max_new_tokens": "5"}
QUESTIONS = {
    ("lm", "generate"): {"text": HOSTILE, "max_new_tokens": "7", "temperature": "1", "seed": "3"},
    ("lm", "score"): {"text": HOSTILE},
    ("lm", "next_token"): {"text": HOSTILE},
    ("chat", "chat"): CHAT,
    ("translate", "translate"): {"text": HOSTILE, "num_beams": "2", "length_penalty": "0.7"},
    ("translate", "score"): {"text": HOSTILE, "target": HOSTILE},
    ("mlm", "fill_mask"): {"text": f"ada [MASK] {HOSTILE}"},
    ("classify", "predict"): {"text": HOSTILE},
    ("classify", "classify"): {"text": HOSTILE},
    ("classify", "regress"): {"text": HOSTILE},
    ("pair", "predict"): {"text": HOSTILE, "text_pair": "ada"},
    ("pair", "classify"): {"text": HOSTILE, "text_pair": "ada"},
    ("tag", "tag"): {"text": HOSTILE},
    ("span", "answer"): {"question": "Who?", "context": HOSTILE},
    ("embed", "embed"): {"text": HOSTILE},
    ("regress", "predict"): {"text": HOSTILE},
    ("regress", "regress"): {"text": HOSTILE},
}
PRINT = """
import json, sys
plain = lambda v: [*map(plain, v)] if isinstance(v, list) else (
    v.decode("utf-8", "replace") if isinstance(v, bytes) else v)
text = json.dumps({name: plain(value.tolist()) for name, value in answer.outputs.items()})
sys.stdout.buffer.write(text.encode())
"""
REQUESTS = {
    "Predict": predict_pb2.PredictRequest,
    "Classify": classification_pb2.ClassificationRequest,
    "Regress": regression_pb2.RegressionRequest,
}


def assert_alike(found, wanted):
    """Of outputs by name, whose floats REST writes with fewer digits."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        value, other = np.array(value), np.array(found[name])
        if value.dtype.kind == "f":
            np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            assert other.tolist() == value.tolist(), name


@pytest.mark.parametrize(("model", "signature"), QUESTIONS)
def test_what_is_copied_gives_the_same_answer(page, server, model, signature):
    """With a text that has all that a shell, JSON or Python might take for something else."""
    asked(page, model, signature, **QUESTIONS[model, signature])
    assert page.texts("#signatures [aria-current]") == [signature]
    curl, python = page.text("#curl"), page.text("#python")
    method = re.search(r":(\w+)' --data-binary", curl)[1]
    done = subprocess.run(["sh", "-c", curl], capture_output=True, timeout=60, check=True)
    wanted = rest_answer(done.stdout, method)
    if not isinstance(wanted, dict):  # of a signature with one output
        wanted = {"embedding" if signature == "embed" else "outputs": wanted}
    assert_alike(answered_by_python(python, ROOT), wanted)
    assert_alike(answered_by_grpcurl(page.text("#grpcurl"), server), wanted)
    if signature == "generate":
        assert page.text("#answer .text") == wanted["text"][0] == HOSTILE + wanted["completion"][0]


def answered_by_python(code, folder):
    """The outputs of a snippet that runs in a folder."""
    assert code.endswith("\nprint(answer.outputs)")
    command = [sys.executable, "-c", code.removesuffix("print(answer.outputs)") + PRINT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, timeout=120, check=True
    )
    return json.loads(done.stdout)


def answered_by_grpcurl(text, server):
    """The outputs that its request gets, as protobuf reads it and, where it is, by the program."""
    command, document = text.split(" <<'EOF'\n", 1)
    program, *arguments, address, call = shlex.split(command)
    assert [program, *arguments] == [
        *("grpcurl", "-plaintext", "-protoset", "export/client/serving.binpb", "-d", "@")
    ]
    service, method = call.split("/")
    assert service == "tensorflow.serving.PredictionService"
    assert address == f"localhost:{server.port}"
    request = json_format.Parse(document.removesuffix("EOF"), REQUESTS[method]())
    stub = prediction_service_pb2_grpc.PredictionServiceStub(Client(server).channel)
    answer = getattr(stub, method)(request, timeout=60)
    if GRPCURL is not None:
        environment = {**os.environ, "PATH": f"{GRPCURL.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-c", text], cwd=ROOT, env=environment, capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        answer = json_format.Parse(done.stdout, type(answer)())
    if method == "Predict":
        return {
            name: plain(decode_tensor(value).tolist()) for name, value in answer.outputs.items()
        }
    if method == "Regress":
        return {"outputs": [one.value for one in answer.result.regressions]}
    rows = [row.classes for row in answer.result.classifications]
    return {
        "classes": [[one.label for one in row] for row in rows],
        "scores": [[one.score for one in row] for row in rows],
    }


def plain(value):
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def test_the_buttons_copy(page):
    asked(page, "lm", "next_token", text=HOSTILE)
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", grant)
    read = "navigator.clipboard.readText().then(arguments[0])"
    for name in ("curl", "grpcurl", "python"):
        page.find(f"details:has(#{name}) summary").click()
        page.find(f"details:has(#{name}) button").click()
        page.until(lambda name=name: page.text(f"details:has(#{name}) button") == "Copied")
        assert page.driver.execute_async_script(read) == page.text(f"#{name}")
    page.ask(text="another")
    assert {*page.texts(".copy")} == {"Copy"}
    page.driver.execute_cdp_cmd("Browser.resetPermissions", {})
