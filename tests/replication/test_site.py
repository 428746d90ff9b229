"""The site: built without a warning, with links that lead somewhere, from no other host, and fit to be read."""

import pkgutil
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
READ = ("docs/index", "docs/paper_beside_code", "results/quick/notebooks/00_one_digit")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("myst_nb", reason="myst-nb is not installed: pip install -e '.[site]'")
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-c", "docs", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Page(HTMLParser):
    """What a page has that can be linked to, and where it leads or what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        else:
            self.loads += [found[name] for name in ("href", "src", "srcset", "data", "poster") if found.get(name)]


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if "_downloads" not in path.parts}


def test_pages_are_there(pages, site):
    wanted = ["explorer", "units", "README", "docs/api", "results/paper/notebooks/07_what_it_takes"]
    wanted += [f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")]
    stored = [path for profile in ("quick", "paper", "search") for path in ROOT.glob(f"results/{profile}/notebooks/*")]
    notebooks = [str(path.relative_to(ROOT).with_suffix("")) for path in stored]
    assert len(notebooks) >= 12
    assert [name for name in [*wanted, *notebooks] if site / f"{name}.html" not in pages] == []
    (target,) = re.findall(r"url=([^\"]+)", (site / "index.html").read_text("utf-8"))
    assert (site / target).exists()
    index = pages[site / "docs/index.html"]
    assert {"../explorer.html", "../units.html", "paper_beside_code.html", "faq.html"} <= set(index.links)
    assert [name for name in notebooks if f"../{name}.html" not in index.links] == []


def test_every_link_and_image_leads_somewhere(pages):
    missing = []
    for path, page in pages.items():
        for link in {*page.links, *page.loads}:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids
            if not target.is_file() or not known:
                missing.append((path.name, link))
    assert missing == []


def test_nothing_is_loaded_from_another_host(pages, site):
    loads = {link for page in pages.values() for link in page.loads}
    assert len(loads) > 50
    assert {link for link in loads if urlsplit(link).netloc or urlsplit(link).scheme not in ("", "data")} == set()
    styles = list(site.rglob("*.css"))
    assert len(styles) >= 3
    elsewhere = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")
    assert [path.name for path in styles if elsewhere.search(path.read_text(encoding="utf-8"))] == []


def test_formulas_are_shown_without_a_script(site, pages):
    path = site / "results/quick/notebooks/00_one_digit.html"
    text = path.read_text(encoding="utf-8")
    assert text.count("<math") >= 15 and r"\hat" not in text
    assert [link for link in pages[path].loads if "mathjax" in link.lower()] == []


def test_the_ten_lines_run(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "ten_lines.md").read_text("utf-8")
    first, second = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(first.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(first, found)
    exec(second, found)
    assert "X-ray" in (tmp_path / "units.html").read_text("utf-8")
    explained, accuracy = (float(number) for number in re.findall(r"(0\.\d\d)\b", capsys.readouterr().out))
    assert explained > 0.7 and accuracy > 0.8


def test_the_paper_stands_beside_code_that_exists(pages, site):
    text = (ROOT / "docs" / "paper_beside_code.md").read_text("utf-8")
    names = re.findall(r"`((?:ksae_lib|replication)\.[\w.]+)`", text)
    assert len(names) >= 25
    for name in names:
        pkgutil.resolve_name(name)
    # Those of the library lead to the reference.
    linked = {link.partition("#")[2] for link in pages[site / "docs/paper_beside_code.html"].links}
    assert len(linked & set(names)) >= 12


# In a browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *what):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served: axe reads its styles, which a browser allows no page of a file."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def opened(browser, address):
    """How to open a page; at the end none has had an error or asked another host."""
    pages, wrong = [], []

    def open_page(name, **settings):
        page = browser.new_page(**settings)
        pages.append(page)
        page.set_default_timeout(120_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
        page.goto(f"{address}{name}.html")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


@pytest.mark.parametrize("name", READ)
def test_no_page_is_wider_than_the_screen(name, opened):
    page = opened(name, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_site(scheme, name, opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(opened(name, color_scheme=scheme)).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], node["html"][:200]) for one in serious for node in one["nodes"][:3]] == []


def test_the_first_page_leads_to_the_explorer_and_a_search_finds_the_questions(opened):
    page = opened("index")
    page.wait_for_url("**/docs/index.html")
    page.get_by_role("link", name="Draw a digit").click()
    page.wait_for_url("**/explorer.html")
    page.evaluate("ksae.ready")
    page.go_back()
    page.get_by_placeholder("Search").first.fill("magnitude")
    page.keyboard.press("Enter")
    page.locator("#search-results a", has_text="Questions").first.wait_for()
