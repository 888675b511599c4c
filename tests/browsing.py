"""A headless Chromium, and the playground as somebody sees it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

SECONDS = 60
"""After which what was waited for will not come."""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Debian's, with its own driver: nothing is downloaded."""
    options = webdriver.ChromeOptions()
    # Without its sandbox Chromium also starts as root, and in containers that forbid it one of its own.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Lane:
    """One column."""

    def __init__(self, driver: webdriver.Chrome, name: str) -> None:
        self._driver = driver
        self.element = driver.find_element(By.CSS_SELECTOR, f'[data-lane="{name}"]')

    def find(self, selector: str) -> WebElement:
        return self.element.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        return len(self.element.find_elements(By.CSS_SELECTOR, f".canvas {selector}"))

    def choose(self, **options) -> None:
        for name, value in options.items():
            field = self.find(f'[name="{name}"]')
            if field.tag_name == "select":
                Select(field).select_by_value(value)
            else:
                field.clear()
                field.send_keys(str(value))

    def metric(self, name: str) -> str:
        return self.find(f'[data-metric="{name}"]').text

    @property
    def text(self) -> str:
        """Of the canvas, exactly."""
        return self.find(".canvas").get_property("textContent")

    @property
    def progress(self) -> str:
        return self.find(".progress").text

    @property
    def slider(self) -> WebElement:
        return self.find("input[type=range]")

    def wait_for_playback(self) -> None:
        """Until the last frame is shown and stays."""
        WebDriverWait(self._driver, SECONDS).until(lambda _: self.find(".play").text == "Play")


class Playground:
    """The page at ``url``."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        self.open()

    def open(self) -> None:
        self.driver.get(self.url + "/")
        self.wait(lambda: self.driver.execute_script("return document.body.dataset.ready"))

    def wait(self, condition) -> None:
        WebDriverWait(self.driver, SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def find(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def lane(self, name: str = "A") -> Lane:
        return Lane(self.driver, name)

    def write(self, text: str) -> None:
        """Into the prompt, instead of what is there."""
        self.find("template").clear()
        self.find("template").send_keys(text)

    def constrain(self, kind: str, text: str | None = None) -> None:
        """By a kind of constraint; None leaves the text that is there."""
        Select(self.find("constraint-kind")).select_by_value(kind)
        if text is not None:
            self.constraint_text.clear()
            self.constraint_text.send_keys(text)

    @property
    def constraint_text(self) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, "#constraint textarea")

    def press(self, *keys: str) -> None:
        """Wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def press_with_control(self, key: str) -> None:
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def run(self, until: str = "A is done") -> None:
        self.find("run").click()
        self.wait_for_status(until)

    def wait_for_status(self, text: str) -> None:
        self.wait(lambda: text in self.find("status").text)

    def emulate(self, *, width: int = 1280, **media: str) -> None:
        """Width in pixels, and media features as ``prefers_color_scheme="dark"``."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def style(self, element: WebElement, name: str) -> str:
        return self.driver.execute_script("return getComputedStyle(arguments[0])[arguments[1]]", element, name)

    def requests(self) -> list[str]:
        """Addresses asked for since this was last called."""
        told = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [each["params"]["request"]["url"] for each in told if each["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What the console says since this was last called."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
