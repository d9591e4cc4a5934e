"""The page in headless Chromium: each task's form is filled in and answered, and copied."""

import json
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
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from test_chat import FORM, NAMES
from tiny_models import HEADS, make_bundle
from toy_server import Client

import zoo
from export.saved_model import export_saved_model
from export.server import RestOptions, ServedModel, Server
from export.tensors import decode_tensor
from zoo.generation.options import OPTIONS, SEQ2SEQ_OPTIONS
from zoo.tokenizers import BytePairTokenizer

pytest.importorskip("selenium", reason="needs selenium: make peers")
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


def answer_of(page, server):
    """The page's question, asked again: its answer by output names."""
    model = re.search(r"models/(\w+)(/versions/1)?:predict'", page.text("#curl"))[1]
    url = f"http://localhost:{server.rest_port}/v1/models/{model}:predict"
    with urllib.request.urlopen(url, json.dumps(body_of(page)).encode()) as response:
        return json.loads(response.read().decode("utf-8", "replace"))["outputs"]


def table(page):
    """The rows of outputs without a picture."""
    rows = [page.texts(f"#answer article > table {part}") for part in ("th", "td")]
    return dict(zip(*rows, strict=True))


def asked(page, model, signature="", **fields):
    page.open(model, signature)
    said = page.ask(**fields)
    assert re.fullmatch(r"answered in \d+ ms", said), said


def test_models_and_states_are_listed(page):
    page.open()
    assert page.texts("#models b") == sorted(["chat", "lm", "translate", *HEADS])
    assert set(page.texts("#models small")) == {"version 1 AVAILABLE"}
    assert page.text("#version") == "newest1"


def test_generate_with_the_stored_defaults(page, server):
    asked(page, "lm", text=TEXT, max_new_tokens="9", stop='["##", "", "", ""]')
    assert page.texts("#signature option") == ["generate", "next_token", "score"]
    answer, body = answer_of(page, server), body_of(page)
    assert page.text(".prompt") == TEXT
    assert page.text(".completion") == answer["completion"][0]
    defaults = {name: [option.default] for name, option in OPTIONS.items()}
    wanted = {**defaults, "text": [TEXT], "max_new_tokens": [9], "stop": [["##", "", "", ""]]}
    assert body == {"signature_name": "generate", "inputs": wanted}
    shown = table(page)
    assert set(shown) == {"token_count", "log_probability", "finish_reason"}
    assert shown["token_count"] == "9"
    assert float(shown["log_probability"]) == pytest.approx(answer["log_probability"][0], rel=1e-3)


def test_probabilities_of_a_completion(page, server):
    asked(page, "lm", text="To be", max_new_tokens="6")
    completion = page.text(".completion")
    page.find("#answer button").click()
    page.until(lambda: page.texts(".piece"))
    pieces = page.texts(".piece")
    assert "".join(pieces) == completion and len(pieces) > 2
    client = Client(server)
    prefixes = ["To be" + "".join(pieces[:count]) for count in range(len(pieces) + 1)]
    sums = client.predict("lm", signature="score", text=prefixes).outputs["log_likelihood"]
    wanted = np.minimum(1, np.exp(np.diff(sums.float_val)))
    elements = page.driver.find_elements("css selector", ".piece")
    titles = [element.get_attribute("title") for element in elements]
    shown = [float(re.findall(r" (\d\.\d{3})", title)[-1]) for title in titles]
    np.testing.assert_allclose(shown, wanted, atol=6e-4)
    # The first one has the focus; the likeliest tokens in its place are asked for.
    page.until(lambda: " \u2013 likeliest: " in page.text("#answer [role=status]"))
    next_token = client.predict("lm", signature="next_token", text=["To be"]).outputs
    assert f"{next_token['probabilities'].float_val[0]:.3f}" in page.text("#answer [role=status]")
    elements[0].send_keys("\ue014")  # arrow right
    assert page.driver.switch_to.active_element == elements[1]
    page.until(lambda: f"{wanted[1]:.3f}" in page.text("#answer [role=status]").split("\u2013")[0])


def test_next_token_and_score(page, server):
    asked(page, "lm", "next_token", text="To be")
    wanted = answer_of(page, server)["probabilities"][0]
    assert page.texts(".bars .number") == [f"{value:.3f}" for value in wanted]
    asked(page, "lm", "score", text="To be\nor not")
    assert set(table(page)) == {"log_likelihood", "token_count", "perplexity"}
    assert body_of(page)["inputs"]["text"] == ["To be\nor not"]
    page.find("#by-line").click()
    page.ask()
    assert body_of(page)["inputs"]["text"] == ["To be", "or not"]
    assert page.texts("#answer h3") == ["To be", "or not"]


def test_chat_is_a_conversation(page, server):
    page.open("chat")
    assert page.find("#signature").get_property("value") == "chat"
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
    page.find("#clear").click()
    assert page.texts("#talk li") == []


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
    assert page.texts("#signature option") == ["predict"]


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
    together = "".join(re.sub(" PER 0\\.\\d\\d$", "", part) for part in parts)
    assert re.sub(r"\s", "", together) == "".join(words)
    begins = [place for place, tag in enumerate(answer["tags"]) if tag.startswith("B-")]
    assert len(parts) == len(begins)
    marked = page.text("#answer .text")
    assert re.sub(r" PER 0\.\d\d", "", marked) == TEXT


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
    page.ask(text="ada")
    assert "1 vector of 8 numbers" in page.text("#answer")


def test_a_translation_stands_beside_its_text(page, server):
    asked(page, "translate", text=TEXT, num_beams="3", max_new_tokens="6")
    answer, body = answer_of(page, server), body_of(page)
    defaults = {name: [option.default] for name, option in SEQ2SEQ_OPTIONS.items()}
    wanted = {**defaults, "text": [TEXT], "num_beams": [3], "max_new_tokens": [6]}
    assert {**wanted, **body["inputs"]} == wanted
    assert page.texts("#answer h3") == ["Text", "Translation"]
    assert page.texts("#answer .sides .text") == [TEXT, answer["text"][0]]
    beams = [text for text in answer["texts"][0][1:] if text]
    assert len(page.texts("#answer ol li")) == len(beams)
    asked(page, "translate", "score", text="To be", target="ada")
    assert "perplexity" in table(page)


def test_a_number(page, server):
    asked(page, "regress", text=TEXT)
    value = answer_of(page, server)[0]
    assert float(table(page)["outputs"]) == pytest.approx(value, rel=1e-3)


# --- to copy

HOSTILE = 'It\'s "$HOME" `id` \\n \\ \nEOF\n$(id) \U0001f469\u200d\U0001f680 \u2028 \x7f \u6625'


@pytest.fixture
def copied(page):
    """A question whose text has all that a shell, or Python, might take for something else."""
    page.open("lm")
    page.find("#version option[value='1']").click()
    page.until(lambda: page.shown("form"))
    page.ask(text=HOSTILE, max_new_tokens="7", temperature="1", seed="3")
    return {name: page.text(f"#{name}") for name in ("curl", "grpcurl", "python")}


def test_curl(page, server, copied):
    done = subprocess.run(["sh", "-c", copied["curl"]], capture_output=True, timeout=60, check=True)
    answer = json.loads(done.stdout.decode("utf-8", "replace"))["outputs"]
    assert answer == answer_of(page, server)
    assert page.text(".completion") == answer["completion"][0]
    assert page.text(".prompt") == HOSTILE


def test_python(page, server, copied):
    code = copied["python"].replace("print(", "answer = (")
    code += "\nimport sys; sys.stdout.buffer.write(answer['completion'][0])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
    assert done.stdout.decode("utf-8", "replace") == page.text(".completion")


def test_grpcurl(page, server, copied):
    """Its JSON is the request, for the service and address that it names; grpcurl is not here."""
    command, document = copied["grpcurl"].split(" <<'EOF'\n", 1)
    program, *arguments, address, method = shlex.split(command)
    assert [program, *arguments] == [
        *("grpcurl", "-plaintext", "-protoset", "export/client/serving.binpb", "-d", "@")
    ]
    assert (address, method) == (
        f"localhost:{server.port}",
        "tensorflow.serving.PredictionService/Predict",
    )
    request = json_format.Parse(document.removesuffix("EOF"), predict_pb2.PredictRequest())
    assert decode_tensor(request.inputs["text"])[0].decode() == HOSTILE
    stub = prediction_service_pb2_grpc.PredictionServiceStub(Client(server).channel)
    completion = decode_tensor(stub.Predict(request, timeout=60).outputs["completion"])[0]
    assert completion.decode("utf-8", "replace") == page.text(".completion")


def test_the_buttons_copy(page, copied):
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page.find("details:has(#curl) summary").click()
    page.find("details:has(#curl) button").click()
    page.until(lambda: page.text("details:has(#curl) button") == "Copied")
    read = "navigator.clipboard.readText().then(arguments[0])"
    assert page.driver.execute_async_script(read) == copied["curl"]
    page.driver.execute_cdp_cmd("Browser.resetPermissions", {})
