"""The interactive schedule in a real browser: its numbers are the package's, and the keyboard reaches every control."""

import json
import os
import subprocess
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Page

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "workflow" / "report" / "schedule.html"
LENGTH = 600
GRID = [
    {"tau_max": tau_max, "tau_min": tau_min, "d0": d0, "alpha": alpha, "d_max": d_max, "start": start}
    | {"reading": reading, "origin": origin}
    for tau_max, tau_min, d0, alpha, d_max, start in product(
        (1.2, 1.7), (0.1, 0.8), (2.5, 25, 500), (0, 5, 50), (500, 40000), (0, 10)
    )
    for reading, origin in product(("printed", "released"), ("response", "start"))
]
STEPS = (0, 7, 440)
# .venv-checks has no ead, so the workflow's environment computes what is expected.
EXPECTED = """
import json, sys
import numpy as np
from ead.schedule import Annealed
asked = json.load(sys.stdin)
answers = []
for fields in asked["grid"]:
    for step in asked["steps"]:
        tau = Annealed(**fields).temperature(np.arange(asked["length"]), step)
        answers.append([tau[::37].tolist(), int((tau > 1).sum())])
json.dump(answers, sys.stdout)
"""
COMPUTED = """({grid, steps, length}) => grid.flatMap(schedule => steps.map(step => {
  const taus = [];
  for (let t = 0; t < length; t += 37) taus.push(temperature(schedule, t, step));
  return [taus, tokensAbove1(schedule, length, step)];
}))"""


@pytest.fixture
def opened(browser) -> Page:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_offline(True)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url))
    page.goto(PAGE.as_uri())
    yield page
    context.close()
    assert [problem for problem in problems if problem != PAGE.as_uri() and problem != "data:,"] == []


def test_its_temperatures_are_those_of_the_package(opened):
    asked = {"grid": GRID, "steps": STEPS, "length": LENGTH}
    python = os.environ.get("EAD_PYTHON", str(REPOSITORY / ".venv" / "bin" / "python"))
    done = subprocess.run(
        [python, "-c", EXPECTED], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    expected, found = json.loads(done.stdout), opened.evaluate(COMPUTED, asked)
    assert len(found) == len(GRID) * len(STEPS)
    for (taus, above), (page_taus, page_above) in zip(expected, found, strict=True):
        assert page_taus == pytest.approx(taus, rel=1e-12)
        assert page_above == above


def test_it_opens_at_the_papers_setting_and_marks_it(opened):
    paper = opened.get_by_role("button", name="1B and 1.5B models")
    assert paper.get_attribute("aria-pressed") == "true"
    assert opened.evaluate("state.tau_max") == 1.2
    marks = "[...document.querySelectorAll('#d0-paper option')].map(o => fields.d0.values[o.value])"
    assert opened.evaluate(marks) == [25, 500]


def test_it_says_what_ead_is_and_its_links_lead_to_pages_of_the_project(opened):
    assert "Exploratory Annealed Decoding (EAD)" in opened.inner_text("main")
    links = opened.eval_on_selector_all("a", "links => links.map(link => link.getAttribute('href'))")
    pages = [link for link in links if not link.startswith("https://")]
    assert len(pages) == 3 and all((PAGE.parent / page).is_file() for page in pages)


def test_the_keyboard_moves_a_slider_and_the_sentence_follows(opened):
    said = opened.locator("#summary").inner_text()
    opened.locator("#tau_max-slider").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.evaluate("state.tau_max") == 1.25
    assert opened.locator("#tau_max").input_value() == "1.25"
    assert opened.locator("#summary").inner_text() != said
    above = opened.evaluate("tokensAbove1(state, state.length, state.step)")
    assert f"{above} of 900 tokens" in opened.locator("#summary").inner_text()


def test_the_keyboard_reaches_every_control_and_chooses_a_reading(opened):
    reached = set()
    for _ in range(60):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("document.activeElement.id || document.activeElement.name"))
    names = opened.evaluate("CONTROLS.map(control => control[0])")
    assert {*names, *(f"{name}-slider" for name in names), "reading", "origin"} <= reached
    opened.locator("input[value=printed]").focus()
    opened.keyboard.press("ArrowDown")
    assert opened.evaluate("state.reading") == "released"


def test_a_number_may_be_typed_and_a_wrong_one_changes_nothing(opened):
    number = opened.locator("#d0")
    number.fill("37.5")
    assert opened.evaluate("state.d0") == 37.5
    for wrong in ("-3", "", "0"):
        number.fill(wrong)
        assert opened.evaluate("state.d0") == 37.5
    opened.locator("#step").fill("2.5")
    assert opened.evaluate("state.step") == 100
    number.blur()
    assert number.input_value() == "37.5"


def test_the_floor_never_passes_the_maximum(opened):
    opened.locator("#tau_min").fill("1.5")
    assert opened.evaluate("[state.tau_max, state.tau_min]") == [1.5, 1.5]
    opened.locator("#tau_max").fill("0.7")
    assert opened.evaluate("[state.tau_max, state.tau_min]") == [0.7, 0.7]


@pytest.mark.parametrize("width", [1280, 400])
def test_no_sideways_scrolling(opened, width):
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.locator("#curve polyline").count() == 2
