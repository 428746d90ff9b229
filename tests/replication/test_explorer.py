"""The explorer's page: its file, its maths against the library's, and its use in a browser."""

import json
import re

import numpy as np
import pytest
import torch

from explorer import build
from ksae_lib import estimator, load_pretrained
from ksae_lib.io import load_tensors
from ksae_lib.model import CodeMode
from ksae_lib.selection import supp_k
from replication.data import load_data
from replication.data.base import DataConfig
from replication.study import Study

NAMES = ("k10", "k25", "k40", "k70")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    build.main(["--out", str(path)])
    return path


@pytest.fixture(scope="module")
def content(built):
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', built.read_text("utf-8"))
    return json.loads(found)


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig())


@pytest.fixture(scope="module")
def images(data):
    """The digits of the page as the page has them."""
    return np.rint(data.test_x[build.included(data)].astype(np.float64) * 255) / 255


def in_doubles(name):
    """A model of the page's weights, which JavaScript multiplies in doubles."""
    model, whole, scale = build.shown(name)
    model.double().weight.data = torch.from_numpy(whole * scale[:, None].astype(np.float64))
    return model


def test_the_page_is_one_small_file_that_asks_for_nothing(built):
    assert built.stat().st_size <= 2_500_000
    text = built.read_text("utf-8")
    assert "://" not in text and "{{" not in text
    assert re.findall(r"\bsrc=|url\(|@import|fetch\(|XMLHttpRequest|import\(", text) == []
    assert re.findall(r'\bhref="(?!data:)', text) == []
    assert "default-src 'none'" in text


def test_missing_weights_end_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(estimator, "PRETRAINED", tmp_path)
    with pytest.raises(SystemExit, match=r"There is no pretrained coder 'mnist-k10'"):
        build.main(["--out", str(tmp_path / "explorer.html")])
    assert not (tmp_path / "explorer.html").exists()


@pytest.mark.parametrize("name", NAMES)
def test_rounding_weights_costs_less_than_the_page_says(name, data):
    x = torch.from_numpy(data.test_x[:2000])
    with torch.no_grad():
        models = load_pretrained(f"mnist-{name}").model_, build.shown(name)[0]
        before, after = (float(model.loss(x)) for model in models)
    assert before < after < 1.02 * before


def test_classifiers_are_those_of_the_stored_readouts(content):
    rows = {shown.row.key: shown for shown in Study("quick").rows(1)}
    for name in NAMES:
        (stored,) = [run for run in rows[name].committed if run.run.seed == 0]
        page = content["models"][name]
        assert page["alpha"] == stored.metrics["selected"]["alpha"]
        # Both are rounded: some of the images next to a border change sides.
        assert page["testError"] == pytest.approx(stored.metrics["test_error"], abs=0.1)


# In a browser


@pytest.fixture
def opened(browser, built):
    """How to open the page; at the end no page has had an error or asked another host."""
    pages, wrong = [], []

    def open_page(hash="", **settings):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **settings})
        pages.append(page)
        page.set_default_timeout(120_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(built.as_uri() + hash)
        page.evaluate("ksae.ready")
        settle(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


def settle(page):
    """Wait for the picture after the next, in which every change is shown."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def units(page):
    """The units whose atoms are shown, in order."""
    return [int(text.split()[1]) for text in page.locator("#atoms span").all_text_contents()]


def test_digits_are_the_first_of_each_class(opened, images):
    digits = opened().evaluate("ksae.digits.map(({ label, image }) => [label, [...image]])")
    assert [label for label, _ in digits] == sorted(list(range(10)) * 20)
    assert np.array_equal([image for _, image in digits], images)


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_reconstructions_are_the_librarys(name, opened, images):
    page, model, few = opened(), in_doubles(name), images[::2]
    for kept in (model.k, 4 * model.k):
        code = "([name, images, kept]) => images.map((image) => ksae.encode(name, image, kept))"
        got = page.evaluate(code, [name, few.tolist(), kept])
        with torch.no_grad():
            z = model.pre_activation(torch.from_numpy(few))
            wanted, values = model(torch.from_numpy(few), kept)
        assert len(got) == 100
        for n, one in enumerate(got):
            assert sorted(one["support"]) == supp_k(z[n : n + 1], kept)[0].nonzero().ravel().tolist()
            assert one["code"] == sorted(one["code"], reverse=True)
            assert np.allclose(one["code"], values[n, one["support"]], atol=1e-9)
            assert np.allclose(one["reconstruction"], wanted[n], atol=1e-4)


def test_ties_keep_the_lower_index_and_halves_go_to_the_even(opened):
    page, z = opened(), [1.0, 2.0, 0.0, 2.0, 1.0, 1.0]
    for k in range(1, 6):
        wanted = supp_k(torch.tensor([z]), k)[0].nonzero().ravel().tolist()
        assert sorted(page.evaluate(f"ksae.models.k10.support(new Float64Array({z}), {k})")) == wanted
    halves = [0.5 * n for n in range(20)]
    assert page.evaluate(f"{halves}.map(roundHalfEven)") == [round(half) for half in halves]


@pytest.mark.parametrize("name", NAMES)
def test_class_probabilities_are_those_of_the_readout(name, opened, images):
    tensors, chosen = load_tensors(build.READOUTS)
    model, few = in_doubles(name), torch.from_numpy(images[::10])
    whole, scale = build.quantized(tensors[f"{name}.weight"].float().numpy())
    logits = (
        model.encode(few, CodeMode.ALPHA_K, chosen[name]["alpha"])
        @ torch.from_numpy(whole * scale[:, None] * 1.0).double()
    )
    wanted = torch.softmax(logits + tensors[f"{name}.bias"].double(), dim=1)
    code = """([name, images, kept]) => images.map((image) => {
        const { support, code } = ksae.encode(name, image, kept);
        return ksae.models[name].classify(support, code);
    })"""
    got = opened().evaluate(code, [name, few.tolist(), model.alpha_k(chosen[name]["alpha"])])
    assert np.allclose(got, wanted, atol=1e-5)


def test_mnist_drawn_ten_times_as_large_anywhere_becomes_what_it_was(opened, images):
    code = """(images) => images.map((image) => {
        const ink = new Float64Array(280 * 280);
        const at = (row, column) => image[28 * Math.floor(row / 10) + Math.floor(column / 10)];
        for (let row = 40; row < 240; row++)
            for (let column = 40; column < 240; column++) ink[280 * (row + 13) + column - 7] = at(row, column);
        return ksae.centred(ink, 280);
    })"""
    # What lies outside the inner 20 x 20 pixels would be cut; the longer side of a digit's box is 20 pixels.
    inside = [x for x in images if x.reshape(28, 28)[4:24, 4:24].sum() == x.sum()]
    page, few = opened(), inside[::2]
    assert len(few) >= 10
    assert np.allclose(page.evaluate(code, [image.tolist() for image in few]), few, atol=1e-9)
    assert page.evaluate("ksae.centred(new Float64Array(280 * 280), 280)") is None


def test_a_line_fills_the_box_and_is_centred_by_mass(opened):
    code = """(scale) => {
        const ink = new Float64Array(280 * 280);
        for (let row = 10; row < 10 + 20 * scale; row++) ink.fill(1, 280 * row + 230, 280 * row + 230 + 5 * scale);
        return ksae.centred(ink, 280);
    }"""
    page = opened()
    # Sizes that shrink, by no whole number too, and one that grows.
    for scale in (7, 3.4, 0.2):
        line = np.reshape(page.evaluate(code, scale), (28, 28))
        assert line.any(axis=1).sum() == 20 and line.any(axis=0).sum() == 5
        centre = [(line.sum(axis=axis) * np.arange(28)).sum() / line.sum() for axis in (0, 1)]
        assert np.allclose(centre, 14, atol=0.5)


def draw_with_mouse(page, left, top, size):
    page.mouse.move(left + 0.3 * size, top + 0.2 * size)
    page.mouse.down()
    page.mouse.move(left + 0.7 * size, top + 0.3 * size, steps=4)
    page.mouse.move(left + 0.4 * size, top + 0.8 * size, steps=4)
    page.mouse.up()


def tap(page, left, top, size):
    page.touchscreen.tap(left + 0.5 * size, top + 0.5 * size)


@pytest.mark.parametrize("draw", [draw_with_mouse, tap])
def test_a_stroke_changes_the_code(draw, opened):
    page = opened(has_touch=True)
    before, box = units(page), page.locator("#pad").bounding_box()
    draw(page, box["x"], box["y"], box["width"])
    settle(page)
    drawn = units(page)
    assert len(drawn) == len(before) == 25 and set(drawn) != set(before)
    page.get_by_role("button", name="Clear").click()
    settle(page)
    assert units(page) == before


def press(page, selector, key):
    page.locator(selector).press(key)
    settle(page)


def test_everything_can_be_chosen_by_keyboard(opened):
    page = opened()
    assert len(units(page)) == 25
    press(page, "#k", "ArrowRight")
    assert len(units(page)) == 26
    press(page, "#alpha", "ArrowRight")
    press(page, "#more", "Enter")
    assert len(units(page)) == 39 and "1.5 × 26: 39 of 1000" in page.locator("#kept").text_content()
    press(page, "#alpha", "ArrowLeft")
    press(page, "#models :checked", "ArrowRight")
    assert page.locator("#models :checked").get_attribute("value") == "k40" and len(units(page)) == 40
    of_a_two = units(page)
    press(page, "#digits :checked", "ArrowRight")
    of_another = units(page)
    press(page, "#classes :checked", "ArrowRight")
    assert len({tuple(found) for found in (of_a_two, of_another, units(page))}) == 3
    assert page.locator("#digits input").first.get_attribute("aria-label") == "3, example 1"
    press(page, "#atoms li:first-child button", "Enter")
    assert page.get_by_role("dialog").get_by_role("heading").first.text_content() == f"Unit {units(page)[0]}"
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0


def test_tab_reaches_every_control_and_each_shows_it(opened):
    page, seen = opened(), set()
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.type")
        )
    assert seen >= {"class", "digit", "model", "k", "alpha", "unit-number", "submit", "button"}


def test_a_deep_link_opens_the_unit(opened, data):
    model = build.shown("k40")[0]
    (codes,) = build.encoders()["k40"].method.codes(model, data.test_x, CodeMode.K)
    used = np.bincount(codes.indices, minlength=1000)
    unit = int(used.argmax())
    page = opened(f"#unit={unit}&model=k40")
    panel = page.get_by_role("dialog")
    assert panel.get_by_role("heading").first.text_content() == f"Unit {unit}"
    assert "k = 40" in panel.locator("#panel-model").text_content()
    assert f"{used[unit]:,} ({used[unit] / 100:.1f}%)" in panel.locator("dd").first.text_content()
    shares = np.bincount(np.repeat(data.test_y, 40)[codes.indices == unit], minlength=10) / used[unit]
    shown = panel.locator("#panel-profile .bars li > span:last-child").all_text_contents()
    assert np.allclose([float(text.strip("<% ")) for text in shown], 100 * shares, atol=0.1)
    atoms = torch.nn.functional.normalize(model.weight.detach(), dim=1)
    nearest = int((atoms @ atoms[unit]).argsort()[-2])
    assert panel.locator("#panel-similar span").first.text_content() == f"unit {nearest}"
    panel.get_by_role("button", name="Close").click()
    assert page.get_by_role("dialog").count() == 0 and page.evaluate("location.hash") == ""


def test_a_dead_unit_is_shown_as_such(opened):
    page = opened("#unit=1&model=k10")
    assert not page.locator("#panel-dead").is_visible()
    page.keyboard.press("Escape")
    page.locator("#dead summary").click()
    page.locator("#dead a").first.click()
    assert "none of 10,000 test digits keeps it" in page.locator("#panel-dead").text_content()
    assert page.locator("#panel-dead").is_visible() and not page.locator("#panel-profile").is_visible()


@pytest.mark.parametrize("hash", ["", "#unit=42&model=k25"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(width, hash, opened):
    page = opened(hash, viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = (
        "(width) => [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > width + 1)"
    )
    assert page.evaluate(f"({wide})({width}).map((e) => e.outerHTML)") == []


@pytest.mark.parametrize("hash", ["", "#unit=42&model=k25"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme, hash, opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(opened(hash, color_scheme=scheme)).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
