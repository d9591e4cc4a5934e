"""The server's page in headless Chromium: what its tests drive, and the pictures of docs/serve.md.

python -m tools.page_browser --page=http://localhost:8501/ --out=docs/page

asks each model served there the question of QUESTIONS for its signature and writes a PNG of it. It
needs `chromium` and `chromedriver` (Debian: chromium-driver) and, from PyPI, selenium and pillow.
"""

import argparse
import io
import json
import shutil
import time
import urllib.parse
import urllib.request
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_COLOURS = 64
_FILM = "Since the film was shot in Zürich, Greta Gerwig and the band Alvvays came to see it."
_WARSAW = (
    "The Warsaw University of Technology building is the seat of the school. It was built in 1899 "
    "after the plans of Stefan Szyller, and its main hall has five galleries."
)
# Signature -> its fields, and whether the screen is a narrow one, or dark.
QUESTIONS = {
    "generate": ({"text": "def __init__(self", "max_new_tokens": "48"}, ""),
    "chat": ({"message": "What do you do on Monday?"}, "narrow"),
    "predict": ({"text": "My card has not arrived yet, and I have been waiting for a week."}, ""),
    "tag": ({"text": _FILM}, ""),
    "answer": ({"question": "Who made the plans of the building?", "context": _WARSAW}, ""),
    "fill_mask": ({"text": "The ship was built in the [MASK] States in the [MASK] ."}, "dark"),
    "embed": (
        {"text": "A cat sleeps.\nA kitten is resting.\nShares fell today.\nThe market went down."},
        "",
    ),
    "translate": ({"text": "汤姆和我每天都在学校见面。"}, "dark"),
}


class Page:
    """The page of one server in a browser of its own; `with` ends the browser."""

    def __init__(self, address: str):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        # Chromium in a container, as root, has no sandbox of its own; /dev/shm may be small.
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(DRIVER))
        self.address = address
        self.resize(900, 800)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.driver.quit()

    def resize(self, width: int, height: int) -> None:
        """The size of the window's inside, which may be narrower than a window can be."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def colours(self, scheme: str) -> None:
        """What the user prefers: "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, model: str = "", signature: str = "") -> None:
        """Opens the page anew, with a model chosen, and waits for its form if it has one now."""
        self.driver.get("about:blank")
        place = "/".join(urllib.parse.quote(name, safe="") for name in (model, signature))
        self.driver.get(f"{self.address}#{place}" if model else self.address)
        self.until(lambda: self.shown("form") or self.text("#state"))

    def find(self, selector: str):
        """The first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """All text of an element, as it is in the document."""
        return self.find(selector).get_property("textContent")

    def texts(self, selector: str) -> list[str]:
        """The text of each element of a CSS selector."""
        elements = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [element.get_property("textContent") for element in elements]

    def shown(self, selector: str) -> bool:
        """Whether an element can be seen."""
        return self.find(selector).is_displayed()

    def until(self, condition, seconds: float = 40.0):
        """Waits until a condition is true; returns what it gave."""
        end = time.monotonic() + seconds
        while True:
            try:
                if found := condition():
                    return found
            except StaleElementReferenceException:  # drawn anew meanwhile
                pass
            if time.monotonic() > end:
                said = self.find("body").text
                raise AssertionError(f"did not happen in time; the page says {said!r:.2000}")
            time.sleep(0.05)

    def fill(self, **fields: str) -> None:
        """Writes into fields, by script: chromedriver types no emoji."""
        script = """
            const [name, value] = arguments, field = document.getElementsByName(name)[0];
            field.value = value;
            field.dispatchEvent(new Event("input", { bubbles: true }));"""
        for name, value in fields.items():
            self.driver.execute_script(script, name, value)

    def ask(self, **fields: str) -> str:
        """Fills in the form, asks, and returns what the page says of it."""
        self.fill(**fields)
        self.driver.execute_script("document.getElementById('said').textContent = 'asking …'")
        self.find("form .main").click()
        return self.until(lambda: (said := self.text("#said")) != "asking …" and said)

    def unfold(self) -> None:
        """Opens all that can be opened."""
        script = "for (const one of document.querySelectorAll('details')) one.open = true"
        self.driver.execute_script(script)

    def picture(self, width: int) -> bytes:
        """A PNG of the whole page, of few colours."""
        self.resize(width, self.find("html").size["height"])
        image = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        file = io.BytesIO()
        image.quantize(_COLOURS).save(file, "png", optimize=True)
        self.resize(width, 800)
        return file.getvalue()


def main(address: str, out: Path) -> None:
    """Writes a picture of each signature that is served."""
    out.mkdir(parents=True, exist_ok=True)

    def get(path):
        with urllib.request.urlopen(urllib.parse.urljoin(address, path)) as answer:
            return json.load(answer)

    served = {}
    for model in get("page/models.json")["models"]:
        metadata = get(f"v1/models/{model['name']}/metadata")["metadata"]
        for signature in metadata["signature_def"]["signature_def"]:
            served.setdefault(signature, []).append(model["name"])
    with Page(address) as page:
        for signature, (fields, look) in QUESTIONS.items():
            if signature not in served:
                continue
            width = 400 if look == "narrow" else 900
            page.resize(width, 800)
            page.colours("dark" if look == "dark" else "light")
            # Models with `chat` have `generate`, too, which is not what they are for.
            models = [name for name in served[signature] if name not in served.get("chat", ())]
            page.open((models or served[signature])[0], signature)
            page.ask(**fields)
            if signature == "chat":
                page.ask(message="And on Sunday?")
            else:
                page.ask()  # the first answer of a signature takes longer
            if signature == "generate":
                page.find("#answer button").click()
                page.until(lambda: "likeliest" in page.text("#answer"))
            file = out / f"{signature}.png"
            file.write_bytes(page.picture(width))
            print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", required=True, help="address of the page")
    parser.add_argument("--out", required=True, type=Path, help="folder of the pictures")
    arguments = parser.parse_args()
    main(arguments.page, arguments.out)
