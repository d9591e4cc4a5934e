"""The page in headless Chromium when texts, models or the server are not what one would like."""

import json
import shutil
import threading

import pytest
import tensorflow as tf
from toy_server import add_version, serving

from export.server import RestOptions, Retries, ServedModel, Server

pytest.importorskip("selenium", reason="needs selenium: make peers")
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.keys import Keys

from tools.page_browser import CHROMIUM, DRIVER, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorflow_only,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]

MARKUP = (
    '</textarea></pre><img src="x" onerror="window.hacked = 1"><script>window.hacked = 2</script>'
    '<b style="position: fixed">b</b>&lt;i&gt; <a href="javascript:window.hacked = 3">a</a>'
)
TEXTS = {
    "markup": MARKUP,
    "right to left": "\u0627\u0644\u0633\u0644\u0627\u0645 \u05e9\u05dc\u05d5\u05dd abc \u202e 12",
    "emoji": "\U0001f469\u200d\U0001f680\U0001f1e8\U0001f1ed e\u0301\ufeff \u6625\u7720",
    "100 kB": "\u6625 <b> " * 12_500 + "end",
}
_TEXT = [tf.TensorSpec([None], tf.string, "text")]


class Echo(tf.Module):
    """Signatures with the outputs of each picture, which are what the request says."""

    @tf.function(input_signature=_TEXT)
    def completed(self, text):
        count = tf.fill(tf.shape(text), 3)
        return {"text": text + text, "completion": text, "token_count": count}

    @tf.function(input_signature=_TEXT)
    def labelled(self, text):
        classes = tf.stack([text, text + "2"], 1)
        scores = tf.fill(tf.shape(classes), 0.5)
        return {"label": text, "classes": classes, "scores": scores}

    @tf.function(input_signature=_TEXT)
    def tagged(self, text):
        zeros = tf.zeros_like(text, tf.int32)[:, None]
        end = tf.strings.length(text)[:, None]
        scores = tf.fill(tf.shape(end), 0.5)
        tags, tokens = "B-" + text[:, None], text[:, None]
        return {"tokens": tokens, "tags": tags, "start": zeros, "end": end, "scores": scores}

    @tf.function(input_signature=_TEXT)
    def translated(self, text):
        score = tf.zeros_like(text, tf.float32)
        texts, scores = tf.stack([text, text], 1), tf.stack([score, score], 1)
        return {"text": text, "score": score, "texts": texts, "scores": scores}

    @tf.function(input_signature=_TEXT)
    def candidates(self, text):
        return {"tokens": text[:, None], "probabilities": tf.fill([tf.size(text), 1], 0.5)}

    @tf.function(input_signature=_TEXT)
    def other(self, text):
        nan = tf.fill(tf.shape(text), float("nan"))
        return {"same": text, "one_bytes": text + b"\xff<i>", "broken": text + b"\xff<i>", "n": nan}

    @tf.function(input_signature=_TEXT)
    def refused(self, text):
        with tf.control_dependencies([tf.debugging.assert_equal(text, "", text)]):
            return {"text": tf.identity(text)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base, echo = tmp_path_factory.mktemp("echo"), Echo()
    names = [name for name in vars(Echo) if not name.startswith("_")]
    signatures = {name: getattr(echo, name) for name in names}
    tf.saved_model.save(echo, str(base / "1"), signatures=signatures)
    with Server([ServedModel(MARKUP, str(base))], port=0, rest=RestOptions(port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with Page("") as page:
        yield page


@pytest.fixture
def page(browser, server):
    browser.resize(900, 800)
    browser.colours("light")
    browser.address = f"http://localhost:{server.rest_port}/"
    browser.open()
    browser.driver.get_log("browser")
    return browser


def choose(page, signature):
    page.find(f"#signatures a[href$='/{signature}']").click()


def check_that_nothing_became_markup(page):
    assert page.driver.execute_script("return window.hacked") is None
    for tag in ("img", ":not(nav, nav *) > a", "i", "iframe", "b", "body script"):
        assert page.driver.find_elements("css selector", tag) == [], tag
    assert page.driver.get_log("browser") == []


def test_the_name_of_a_model_is_text(page):
    assert page.texts("#models a") == [MARKUP]
    check_that_nothing_became_markup(page)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(
    ("signature", "places"),
    [
        ("completed", [".prompt", ".prompt + span"]),
        ("labelled", [".bars tr:first-child th"]),
        ("tagged", ["#answer mark"]),
        ("translated", [".sides div:first-child p", ".sides div + div p"]),
        ("candidates", [".bars th"]),
        ("other", ["#answer tr:has(+ tr + tr) td"]),
    ],
)
def test_text_is_shown_as_text(page, signature, places, kind):
    text = TEXTS[kind]
    choose(page, signature)
    assert page.ask(text=text).startswith("answered in ")
    shown = page.text("#answer")
    for place in places:
        if signature == "candidates":
            assert page.text(place) == text.replace(" ", "\u2423")
        elif signature == "tagged":
            assert page.text(place) == f"{text} 0.50 {text}"
        elif signature == "other":
            assert text in shown
        else:
            assert page.text(place) == text
    if signature == "other":  # JSON holds no such byte: U+FFFD, or base64
        assert f"{text}\ufffd<i>" in shown and '{"b64":"' in shown
        assert "NaN" in shown
    directions = page.driver.execute_script(
        "return [...document.querySelectorAll('#answer .text')].map((one) => one.dir)"
    )
    assert set(directions) <= {"auto"}
    assert json.loads(page.text("#curl").split("\n", 1)[1].removesuffix("EOF"))["inputs"] == {
        "text": [text]
    }
    check_that_nothing_became_markup(page)


def test_an_error_is_shown_in_the_words_of_the_server(page):
    choose(page, "refused")
    said = page.ask(text=MARKUP)
    assert said.startswith("400 assertion failed") and "<script>window.hacked" in said
    assert page.find("#said").get_attribute("class") == "problem"
    assert page.text("#answer") == ""
    page.driver.get_log("browser")  # names the 400
    check_that_nothing_became_markup(page)
    assert page.ask(text="").startswith("answered in ")
    assert page.find("#said").get_attribute("class") == ""


def test_the_policy_holds(page):
    """What would run a script if some code of the page were careless."""
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        page.driver.execute_script("document.body.innerHTML = arguments[0]", MARKUP)
    with pytest.raises(JavascriptException, match="TrustedScript"):
        page.driver.execute_script("setTimeout('window.hacked = 1')")
    with pytest.raises(JavascriptException, match="TrustedScript"):
        page.driver.execute_script("document.body.setAttribute('onclick', 'window.hacked = 2')")
    page.driver.execute_script(
        "const one = document.createElement('style'); one.textContent = 'body { color: red }';"
        "document.head.append(one)"
    )
    done = "fetch(arguments[0]).then(() => arguments[1](''), (e) => arguments[1](String(e)))"
    other = page.address.replace("localhost", "127.0.0.1")
    assert page.driver.execute_async_script(done, other).startswith("TypeError")
    assert page.driver.execute_script("return window.hacked") is None
    colour = page.find("body").value_of_css_property("color")
    assert colour not in ("rgb(255, 0, 0)", "rgba(255, 0, 0, 1)")


# --- versions that come and go


@pytest.fixture
def toy(versions, tmp_path, browser):
    """Server, client and page of the model `m`, which has version 1."""
    base = tmp_path / "m"
    base.mkdir()
    add_version(versions / "1", base / "1")
    with serving(base, rest=RestOptions(port=0), retries=Retries(0)) as (server, client):
        browser.resize(900, 800)
        browser.address = f"http://localhost:{server.rest_port}/"
        browser.open("m", "serving_default")
        yield server, client, browser, base


def test_a_hot_swap_while_the_page_is_open(toy, versions):
    _, _, page, base = toy
    assert page.ask(x="0").startswith("answered")
    assert page.text("#answer td") == "1"
    page.fill(x="40")
    element = page.find("[name=x]")
    add_version(versions / "2", base / "2")
    states = ["version 2 AVAILABLE", "version 1 END"]
    page.until(lambda: page.texts("#models small") == states)
    # The form is as it was: the signature has the same inputs.
    assert element.get_property("value") == "40"
    page.find("form .main").click()
    page.until(lambda: page.text("#answer td") == "42")
    shutil.rmtree(base / "2")
    page.until(lambda: page.texts("#models small")[0] == "version 2 END")
    add_version(versions / "3", base / "3")
    page.until(lambda: page.text("#state") == "" and page.shown("form"))
    assert page.ask(x="0").startswith("answered") and page.text("#answer td") == "3"


def test_a_form_that_another_version_changes(toy, versions):
    """The texts that were written stay; a field of a kind that went goes."""
    _, _, page, base = toy
    page.open("m", "shout")
    assert page.find("[name=times]").get_property("value") == "3"  # its default
    page.fill(text="hello", times="5")

    class Other(tf.Module):
        @tf.function(input_signature=_TEXT)
        def shout(self, text):
            return {"loud": text + "!"}

    other = Other()
    tf.saved_model.save(other, str(base.parent / "9"), signatures={"shout": other.shout})
    (base.parent / "9").rename(base / "9")
    page.until(lambda: not page.driver.find_elements("css selector", "[name=times]"))
    assert page.find("[name=text]").get_property("value") == "hello"
    assert page.ask().startswith("answered") and page.text("#answer td") == "hello!"


def test_a_model_that_loads_fails_or_is_gone(toy, versions, tmp_path, monkeypatch):
    server, client, page, _ = toy
    from test_page import parse_config

    held, load = threading.Event(), server.manager.loader.load

    def slow_load(name, *rest):
        assert name != "late" or held.wait(60)
        return load(name, *rest)

    # The loader is a frozen dataclass.
    object.__setattr__(server.manager.loader, "load", slow_load)
    late = tmp_path / "late"
    late.mkdir()
    add_version(versions / "3", late / "3")
    both = parse_config(f'name: "m" base_path: "{tmp_path / "m"}"')
    one = both.model_config_list.config.add(name="late", base_path=str(late))
    one.model_platform = "tensorflow"
    thread = threading.Thread(target=client.reload, args=(both, 60))
    thread.start()
    page.until(lambda: page.texts("#models a") == ["late", "m"])
    page.until(lambda: "version 3 LOADING" in page.texts("#models small"))
    page.find("#models a[href='#late']").click()
    page.until(lambda: page.text("#state") == "late cannot be asked now: LOADING")
    assert not page.shown("form")
    held.set()
    page.until(lambda: page.shown("form"))
    thread.join()
    assert page.texts("#signatures [aria-current]") == ["serving_default"]
    assert page.ask(x="1").startswith("answered") and page.text("#answer td") == "4"
    (late / "4").mkdir()  # no model in it
    page.until(lambda: any("SavedModel" in text for text in page.texts("#models small")))
    assert page.ask(x="2").startswith("answered") and page.text("#answer td") == "5"
    client.reload(parse_config(f'name: "m" base_path: "{tmp_path / "m"}"'))
    page.until(lambda: page.text("#state") == "late cannot be asked now: END")
    # Between two looks of the page: the server says what it would say to anyone.
    page.find("#models a[href='#m']").click()
    page.until(lambda: page.shown("form"))
    server.manager.stop()
    page.fill(x="1")
    page.driver.execute_script("document.querySelector('form').requestSubmit()")
    page.until(lambda: "Servable not found for request: Latest(m)" in page.text("#said"))


def test_a_server_that_does_not_answer(toy):
    server, _, page, _ = toy
    server.stop()
    page.until(lambda: "The server does not answer" in page.text("#server"))
    page.fill(x="1")
    page.find("form .main").click()
    page.until(lambda: page.find("#said").get_attribute("class") == "problem")


# --- keyboard, contrast, narrow screens


def test_all_is_reached_by_keyboard_and_has_a_name(page):
    choose(page, "completed")
    page.ask(text="a")
    page.driver.execute_script("document.querySelector('#models a').focus()")
    seen = [page.driver.switch_to.active_element]
    while True:
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.driver.switch_to.active_element
        if focused.tag_name == "body" or len(seen) > 30 or focused in seen:
            break
        seen.append(focused)
        assert focused.value_of_css_property("outline-style") == "solid"
    names = [one.accessible_name for one in seen]
    assert all(names), list(zip(names, (one.get_attribute("outerHTML") for one in seen)))
    signatures = sorted(name for name in vars(Echo) if not name.startswith("_"))
    assert names[1:] == [
        *signatures, *("text", "Ask", "Begin anew", "curl", "grpcurl", "Python")
    ]  # fmt: skip
    field = page.find("[name=text]")
    field.send_keys("bcd", Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.texts(".prompt") == ["abcd"])
    # A reader is told what changes.
    for place in ("#said", "#state", "#server"):
        assert page.find(place).get_attribute("role") == "status"


# How many lines each name takes.
LINES_OF_NAMES = """
return [...document.querySelectorAll("#answer th:has(+ td)")].map((name) => {
  const range = document.createRange();
  range.selectNodeContents(name);
  return new Set([...range.getClientRects()].map((box) => box.top)).size;
});
"""
CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
};
const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255).map(
  (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4),
).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  let behind = element, back;
  do {
    back = rgba(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  } while (back[3] === 0 && behind);
  const front = rgba(getComputedStyle(element).color);
  const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
  found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.data.slice(0, 30)]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("signature", ["completed", "labelled", "tagged", "translated", "refused"])
def test_contrast(page, scheme, signature):
    """WCAG 2.2, AA: 4.5 for text of any size."""
    page.colours(scheme)
    choose(page, signature)
    page.ask(text="some text")
    page.unfold()
    ratios = page.driver.execute_script(CONTRAST)
    assert len(ratios) > 15
    low = [one for one in ratios if one[0] < 4.5]
    assert low == []
    background = page.find("body").value_of_css_property("background-color")
    assert ("255" in background) == (scheme == "light")


@pytest.mark.parametrize("signature", ["completed", "labelled", "tagged", "translated", "other"])
def test_a_narrow_screen_does_not_scroll_sideways(page, signature):
    page.resize(360, 640)
    choose(page, signature)
    for text in (MARKUP, "W" * 500):
        page.ask(text=text)
        page.unfold()
        width = "return document.documentElement.scrollWidth"
        assert page.driver.execute_script(width) <= 360
        box = page.find("textarea").rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


@pytest.mark.parametrize("width", [360, 900])
def test_names_of_outputs_stay_whole_beside_long_values(page, width):
    page.resize(width, 800)
    choose(page, "translated")
    page.ask(text="some words " * 60)
    lines = page.driver.execute_script(LINES_OF_NAMES)
    assert lines and {*lines} == {1}
