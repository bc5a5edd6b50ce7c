"""The report in a real browser, opened from disk with the network blocked."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

LAPTOP = {"width": 1366, "height": 768}


@pytest.fixture
def opened(browser, report) -> tuple[Page, list[str], list[str]]:
    """The page, the console's errors, and every request but the page itself."""
    context = browser.new_context(viewport=LAPTOP)
    context.set_offline(True)
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    yield page, errors, [url for url in requests if not url.startswith("data:") and url != report.as_uri()]
    context.close()


def test_it_opens_without_errors_and_asks_for_nothing_else(opened):
    page, errors, requests = opened
    assert (errors, requests) == ([], [])
    assert page.title().startswith("EAD reproduced")


def test_the_claims_stand_first(opened):
    page, _, _ = opened
    assert page.locator("main section h2").first.inner_text() == "Claims"


def test_every_picture_is_there_and_described(opened):
    page, _, _ = opened
    pictures = page.evaluate(
        "[...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.alt, i.src.slice(0, 5)])"
    )
    assert pictures
    for width, height, alt, source in pictures:
        assert width > 100 and height > 100 and len(alt) > 20 and source == "data:"


def test_every_internal_link_resolves(opened, report):
    page, _, _ = opened
    links = page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))")
    identifiers = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(identifiers) == len(set(identifiers))
    targets = set(identifiers)
    broken = [link for link in links if link.startswith("#") and link[1:] not in targets]
    files = [link for link in links if not link.startswith(("#", "http://127.0.0.1", "https://arxiv.org/"))]
    broken += [link for link in files if not (report.parent / link).exists()]
    assert broken == []
    assert any(link.startswith("#") for link in links) and files


def test_a_table_sorts_from_the_keyboard(opened):
    page, _, _ = opened
    column = page.locator("#runs table tbody tr td:first-child")
    button = page.locator("#runs table th button").first
    button.focus()
    page.keyboard.press("Enter")
    ascending = column.all_inner_texts()
    page.keyboard.press("Enter")
    assert ascending == sorted(ascending) and column.all_inner_texts() == ascending[::-1]


@pytest.mark.parametrize("width", [LAPTOP["width"], 400])
def test_neither_a_laptop_nor_a_phone_needs_sideways_scrolling(opened, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_table_of_claims_fits_its_column(opened):
    page, _, _ = opened
    page.set_viewport_size({"width": 1280, "height": 800})
    table, column = page.evaluate(
        "(t => [t.scrollWidth, t.parentElement.clientWidth])(document.querySelector('table.claims'))"
    )
    assert table <= column
    heads = page.locator("table.claims thead th")
    assert [name.strip(" ↕") for name in heads.all_inner_texts()][-1] == "figure"
    right = heads.last.bounding_box()
    assert right["x"] + right["width"] <= 1280


def test_a_claim_can_be_cited_and_says_what_would_change_its_verdict(opened, report):
    page, _, _ = opened
    page.goto("about:blank")
    page.goto(f"{report.as_uri()}#C04")
    claim = page.locator("#C04")
    expect(claim).to_be_in_viewport()  # it waits: a browser scrolls when it draws next
    assert "What would change it" in claim.inner_text() and "in the role of" in claim.inner_text()


def test_the_schedule_works_within_the_report(opened):
    page, errors, _ = opened
    frame = page.frame_locator("iframe.schedule")
    frame.locator("#tau_max-slider").focus()
    page.keyboard.press("ArrowRight")
    assert frame.locator("#tau_max").input_value() == "1.25"
    page.wait_for_function(  # no bar of its own
        "(f => f.clientHeight >= f.contentDocument.documentElement.scrollHeight)"
        "(document.querySelector('iframe.schedule'))"
    )
    assert errors == []


def test_text_has_enough_contrast(opened):
    """WCAG 2 level AA: 4.5 to 1 for the text colours on their backgrounds."""
    page, _, _ = opened
    pairs = page.evaluate(
        """() => [...document.querySelectorAll('main *, nav *')].filter(e => [...e.childNodes].some(n =>
          n.nodeType === 3 && n.textContent.trim())).map(e => {
            let back = e; let color = 'rgba(0, 0, 0, 0)';
            while (back && color === 'rgba(0, 0, 0, 0)') { color = getComputedStyle(back).backgroundColor;
              back = back.parentElement; }
            return [getComputedStyle(e).color, color]; })"""
    )
    for pair in {tuple(pair) for pair in pairs}:
        dark, light = sorted(_luminance(color) for color in pair)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair


def _luminance(color: str) -> float:
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.skipif(
    "EAD_SCREENSHOTS" not in os.environ, reason="set EAD_SCREENSHOTS to a folder for pictures"
)
def test_pictures_of_every_screen(opened):
    """For a person to look at: the page from top to bottom, as a laptop shows it."""
    page, _, _ = opened
    folder = Path(os.environ["EAD_SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    height = page.evaluate("document.documentElement.scrollHeight")
    for index, top in enumerate(range(0, height, LAPTOP["height"] - 40)):
        page.evaluate(f"window.scrollTo({{top: {top}, behavior: 'instant'}})")
        page.screenshot(path=folder / f"screen_{index:02}.png")
