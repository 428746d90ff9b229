"""The X-ray of units: its numbers by hand in float64, what it refuses, and the page in a browser."""

from __future__ import annotations

import json
import re
import sys
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ksae_lib import KSparseCoder, cli, xray
from ksae_lib.io import KsaeError

EVIL = "<script>alert(1)</script>"
BREAKOUT = '</script><img src=x onerror="alert(2)">'
UNITS, FEATURES, K, DEAD = 7, 4, 2, 5


def known() -> tuple[KSparseCoder, np.ndarray, np.ndarray]:
    """A coder of known atoms, of which one can never win; examples around a mean of 3; their classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, (90, FEATURES)).astype(np.float32)
    coder = KSparseCoder(UNITS, k=K, epochs=1, random_state=0).fit(x)
    with torch.no_grad():
        coder.model_.weight.copy_(torch.from_numpy(rng.normal(0, 1, (UNITS, FEATURES))))
        coder.model_.bias.copy_(torch.from_numpy(rng.normal(0, 0.1, UNITS)))
        coder.model_.bias[DEAD] = -100
        coder.model_.visible_bias.copy_(torch.from_numpy(rng.normal(0, 0.1, FEATURES)))
    coder.scale_ = 2.0
    return coder, x, np.digitize(x[:, 0] + 0.3 * rng.normal(size=90), [2.5, 3.5])


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and the arrays in a page."""
    text = path.read_text("utf-8")
    head = json.loads(re.findall(r'<script type="application/json" id="head">(.*?)</script>', text)[0])
    content = zlib.decompress(b64decode(re.findall(r'id="content">(.*?)</script>', text)[0]))
    arrays, offset = {}, 0
    for name, kind, shape in head["layout"]:
        arrays[name] = np.frombuffer(content, kind, int(np.prod(shape)), offset).reshape(shape)
        offset += arrays[name].nbytes
    assert offset == len(content)
    return head, arrays


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("known") / "units.html"
    coder, x, y = known()
    coder.report(x, path, y=np.array(["low", "middle", "high"])[y], image_shape=(2, 2))
    return path


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """The k largest codes of the known examples, in float64 (shape: [examples, units])."""
    coder, x, _ = known()
    z = seen(coder, x) @ coder.components_.T.astype(np.float64) + coder.model_.bias.detach().numpy()
    return np.where(np.argsort(np.argsort(-z)) < K, z, 0)


def seen(coder: KSparseCoder, x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) - coder.mean_) * coder.scale_


def test_frequency_activation_and_whole_are_those_by_hand(page: Path, codes: np.ndarray) -> None:
    coder, x, _ = known()
    head, arrays = read(page)
    kept = codes != 0
    assert arrays["uses"].tolist() == kept.sum(0).tolist()
    assert arrays["uses"][DEAD] == 0 and head["dead"] == 1
    values = [codes[kept[:, unit], unit] for unit in range(UNITS)]
    assert arrays["mean"] == pytest.approx(np.array([value.mean() if len(value) else 0 for value in values]), rel=1e-5)
    for unit in set(range(UNITS)) - {DEAD}:
        ends = values[unit].min(), values[unit].max()
        assert (arrays["low"][unit], arrays["high"][unit]) == pytest.approx(ends, rel=1e-5)
        expected, _ = np.histogram(values[unit], arrays["histogram"].shape[1])
        assert arrays["histogram"][unit].tolist() == expected.tolist()
    assert arrays["histogram"][DEAD].sum() == 0
    report = coder.report(x)
    assert (head["units"], head["k"], head["examples"]) == (UNITS, K, 90)
    assert (head["fvu"], head["l0"]) == (report["fvu"], report["l0"])


def test_effect_on_the_error_is_that_of_codes_without_the_unit(page: Path, codes: np.ndarray) -> None:
    coder, x, _ = known()
    _, arrays = read(page)

    def errors(code: np.ndarray) -> np.ndarray:
        made = code @ coder.components_.astype(np.float64) + coder.model_.visible_bias.detach().numpy()
        return ((x - made / coder.scale_ - coder.mean_) ** 2).mean(1)

    for unit in range(UNITS):
        keepers, without = codes[:, unit] != 0, codes.copy()
        without[:, unit] = 0
        before, after = (errors(code)[keepers].sum() / max(1, keepers.sum()) for code in (codes, without))
        assert arrays["before"][unit] == pytest.approx(before, rel=1e-4)
        assert arrays["rise"][unit] == pytest.approx(after - before, rel=1e-3, abs=1e-6)


def test_nearest_atoms_and_top_examples(page: Path, codes: np.ndarray) -> None:
    coder, x, _ = known()
    _, arrays = read(page)
    atoms = coder.components_ / np.linalg.norm(coder.components_.astype(np.float64), axis=1, keepdims=True)
    for unit in range(UNITS):
        cosines = {other: atoms[unit] @ atoms[other] for other in range(UNITS) if other != unit}
        nearest = sorted(cosines, key=lambda other: -cosines[other])[:3]
        assert arrays["nearest"][unit].tolist() == nearest
        assert arrays["cosine"][unit] == pytest.approx([cosines[other] for other in nearest], abs=1e-6)
        keepers = np.flatnonzero(codes[:, unit])
        top = keepers[np.argsort(-codes[keepers, unit])][:12]
        assert arrays["top"][unit].tolist() == [*top, *[-1] * (12 - len(top))]
        assert arrays["strength"][unit, : len(top)] == pytest.approx(codes[top, unit], rel=1e-5)
    grey = np.abs(arrays["atoms"].astype(int) - 128).max(axis=1)
    assert grey.tolist() == [127] * UNITS
    shown = x[arrays["rows"]].astype(np.float64)
    low = min(0.0, shown.min())
    assert np.abs(arrays["pictures"] - (shown - low) / (shown.max() - low) * 255).max() <= 0.5001


def test_classes_and_steering_are_those_of_a_classifier_whose_codes_are_changed(page: Path, codes: np.ndarray) -> None:
    _, _, numbers = known()
    head, arrays = read(page)
    assert head["classes"] == ["high", "low", "middle"]
    labels = np.array([1, 2, 0])[numbers]
    fitted = np.zeros(90, bool)
    for label in range(3):
        members = np.flatnonzero(labels == label)
        assert arrays["counts"][:, label].tolist() == (codes[members] != 0).sum(0).tolist()
        assert head["sizes"][label] == len(members)
        fitted[members[::2]] = True
    assert (head["fitted"], head["held"]) == (fitted.sum(), (~fitted).sum())
    judge = LogisticRegression(max_iter=1000).fit(codes[fitted], labels[fitted])
    held, truth = codes[~fitted], labels[~fitted]
    assert head["accuracy"] == pytest.approx(judge.score(held, truth))
    for unit in range(UNITS):
        keepers = held[:, unit] != 0
        assert arrays["keepers"][unit] == keepers.sum()
        for factor in (0, 1, 2) if keepers.any() else ():
            changed = held[keepers].copy()
            changed[:, unit] *= factor
            assert arrays["right"][factor, unit] == pytest.approx(judge.score(changed, truth[keepers]))
            chance = judge.predict_proba(changed).mean(0)
            assert arrays["chance"][factor, unit] == pytest.approx(chance, abs=1e-3)


def test_of_two_classes_the_classifier_is_as_scikit_learns(tmp_path: Path, codes: np.ndarray) -> None:
    coder, x, numbers = known()
    labels = (numbers == 2).astype(float)
    coder.report(x, tmp_path / "units.html", y=labels)
    head, arrays = read(tmp_path / "units.html")
    assert head["classes"] == ["0", "1"]
    fitted = np.concatenate([np.flatnonzero(labels == label)[::2] for label in (0, 1)])
    held = np.setdiff1d(np.arange(90), fitted)
    judge = LogisticRegression(max_iter=1000).fit(codes[fitted], labels[fitted])
    assert head["accuracy"] == pytest.approx(judge.score(codes[held], labels[held]))
    doubled = codes[held][codes[held, 0] != 0]
    doubled[:, 0] *= 2
    assert arrays["chance"][2, 0] == pytest.approx(judge.predict_proba(doubled).mean(0), abs=1e-3)


def test_plain_arrays_show_features_by_name_and_what_they_add(tmp_path: Path, codes: np.ndarray) -> None:
    coder, x, _ = known()
    frame = pd.DataFrame(x, columns=["a", "b", EVIL, "d"])
    coder.feature_names_in_, path = np.array(frame.columns, dtype=object), tmp_path / "units.html"
    coder.report(frame, path)
    head, arrays = read(path)
    assert head["names"] == ["a", "b", EVIL, "d"] and head["shape"] is None
    assert not {"atoms", "pictures", "counts"} & set(arrays)
    for unit in set(range(UNITS)) - {DEAD}:
        row, weight = arrays["top"][unit, 0], coder.components_[unit]
        parts = np.argsort(-(seen(coder, x)[row] * weight))[:3]
        assert arrays["part"][unit, 0].tolist() == parts.tolist()
        assert arrays["value"][unit, 0] == pytest.approx(x[row, parts])
        largest = np.argsort(-np.abs(weight))
        assert arrays["parts"][unit].tolist() == largest.tolist()
        assert arrays["weights"][unit] == pytest.approx(weight[largest])


@pytest.mark.parametrize("options", [{}, {"image_shape": (2, 2)}])
def test_sparse_examples_give_the_same_page_and_the_report_is_returned(tmp_path: Path, options: Any) -> None:
    coder, x, y = known()
    x[x < 3] = 0
    whole = coder.report(x)
    for name, given in (("dense", x), ("sparse", sparse.csr_array(x))):
        found = coder.report(given, tmp_path / name, y=y, **options)
        assert all(np.array_equal(found[key], whole[key]) for key in whole)
    assert (tmp_path / "dense").read_bytes() == (tmp_path / "sparse").read_bytes()


def test_labels_and_names_are_inert(tmp_path: Path) -> None:
    class Scripts(HTMLParser):
        count, others = 0, 0

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.count += tag == "script"
            self.others += tag == "img"

    coder, x, y = known()
    coder.feature_names_in_ = np.array([BREAKOUT, EVIL, "c", "d"], dtype=object)
    coder.report(
        pd.DataFrame(x, columns=coder.feature_names_in_), tmp_path / "units.html", y=np.array([EVIL, BREAKOUT, "b"])[y]
    )
    text = (tmp_path / "units.html").read_text("utf-8")
    assert "alert(1)" in text and EVIL not in text and "<img" not in text
    parser = Scripts()
    parser.feed(text)
    assert (parser.count, parser.others) == (3, 0)
    assert read(tmp_path / "units.html")[0]["names"][:2] == [BREAKOUT, EVIL]


def test_a_thousand_units_on_ten_thousand_pictures_are_a_small_page(tmp_path: Path) -> None:
    digits, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(digits), size=10_000)
    large = np.kron(digits.reshape(-1, 8, 8)[chosen], np.ones((3, 3))) + rng.integers(0, 2, (10_000, 24, 24))
    x = np.pad(large, ((0, 0), (2, 2), (2, 2))).reshape(10_000, 784).astype(np.float32)
    coder = KSparseCoder(1000, k=25, epochs=1, random_state=0).fit(x[:200])
    coder.report(x, tmp_path / "units.html", y=y[chosen], image_shape=(28, 28))
    assert read(tmp_path / "units.html")[1]["top"].shape == (1000, 12)
    assert (tmp_path / "units.html").stat().st_size <= 8_000_000


def test_large_pictures_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coder, x, _ = known()
    monkeypatch.setattr(xray, "_BYTES", 3 * UNITS * FEATURES)
    coder.report(x, tmp_path / "units.html", image_shape=(2, 2))
    assert read(tmp_path / "units.html")[1]["top"].shape == (UNITS, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"y": np.zeros(5)}, r"y has shape \(5,\), but there are 90 examples: give one label an example\."),
        ({"y": np.zeros((90, 2))}, r"y has shape \(90, 2\)"),
        ({"y": np.full(90, np.nan)}, "y holds missing or infinite values: leave out examples without a label"),
        ({"y": np.array(["a", "b", None] * 30)}, "y holds missing or infinite values"),
        ({"y": np.array(["a", "b", np.nan] * 30, dtype=object)}, "y holds missing or infinite values"),
        ({"y": ["a", "b", np.nan] * 30}, "y holds missing or infinite values"),
        ({"y": np.zeros(90)}, "The classes in y are 1, but must be 2 to 89: group them, or leave y out"),
        ({"y": np.arange(90)}, "The classes in y are 90"),
        ({"image_shape": (3, 2)}, r"image_shape = \(3, 2\) is not height and width, and 3 if RGB, of 4 features"),
        ({"image_shape": (-2, -2)}, "is not height and width"),
        ({"image_shape": (4,)}, "is not height and width"),
        ({"image_shape": 4}, "is not height and width"),
        ({"image_shape": np.array([2.0, 2.0])}, "is not height and width"),
        ({"image_shape": ()}, "is not height and width"),
        ({"image_shape": (2, 1, 2)}, "is not height and width"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Path, options: Any, sentence: str) -> None:
    coder, x, _ = known()
    with pytest.raises(ValueError, match=sentence):
        coder.report(x, tmp_path / "units.html", **options)
    assert list(tmp_path.iterdir()) == []


def test_examples_with_nan_are_refused(tmp_path: Path) -> None:
    coder, x, _ = known()
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        coder.report(x, tmp_path / "units.html")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_told_and_the_old_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(arrays: Any) -> Any:
        raise OSError(28, "No space left on device")

    coder, x, _ = known()
    path = tmp_path / "units.html"
    path.write_text("old")
    for wrong in (tmp_path, path / "below.html"):
        with pytest.raises(OSError, match=f"{re.escape(str(wrong))} cannot be written .*: name another file"):
            coder.report(x, wrong)
    monkeypatch.setattr(xray, "_packed", full)
    with pytest.raises(OSError, match="cannot be written .No space left on device."):
        coder.report(x, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_without_jinja2_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coder, x, _ = known()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(KsaeError, match=r"needs Jinja2: pip install jinja2\.$"):
        coder.report(x, tmp_path / "units.html")
    assert coder.report(x)["live"].sum() == UNITS - 1


def test_the_command_writes_the_same_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    coder, x, y = known()
    coder.save("model")
    np.save("x.npy", x)
    np.save("y.npy", y)
    command = ["xray", "model", "x.npy", "--out", "command.html"]
    assert cli.main([*command, "--labels", "y.npy", "--image-shape", "2", "2"]) == 0
    assert "command.html: 7 units, 1 of them dead, FVU " in capsys.readouterr().out
    coder.report(x, "report.html", y=y, image_shape=(2, 2))
    assert Path("command.html").read_bytes() == Path("report.html").read_bytes()
    assert cli.main(command) == 0
    Path("words.txt").write_text("words")
    np.save("few.npy", y[:3])
    capsys.readouterr()
    for options, sentence in (
        (["--labels", "few.npy"], "ksae: y has shape (3,), but there are 90 examples: give one label an example.\n"),
        (
            ["--labels", "words.txt"],
            "ksae: words.txt is not one array: write it, a label an example, with numpy.save.\n",
        ),
        (["--image-shape", "9"], "ksae: image_shape = (9,) is not height and width, and 3 if RGB, of 4 features.\n"),
        (["--out", "x.npy/page"], "ksae: x.npy/page cannot be written (File exists): name another file, nothing "),
    ):
        assert cli.main([*command, *options]) == 1
        assert capsys.readouterr().err.startswith(sentence)


# In a browser


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Callable[..., Any]]:
    """How to open a page; at the end none has had an error, a dialog, or asked for anything but itself."""
    pages, wrong = [], []

    def open_page(path: Path = page, hash: str = "", width: int = 1280) -> Any:
        made = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(made)
        made.set_default_timeout(120_000)
        made.on("console", lambda message: wrong.append(message.text))
        made.on("pageerror", lambda error: wrong.append(str(error)))
        made.on("dialog", lambda dialog: wrong.append(dialog.message) or dialog.dismiss())
        made.on(
            "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
        )
        made.goto(path.as_uri() + hash)
        made.evaluate("ready")
        return made

    yield open_page
    for made in pages:
        made.close()
    assert wrong == []


def units(page: Any) -> list[int]:
    return [int(text) for text in page.locator("#units tbody th a").all_text_contents()]


def cells(page: Any, unit: int) -> list[str]:
    return page.locator(f"#units tr[data-unit='{unit}'] > *").all_text_contents()


def test_sorting_changes_the_order_and_says_so(opened: Any, page: Path) -> None:
    shown, (_, arrays) = opened(), read(page)
    live = [unit for unit in range(UNITS) if unit != DEAD]
    header = shown.locator("th", has_text="Error off")
    assert units(shown) == sorted(range(UNITS), key=lambda unit: -arrays["uses"][unit])
    assert header.get_attribute("aria-sort") == "none"
    for way, sign in (("descending", -1), ("ascending", 1)):
        header.locator("button").focus()
        shown.keyboard.press("Enter")
        assert units(shown) == [*sorted(live, key=lambda unit: sign * arrays["rise"][unit]), DEAD]
        assert header.get_attribute("aria-sort") == way
    assert shown.locator("[aria-sort='ascending'], [aria-sort='descending']").count() == 1
    shown.locator("th button", has_text="Unit").click()
    assert units(shown) == list(range(UNITS))


def test_the_table_says_what_the_arrays_hold(opened: Any, page: Path) -> None:
    shown, (head, arrays) = opened(), read(page)
    unit = 3
    uses, counts, keepers = arrays["uses"][unit], arrays["counts"][unit], arrays["keepers"][unit]
    assert min(uses, keepers) > 0
    told = cells(shown, unit)
    assert told[0] == "3"
    assert told[2] == f"{100 * uses / 90:.1f}%"
    assert float(told[3].replace("−", "-")) == pytest.approx(arrays["mean"][unit], rel=5e-3)
    assert told[5:7] == [head["classes"][counts.argmax()], f"{100 * counts.max() / uses:.1f}%"]
    near = "".join(
        f"{other}{cosine:.2f}" for other, cosine in zip(arrays["nearest"][unit], arrays["cosine"][unit], strict=True)
    )
    assert told[7] == near
    assert float(told[8].replace("−", "-")) == pytest.approx(arrays["rise"][unit], rel=5e-3)
    for text, factor in zip(told[9:], (0, 2), strict=True):
        change = 100 * (arrays["right"][factor, unit] - arrays["right"][1, unit])
        assert float(text.replace("−", "-")) == pytest.approx(change, abs=0.051)


def test_a_link_opens_its_unit(opened: Any, page: Path) -> None:
    shown, (_, arrays) = opened(hash="#unit=3"), read(page)
    panel = shown.locator("#unit")
    assert panel.locator("h2").text_content() == "Unit 3"
    assert f"{arrays['uses'][3]} of 90 examples keep this unit" in panel.text_content()
    assert shown.locator("tr[aria-current]").get_attribute("data-unit") == "3"
    assert panel.locator("svg rect").count() == arrays["histogram"].shape[1]
    nearest = panel.locator("a", has_text=f"unit {arrays['nearest'][3, 0]}")
    nearest.focus()
    shown.keyboard.press("Enter")
    shown.wait_for_function(f"document.querySelector('h2').textContent === 'Unit {arrays['nearest'][3, 0]}'")
    assert shown.url.endswith(f"#unit={arrays['nearest'][3, 0]}")


def test_a_dead_unit_is_shown_as_such(opened: Any) -> None:
    shown = opened(hash=f"#unit={DEAD}")
    assert shown.locator("tr.dead").get_attribute("data-unit") == str(DEAD)
    assert cells(shown, DEAD)[2] == "dead"
    panel = shown.locator("#unit")
    assert "This unit is dead: none of the 90 examples keeps it among its 2 largest." in panel.text_content()
    assert panel.locator("svg").count() == 0


@pytest.mark.parametrize("kind", ["grey", "colours"])
def test_pictures_have_the_pixels_of_the_examples(opened: Any, tmp_path: Path, kind: str) -> None:
    x = np.random.default_rng(1).random((30, 12)).astype(np.float32)
    shape = (3, 4) if kind == "grey" else (2, 2, 3)
    coder = KSparseCoder(5, k=2, epochs=1, random_state=0).fit(x)
    coder.report(x, tmp_path / "units.html", image_shape=shape)
    shown, (_, arrays) = opened(tmp_path / "units.html", "#unit=2"), read(tmp_path / "units.html")
    drawn = shown.evaluate(
        "[...document.querySelectorAll('.examples')[0].querySelectorAll('canvas')].map((canvas) => "
        "[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data])"
    )
    rows = arrays["top"][2][arrays["top"][2] >= 0]
    assert len(drawn) == len(rows) > 0
    for pixels, row in zip(drawn, rows, strict=True):
        got = np.array(pixels).reshape(*shape[:2], 4)[..., :3]
        wanted = x[row].reshape(shape if kind == "colours" else (*shape, 1)) / x[arrays["rows"]].max() * 255
        assert np.abs(got - wanted).max() < 0.51


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("hash", ["", "#unit=3", f"#unit={DEAD}"])
def test_no_page_is_wider_than_its_screen(opened: Any, page: Path, tmp_path: Path, width: int, hash: str) -> None:
    coder, x, y = known()
    coder.feature_names_in_ = np.array(["a_long_name_without_a_space_" * 3, "b", "c", EVIL], dtype=object)
    path = tmp_path / "units.html"
    coder.report(pd.DataFrame(x, columns=coder.feature_names_in_), path, y=np.array(["long" * 30, EVIL, "b"])[y])
    for made in (page, path):
        shown = opened(made, hash, width)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.locator("#units").is_visible() == (width == 1280 or not hash)


def test_on_a_phone_the_way_back_leads_to_the_row(opened: Any) -> None:
    shown = opened(width=390)
    assert not shown.locator("#unit").is_visible()
    shown.locator("tr[data-unit='4']").click(position={"x": 60, "y": 10})
    shown.locator("h2", has_text="Unit 4").wait_for()
    assert shown.evaluate("document.activeElement.textContent") == "Unit 4"
    shown.locator("a", has_text="All units").click()
    shown.locator("#units").wait_for()
    assert shown.evaluate("document.activeElement.textContent") == "4"


def test_hostile_labels_are_text(opened: Any, tmp_path: Path) -> None:
    coder, x, y = known()
    coder.feature_names_in_ = np.array([BREAKOUT, EVIL, "c", "d"], dtype=object)
    path = tmp_path / "units.html"
    coder.report(pd.DataFrame(x, columns=coder.feature_names_in_), path, y=np.array([EVIL, BREAKOUT, "b"])[y])
    shown = opened(path, "#unit=3")
    told = shown.locator("#unit").text_content()
    assert EVIL in told and BREAKOUT in told
    assert shown.locator("main script, main img").count() == 0


def test_long_tables_are_shown_in_parts(opened: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 5)).astype(np.float32)
    KSparseCoder(450, k=2, epochs=1, random_state=0).fit(x).report(x, tmp_path / "units.html")
    shown = opened(tmp_path / "units.html")
    for rows, text in ((200, "Show 200 more of 450 units"), (400, "Show 50 more of 450 units")):
        assert len(units(shown)) == rows
        assert shown.locator("#more").text_content() == text
        shown.locator("#more").click()
    assert sorted(units(shown)) == list(range(450))
    assert not shown.locator("#more").is_visible()
