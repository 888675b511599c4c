"""The playground in a real browser, against a real server with the bundled model."""

import json
import re
import shlex

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import quicksilver
from quicksilver.server.app import create_app
from quicksilver.server.errors import ApiError
from quicksilver.server.metering import OpenGate
from tests.browsing import Playground, chromium
from tests.serving import listening, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TEMPLATE = "def mean(xs):\n    total = <FILL>\n    return <FILL>\n"
TYPED = "x = [<FILL>]"
"""Without lines: a textarea keeps no indentation of its own, but keys are slow."""


class OneKey(OpenGate):
    """Takes one key, if any is set."""

    key: str | None = None

    async def admit(self, request, **amounts):
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            raise ApiError(401, "this server needs an API key", code="invalid_api_key")
        return await super().admit(request, **amounts)


@pytest.fixture(scope="module")
def app():
    return create_app(quicksilver.load(device="cpu"), gate=OneKey())


@pytest.fixture(scope="module")
def url(app):
    with listening(app) as url:
        yield url


@pytest.fixture(scope="module")
def driver():
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(driver, url):
    """A fresh page; in the end the console is silent and nobody else was asked."""
    page = Playground(driver, url)
    page.emulate(prefers_color_scheme="light")
    yield page
    assert page.complaints() == []
    asked = page.requests()
    assert asked
    assert {re.match(r"https?://[^/]+", address)[0] for address in asked} == {url}
    driver.execute_script("localStorage.clear(); sessionStorage.clear()")


def answer(url, route="/v1/infill", **body):
    return httpx.post(url + route, json=body, timeout=60).json()


def test_a_template_is_filled_as_the_api_fills_it(page, url):
    page.write(TEMPLATE)
    page.run()
    lane = page.lane()
    lane.wait_for_playback()
    expected = answer(url, template=TEMPLATE, seed=0)
    assert lane.text == expected["text"]
    assert lane.count(".token") == len(expected["holes"][0]["tokens"]) + len(expected["holes"][1]["tokens"])
    usage = expected["usage"]
    assert lane.metric("nfe") == str(usage["nfe"])
    assert lane.metric("tokens") == str(usage["completion_tokens"])
    assert lane.metric("tpf") == f"{usage['tokens_per_forward']:.2f}"
    assert lane.metric("finish") == expected["finish_reason"]
    assert int(lane.metric("rate")) >= 0
    assert re.fullmatch(r"\d+ ms", lane.metric("time"))


def test_a_prompt_is_continued_as_the_api_continues_it(page, url):
    prompt = "def fibonacci(n):\n"
    page.write(prompt)
    page.find("max-tokens").clear()
    page.find("max-tokens").send_keys("24")
    page.run()
    lane = page.lane()
    lane.wait_for_playback()
    expected = answer(url, "/v1/completions", prompt=prompt, max_tokens=24, seed=0)
    assert lane.text == prompt + expected["choices"][0]["text"]
    assert lane.metric("nfe") == str(expected["usage"]["nfe"])
    lane.slider.send_keys(Keys.HOME)
    assert lane.count(".mask") > 0
    assert lane.count(".token") == 0


def test_steps_are_scrubbed_back_to_masks_and_forward_again(page):
    page.write(TEMPLATE)
    page.run()
    lane = page.lane()
    lane.wait_for_playback()
    last, text = lane.progress, lane.text
    nfe = lane.metric("nfe")
    assert (last, lane.count(".mask")) == (f"forward {nfe} of {nfe}", 0)
    lane.slider.send_keys(Keys.HOME)
    assert (lane.progress, lane.count(".token")) == (f"forward 0 of {nfe}", 0)
    assert lane.count(".mask") > 2
    lane.slider.send_keys(Keys.ARROW_RIGHT)
    assert lane.progress == f"forward 1 of {nfe}"
    page.driver.execute_script("document.activeElement.blur()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert lane.progress == f"forward 2 of {nfe}"
    lane.slider.send_keys(Keys.END)
    assert (lane.progress, lane.text) == (last, text)
    lane.find(".play").click()
    assert lane.find(".play").text == "Pause"
    lane.wait_for_playback()
    assert lane.text == text


def test_a_token_tells_its_confidence_and_step(page, url):
    page.write(TEMPLATE)
    page.run()
    lane = page.lane()
    lane.wait_for_playback()
    tokens = answer(url, template=TEMPLATE, seed=0)["holes"][0]["tokens"]
    lane.find(".token").click()
    page.driver.execute_script("arguments[0].focus()", lane.find(".token"))
    for token in tokens:
        told = lane.find(".detail").text
        assert json.dumps(token["text"]) in told
        assert f"written by forward {token['step']} " in told
        shown = int(re.search(r"(\d+) % sure", told)[1])
        assert shown == pytest.approx(100 * token["confidence"], abs=0.5001)
        page.press(Keys.ARROW_RIGHT)


def test_two_policies_are_compared(page, url):
    page.write(TEMPLATE)
    page.find("compare").click()
    page.lane("A").choose(policy="confidence_order")
    page.lane("B").choose(policy="fixed_steps", steps=2, seed=1)
    page.run(until="B is done")
    for name, options in (
        ("A", {"policy": "confidence_order", "seed": 0}),
        ("B", {"policy": "fixed_steps", "steps": 2, "seed": 1}),
    ):
        lane = page.lane(name)
        lane.wait_for_playback()
        expected = answer(url, template=TEMPLATE, **options)
        assert (lane.text, lane.metric("nfe")) == (expected["text"], str(expected["usage"]["nfe"]))
    assert int(page.lane("A").metric("nfe")) > int(page.lane("B").metric("nfe"))
    assert f"{page.lane('A').metric('nfe')} forwards for A" in page.find("verdict").text


def test_all_of_it_by_keyboard(page, url):
    def tab_to(element):
        for _ in range(40):
            if page.driver.switch_to.active_element == element:
                return
            page.press(Keys.TAB)
        raise AssertionError("the focus never came")

    page.press(Keys.TAB)
    assert page.driver.switch_to.active_element.get_attribute("class") == "skip"
    page.press(Keys.ENTER)
    tab_to(page.find("template"))
    assert page.style(page.driver.switch_to.active_element, "outlineStyle") == "solid"
    page.press_with_control("a")
    page.press(TYPED)
    page.press_with_control(Keys.ENTER)
    page.wait_for_status("A is done")
    lane = page.lane()
    lane.wait_for_playback()
    assert lane.text == answer(url, template=TYPED, seed=0)["text"]
    tab_to(lane.find(".canvas [tabindex='0']"))
    page.press(Keys.END)
    assert page.driver.switch_to.active_element.get_attribute("aria-label") == lane.find(".detail").text
    tab_to(lane.slider)
    page.press(Keys.HOME)
    assert lane.progress.startswith("forward 0 ")


def test_escape_cancels_and_the_server_stops(page, url, app):
    page.write("def f():\n")
    page.lane().choose(policy="confidence_order")
    page.find("max-tokens").clear()
    page.find("max-tokens").send_keys("480")
    page.find("template").send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: page.lane().progress.startswith("forward "))
    page.press(Keys.ESCAPE)
    page.wait_for_status("Cancelled")
    wait_until(lambda: app.state.service.num_open == 0)
    assert page.lane().metric("nfe") == "–"
    assert page.find("run").get_attribute("aria-disabled") == "false"


def test_what_is_wrong_is_told_where_it_is(page, url):
    page.write(TEMPLATE)
    lane = page.lane()
    lane.choose(temperature=5)
    page.run(until="A failed")
    refusal = answer(url, template=TEMPLATE, seed=0, temperature=5)["error"]
    assert lane.find(".error").text == refusal["message"]
    assert lane.find('[name="temperature"]').get_attribute("aria-invalid") == "true"
    lane.choose(temperature=0)
    page.run()
    assert not lane.find(".error").is_displayed()
    assert lane.find('[name="temperature"]').get_attribute("aria-invalid") is None
    [complaint] = page.complaints()
    assert "status of 400" in complaint


def test_a_key_is_sent_and_kept_in_the_tab_only(page, app):
    app.state.gate.key = "qs-secret"
    try:
        page.run(until="A failed")
        assert page.lane().find(".error").text == "this server needs an API key"
        [complaint] = page.complaints()
        assert "status of 401" in complaint
        page.find("key").send_keys("qs-secret")
        page.run()
        page.open()
        assert page.find("key").get_property("value") == "qs-secret"
    finally:
        app.state.gate.key = None
    stored = page.driver.execute_script("return [JSON.stringify(localStorage), document.cookie]")
    assert not any("qs-secret" in each for each in stored)
    assert "qs-secret" not in page.find("curl").text + page.find("python").text
    assert "$QUICKSILVER_API_KEY" in page.find("curl").text


@pytest.mark.parametrize("text", [TEMPLATE, "quote = 'it''s'\nname = \""])
def test_the_same_request_as_code(page, url, text, capsys):
    page.write(text)
    page.lane().choose(policy="fixed_steps", steps=3, seed=7)
    page.run()
    page.lane().wait_for_playback()
    shown = page.lane().text
    command, address, *rest = shlex.split(page.find("curl").get_property("textContent"))
    body = json.loads(rest[rest.index("-d") + 1])
    assert command == "curl"
    found = httpx.post(address, json=body, timeout=60).json()
    assert found.get("text", text + found.get("choices", [{"text": ""}])[0]["text"]) == shown
    exec(compile(page.find("python").get_property("textContent"), "playground", "exec"), {})
    printed = capsys.readouterr().out
    assert (printed if text == TEMPLATE else text + printed) == shown + "\n"


SCHEMA = '{"type": "object", "properties": {"x": {"type": "integer", "minimum": -1}, "y": {"const": null}}}'
CONSTRAINTS = {
    "json_schema": (
        SCHEMA,
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": json.loads(SCHEMA), "strict": True},
            }
        },
    ),
    "regex": (r"[a-c]{2,4}\(\)", {"regex": r"[a-c]{2,4}\(\)"}),
    "choice": ("left side\nright 'side'\n", {"choice": ["left side", "right 'side'"]}),
}


@pytest.mark.parametrize("text", ["x = <FILL>\n", "x = "])
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_a_constraint_is_kept_and_stands_in_the_code(page, url, kind, text, capsys):
    written, fields = CONSTRAINTS[kind]
    page.write(text)
    page.lane().choose(seed=3, temperature=1)
    page.constrain(kind, written)
    page.run()
    lane = page.lane()
    lane.wait_for_playback()
    rest = shlex.split(page.find("curl").get_property("textContent"))
    body = json.loads(rest[rest.index("-d") + 1])
    assert {name: body[name] for name in fields} == fields
    found = answer(url, rest[1].removeprefix(url), **body)
    assert found.get("text", text + found.get("choices", [{"text": ""}])[0]["text"]) == lane.text
    assert lane.metric("finish") == "stop"
    exec(compile(page.find("python").get_property("textContent"), "playground", "exec"), {})
    assert ("" if "FILL" in text else text) + capsys.readouterr().out == lane.text + "\n"


def test_constraints_are_kept_by_kind_and_none_is_none(page, url):
    page.constrain("regex", "[xyz]+")
    page.constrain("choice")
    assert page.constraint_text.get_property("value") == "min\nmax\nsum"
    page.constrain("regex")
    assert page.constraint_text.get_property("value") == "[xyz]+"
    assert '"regex": "[xyz]+"' in page.find("curl").get_property("textContent")
    page.constrain("")
    assert not page.constraint_text.is_displayed()
    assert "[xyz]" not in page.find("curl").get_property("textContent")


@pytest.mark.parametrize("text", ['{"type": ', '{"minimum": 12345678901234567890}', '{"minimum": 1e999}'])
def test_a_schema_that_is_no_json_is_not_sent(page, text):
    page.constrain("json_schema", text)
    assert "The schema is no JSON" in page.find("curl").text
    page.run(until="The schema is no JSON")
    assert page.constraint_text.get_attribute("aria-invalid") == "true"
    page.constrain("json_schema", "true")
    assert page.constraint_text.get_attribute("aria-invalid") is None
    assert '"schema": true' in page.find("curl").text
    assert '"schema": True' in page.find("python").text


def test_a_constraint_that_cannot_be_is_marked(page):
    page.constrain("regex", "(a")
    page.run(until="A failed")
    assert page.constraint_text.get_attribute("aria-invalid") == "true"
    assert page.lane().find(".error").is_displayed()
    [complaint] = page.complaints()
    assert "status of 400" in complaint
    page.constrain("regex", "(a)")
    assert page.constraint_text.get_attribute("aria-invalid") is None


def test_texts_are_copied(page, url):
    origin = {"origin": url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", origin)

    def copied():
        return page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")

    page.write(TEMPLATE)
    page.driver.find_element(By.CSS_SELECTOR, '[data-copy="curl"]').click()
    page.wait(lambda: copied() == page.find("curl").get_property("textContent"))
    page.run()
    page.lane().find(".copy").click()
    page.wait(lambda: copied() == answer(url, template=TEMPLATE, seed=0)["text"])


def test_dark_and_light(page):
    def is_dark():
        red, green, blue = re.findall(
            r"[\d.]+", page.style(page.driver.find_element(By.TAG_NAME, "body"), "backgroundColor")
        )
        return float(red) + float(green) + float(blue) < 380

    assert not is_dark()
    page.emulate(prefers_color_scheme="dark")
    assert is_dark()
    page.find("theme").click()
    assert not is_dark()
    assert page.find("theme").get_attribute("aria-pressed") == "false"
    page.open()
    assert not is_dark()
    page.find("theme").click()
    page.emulate(prefers_color_scheme="light")
    assert is_dark()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_colour(page, scheme):
    """Contrast of at least 4.5, as WCAG 2.2 asks of text."""
    page.emulate(prefers_color_scheme=scheme)

    def luminance(colour):
        channels = [float(value) / 255 for value in re.findall(r"[\d.]+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for level in range(5):
        token = page.driver.find_element(By.CSS_SELECTOR, f".legend .level-{level}")
        pair = sorted(luminance(page.style(token, name)) for name in ("color", "backgroundColor"))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, level


@pytest.mark.parametrize("width", [400, 768, 1280])
def test_nothing_is_wider_than_the_window(page, width):
    page.emulate(width=width)
    page.find("compare").click()
    page.constrain("json_schema")
    page.run(until="B is done")
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width


RECORDED = """
const [isFinished, done] = arguments;
Promise.all([import("/playground/recorder.js"), import("/playground/canvas.js")]).then(([{ Recorder }, { draw }]) => {
  const mask = { text: "", state: "mask", confidence: 0 };
  const token = (text, state, confidence = 0.5) => ({ text, state, confidence });
  const recorder = new Recorder();
  recorder.resize({ hole: 0, start: 0, added: 4 });
  recorder.resize({ hole: 0, start: 3, added: -1 });
  recorder.frame(1, [[mask, token("a", "draft"), mask]]);
  recorder.resize({ hole: 0, start: 0, added: 1 });
  recorder.frame(2, [[mask, mask, token("a", "draft"), token("c", "draft")]]);
  recorder.frame(3, [[token("x", "draft"), mask, token("b", "draft"), token("c", "draft")]]);
  if (isFinished) recorder.finish(3, [[token("x"), token("b")]]);
  draw(document.querySelector(".canvas"), ["<", ">"], recorder.frames.at(-1));
  done(recorder.frames);
});
"""


def test_frames_follow_edits_and_holes_that_grow(page):
    frames = page.driver.execute_async_script(RECORDED, True)
    assert [frame["nfe"] for frame in frames] == [0, 1, 2, 3]
    lengths = [len(frame["holes"][0]) for frame in frames]
    assert lengths == [4, 3, 4, 2]
    assert {cell["state"] for cell in frames[0]["holes"][0]} == {"mask"}
    written = [(c["text"], c["step"], c["isNew"], c["isEdited"]) for c in frames[2]["holes"][0] if c["text"]]
    assert written == [("a", 1, False, False), ("c", 2, True, False)]
    assert {cell["state"] for cell in frames[3]["holes"][0]} == {"final"}


def test_edits_flash_unless_motion_is_unwelcome(page):
    page.driver.execute_async_script(RECORDED, False)
    lane = page.lane()
    edited = lane.find(".edited")
    assert (edited.text, lane.count(".edited"), lane.count(".draft"), lane.count(".mask")) == ("b", 1, 3, 1)
    assert page.style(edited, "animationName") == "flash"
    assert page.style(edited, "outlineStyle") == "solid"
    page.emulate(prefers_reduced_motion="reduce")
    assert page.style(edited, "animationName") == "none"
    assert page.style(edited, "outlineStyle") == "solid"
