"""The server's page in headless Chromium: what its tests and `tools.page_pictures` drive.

Needs `chromium` and `chromedriver` (Debian: chromium-driver) and, of PyPI, selenium and pillow.
"""

import io
import shutil
import time
import urllib.parse

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_COLOURS = 64


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

    def until(self, condition, seconds: float = 240.0):
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
