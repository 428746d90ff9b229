"""README and docs: their size, links, commands, code and generated parts."""

import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ksae_lib import cli as library_cli
from ksae_lib.selection import RULES, by_sorting
from ksae_lib.training import TrainConfig, train
from replication import cli as study_cli
from replication.data.base import DATASETS, DataConfig
from replication.experiments import experiments
from replication.experiments.base import REGISTRY
from replication.experiments.profiles import PROFILES, settings
from replication.family import WAYS
from replication.report.blocks import Blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = [*PAGES, ROOT / "data" / "README.md"]
TO_BE_WRITTEN = {"replication/methods/l1.py", "replication/data/digits.py", "notebooks/14_widths.ipynb"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text_of(page):
    return page.read_text(encoding="utf-8")


def fences(page, language):
    return [body for kind, body in FENCE.findall(text_of(page)) if kind == language]


def names_of(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(page):
    """What a link into a page may name, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_one_read():
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1200
    assert "toy" not in text and "stand-in" not in re.sub(r"small NORB, and its stand-in", "", text)


def test_every_page_is_linked_from_the_readme_or_from_the_index():
    readme, index = text_of(ROOT / "README.md"), text_of(ROOT / "docs" / "index.md")
    linked = {page for page in PAGES if f"](docs/{page.name})" in readme or f"]({page.name})" in index}
    assert linked == set(PAGES[1:])


@pytest.mark.parametrize("page", CARDS, ids=names_of(CARDS))
def test_every_picture_is_described_in_a_sentence(page):
    told = re.findall(r"!\[(.*?)\]\(", FENCE.sub("", text_of(page)))
    assert [alt for alt in told if not (alt.endswith(".") and len(alt.split()) >= 10)] == []
    assert page.name not in ("README.md", "results.md") or page.parent.name == "data" or len(told) >= 2


@pytest.mark.parametrize("page", CARDS, ids=names_of(CARDS))
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page)))
    inside = [link.partition("#") for link in links if not link.startswith("http")]
    missing = [
        path + mark + anchor
        for path, mark, anchor in inside
        if not (target := page.parent / path if path else page).exists() or (anchor and anchor not in anchors(target))
    ]
    assert missing == []


@pytest.mark.parametrize("page", CARDS, ids=names_of(CARDS))
def test_every_path_that_is_named_exists(page):
    named = re.findall(r"`((?:ksae_lib|replication|notebooks|benchmarks|data/paper|tests)/[\w./-]+)`", text_of(page))
    assert [name for name in named if name not in TO_BE_WRITTEN and not (ROOT / name).exists()] == []


def quoted_commands():
    """Each command of ksae that a page quotes, in a block or in a line."""
    found = {}
    for page in CARDS:
        text = text_of(page)
        lines = [line for block in fences(page, "") for line in block.splitlines()]
        for quoted in [*lines, *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))]:
            for command in quoted.partition("  #")[0].split("&&"):
                if command.strip().startswith("ksae "):
                    found[command.strip()] = page
    return list(found)


@pytest.mark.parametrize("command", quoted_commands())
def test_every_quoted_command_is_one(command, monkeypatch, capsys):
    entry = SimpleNamespace(load=lambda: study_cli.add_verbs)
    monkeypatch.setattr(library_cli, "entry_points", lambda group: [entry])
    words = shlex.split(command)[1:]
    with pytest.raises(SystemExit) as stopped:
        # A verb alone is a name, not a call.
        library_cli._parser().parse_args([*words, "--help"] if len(words) == 1 else words)
        raise SystemExit(0)
    assert stopped.value.code == 0, capsys.readouterr().err


def test_quoted_experiments_and_profiles_exist():
    for words in map(shlex.split, quoted_commands()):
        named = words[words.index("--profile") + 1] if "--profile" in words else "quick"
        for profile in named.split(","):
            assert profile in PROFILES
            if "--only" in words:
                names = set(words[words.index("--only") + 1].split(","))
                assert names <= {one.name for one in experiments(profile)} | {"widths"}


def test_every_make_target_that_is_quoted_exists():
    targets = set(re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    called = re.compile(r"(?:^|`|\s)make (\w+)(?:`|$)", re.MULTILINE)
    quoted = {name for page in CARDS for name in called.findall(text_of(page))}
    assert quoted >= {"reproduce", "everything", "norb", "test", "lab", "report"}
    assert quoted <= targets


def test_the_report_makes_every_generated_part_and_each_has_one_place():
    filled = {page for page in PAGES if ":begin -->" in text_of(page)}
    assert filled >= {ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "norb.md"}
    shown = [name for page in PAGES for name in re.findall(r"<!-- (\w+):begin -->", text_of(page))]
    assert sorted(shown) == sorted(Blocks(ROOT).makers)


BUDGETS = re.findall(r"^\| `(.+)` \| (\d+) \|$", text_of(ROOT / "docs" / "architecture.md"), re.MULTILINE)


@pytest.mark.parametrize(("command", "most"), BUDGETS)
def test_line_budgets_hold(command, most):
    done = subprocess.run(
        ["bash", "-c", command.replace(r"\|", "|")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 0 < int(done.stdout) <= int(most)


def test_files_of_figures_and_tables_are_short():
    assert len(BUDGETS) == 6
    files = [*ROOT.glob("replication/experiments/figure*.py"), *ROOT.glob("replication/experiments/table*.py")]
    assert len(files) >= 8
    assert [path.name for path in files if len(text_of(path).splitlines()) > 60] == []


def test_citations_agree():
    version = re.search(r'^version = "(.*)"', text_of(ROOT / "pyproject.toml"), re.MULTILINE)[1]
    citation, readme = text_of(ROOT / "CITATION.cff"), text_of(ROOT / "README.md")
    assert f"version: {version}\n" in citation and f"version = {{{version}}}" in readme
    title = re.search(r'^title: "(.*)"', citation, re.MULTILINE)[1]
    year = re.search(r'^date-released: "(\d+)-', citation, re.MULTILINE)[1]
    assert f"title   = {{{title}}}" in readme and f"year    = {{{year}}}" in readme
    assert "arXiv:1312.5663" in citation and "arXiv:1312.5663" in readme


def test_the_readmes_code_runs(tmp_path, monkeypatch, capsys):
    (code,) = fences(ROOT / "README.md", "python")
    assert len(code.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert found["codes"].shape == (2000, 200) and found["atoms"].shape == (200, 64)
    assert set(np.count_nonzero(found["codes"], axis=1)) == {20}
    assert (tmp_path / "coder.safetensors").exists()
    assert "explained variance" in capsys.readouterr().out


def test_the_estimators_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    xray, code = fences(ROOT / "docs" / "estimator.md", "python")
    assert len(xray.strip().splitlines()) <= 10
    exec(xray, {})
    assert "X-ray" in (tmp_path / "units.html").read_text("utf-8")
    found = {}
    exec(code, found)
    assert found["scale"] == pytest.approx(found["coder"].scale_, rel=1e-4)
    assert np.allclose(found["model"].weight.detach(), found["coder"].components_, atol=1e-4)


@pytest.fixture
def blocks_of_extending():
    """What the page's five blocks define; whatever they register is taken back."""
    registered = list(REGISTRY)
    blocks = fences(ROOT / "docs" / "extending.md", "python")
    yield [run(block) for block in blocks]
    REGISTRY[:] = registered
    RULES.pop("magnitude", None)
    DATASETS.pop("digits", None)
    WAYS.pop("above mean", None)


def run(code):
    found = {"__name__": "written"}
    exec(compile(code, "extending.md", "exec", dont_inherit=True), found)
    return found


def test_the_five_additions_work_as_they_are_printed(blocks_of_extending):
    baseline, rows, data, rule, way = blocks_of_extending
    x = np.random.default_rng(0).random((200, 30), dtype=np.float32)
    method = baseline["L1Sparse"](units=20, epochs=3, learning_rate=0.001)
    model, history = method.fit(x, progress=False)
    assert history["loss"].is_monotonic_decreasing
    assert method.codes(model, x, method.code_mode())[0].shape == (200, 20)
    assert len(method.hidden_layers(model)) == 1
    with pytest.raises(ValueError, match="penalty = -1"):
        baseline["L1Sparse"](penalty=-1)

    made = rows["widths"](settings("quick", "mnist"))
    assert [row.at(0).encoder.method.units for row in made.rows] == [250, 4000]

    DATASETS["digits"] = data["SOURCE"]
    config = DataConfig(name="digits", train_size=1000, validation_size=300, test_size=400)
    loaded = data["load"](config, ROOT)
    assert config.is_whole is False and config.title == "digits"
    assert [len(part) for part in (loaded.train_y, loaded.validation_x, loaded.test_x)] == [1000, 300, 400]
    assert loaded.classes == 10 and loaded.train_x.max() == 1

    config = TrainConfig(units=20, k=5, k_start=None, epochs=1, selection="magnitude")
    trained, _ = train(x, config, progress=False)
    z = trained.pre_activation(trained.weight.new_tensor(x)).detach()
    assert rule["by_magnitude"](z - 1, 5).sum() == 1000
    assert not rule["by_magnitude"](z - z.max(), 5).equal(by_sorting(z - z.max(), 5))
    with pytest.raises(ValueError, match="cpu engine does not know"):
        train(x, config, engine="cpu")

    assert WAYS["above mean"] is way["AboveMean"]
    net = WAYS["above mean"](x, 20, 5, rate=0.01, seed=0).fit(2)
    z = net.pre_activation(x)[0].numpy()
    assert np.array_equal(net.encode(x) > 0, (z > 0) & (z > z.mean(axis=1, keepdims=True)))
