"""The page in a real browser: sliders move, images load, nothing complains, and it can be printed. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil

import pytest
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.report.make import report

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium brings it"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(inpainting, browser):
    """The page of two runs, and all that the browser complained about or asked the network for."""
    runs = [train_in(inpainting.parent / name, load_spec(inpainting, ["training.steps=2", f"seed={seed}"])).parent for seed, name in enumerate("ab")]
    file = inpainting.parent / "report.html"
    file.write_text(report(runs, images=2, device="cpu").html)
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("data:", "file:")) else None)
    page.goto(file.as_uri())
    yield page, said
    page.close()


def test_images_load_and_nothing_complains(opened):
    page, said = opened
    sizes = page.eval_on_selector_all("img", "images => images.map(one => [one.complete, one.naturalWidth, one.naturalHeight, one.alt])")
    assert len(sizes) == 2 * (4 + 2) and all(loaded and (width, height) == (16, 16) and alt for loaded, width, height, alt in sizes)
    assert said == []


def test_a_slider_moves_by_keys_and_its_picture_with_it(opened):
    page, said = opened
    slider = page.locator("input[type=range]").first
    cut = "getComputedStyle(document.querySelector('.stack .over')).clipPath"
    before = page.evaluate(cut)
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "60" and slider.get_attribute("aria-valuetext") == "60 % of the left image"
    assert page.evaluate(cut) != before and "40%" in page.evaluate(cut)
    assert slider.evaluate("one => one.labels[0].textContent").startswith("Where the two images of sample") and said == []


def test_either_side_can_be_chosen(opened):
    page, said = opened
    page.locator("select.left").select_option("reference")
    page.locator("select.right").select_option("adjoint")
    shown = page.eval_on_selector_all(".stack .over", "images => images.map(one => one.src)")
    assert shown == page.eval_on_selector_all(".strip img[data-name=reference]", "images => images.map(one => one.src)")
    assert page.locator(".sides").first.inner_text().split() == ["reference", "adjoint"] and said == []


def test_dark_mode_is_dark_and_text_stays_readable(opened):
    page, _ = opened
    page.emulate_media(color_scheme="dark")
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    brightness = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ink, paper)]
    assert brightness[0] > 600 and brightness[1] < 150
    label = page.eval_on_selector("svg text", "one => getComputedStyle(one).fill")
    assert label == ink, "the words of a chart follow the page"


def test_it_prints_with_all_images_and_without_sliders(opened):
    page, _ = opened
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator(".slider").first.is_visible() and page.locator(".strip img").first.is_visible()


def test_it_reads_without_scripts(opened, browser):
    page, _ = opened
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(page.url)
    assert plain.locator(".strip img").first.is_visible() and not plain.locator("input[type=range]").first.is_visible()
    context.close()


def test_every_part_has_a_name_for_a_screen_reader(opened):
    page, _ = opened
    assert page.locator("html").get_attribute("lang") == "en" and page.locator("h1").count() == 1
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(one => Number(one.tagName[1]))")
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), "no level of headings is left out"
    assert page.eval_on_selector_all("section", "all => all.every(one => document.getElementById(one.getAttribute('aria-labelledby')))")
    assert page.eval_on_selector_all("select, input", "all => all.every(one => one.labels.length === 1)")
    assert page.eval_on_selector_all("figure[role=img]", "all => all.length > 0 && all.every(one => one.getAttribute('aria-label'))")
