"""README and docs: their code runs and prints what they say, their links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import runpy
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import pytest

import skgate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDE = DOCS / "user_guide.md"
GUIDE_PAGES = sorted((DOCS / "guide").glob("*.md"))
WRITTEN = [
    *(ROOT / f"{page}.md" for page in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "benchmarks").glob("*.md")),
    *sorted((DOCS / "reliability").glob("*.md")),
    *GUIDE_PAGES,
]

# Blocks that can't run here, by page, and why.
NOT_RUN = {
    "docs/guide/extraction.md": ["needs a GPU and the model's weights"],
    "docs/guide/faq.md": ["needs FastAPI"],
    "docs/guide/judges.md": ["needs an endpoint", "needs the weights"],
}

# Names whose examples need what a test hasn't: their own tests run them.
SKIPPED_EXAMPLES = {
    "skgate.datasets.fetch_multijail",
    "skgate.datasets.fetch_polyrefuse",
    "skgate.distributed.extract",
    "skgate.judges.ChatJudge",
}

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^```(?:python|\{code-block\} python)\n(?P<code>.*?)^```$"
    r"(?:\n+^```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of Python; ``printed`` is the text block that follows it."""

    code: str
    printed: str | None
    reason: str | None


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """The blocks of a page, each on its own lines, for tracebacks."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            "\n" * text.count("\n", 0, found.start("code")) + found["code"],
            found["printed"],
            found["reason"],
        )
        for found in BLOCK.finditer(text)
    ]


WITH_CODE = [page for page in WRITTEN if blocks(page)]


def run(page, namespace, capsys):
    for block in blocks(page):
        if block.reason is None:
            capsys.readouterr()
            exec(compile(block.code, name(page), "exec"), namespace)
            if block.printed is not None:
                assert capsys.readouterr().out == block.printed


@pytest.fixture(scope="module")
def first_lines():
    """What the guide's first lines define, which its pages go on from."""
    namespace = {}
    exec(compile(blocks(GUIDE)[0].code, name(GUIDE), "exec"), namespace)
    return namespace


@pytest.fixture
def namespace(request, first_lines):
    if "import ray" in (text := request.param.read_text("utf-8")) or "from ray" in text:
        request.getfixturevalue("cluster")
    if request.param not in GUIDE_PAGES:
        return {}
    return {**first_lines, **deepcopy({key: first_lines[key] for key in ("pipe", "reader")})}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize(
    ("page", "namespace"),
    [(page, page) for page in WITH_CODE],
    ids=map(name, WITH_CODE),
    indirect=["namespace"],
)
def test_its_code_runs_and_prints_what_it_says(page, namespace, capsys, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    run(page, namespace, capsys)
    plt.close("all")


def test_the_blocks_that_do_not_run_are_known():
    found = {
        name(page): reasons
        for page in WRITTEN
        if (reasons := [block.reason for block in blocks(page) if block.reason is not None])
    }
    assert found == NOT_RUN


def test_no_python_block_is_overlooked():
    for page in WRITTEN:
        fences = re.findall(r"^\s*[`~]{3,}.*(?:py|code)", page.read_text("utf-8"), re.MULTILINE)
        assert len(fences) == len(blocks(page)), name(page)


def test_readme_has_two_commands_for_ci():
    commands = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(commands) == 2
    assert all(command.count("\n") == 1 for command in commands)
    assert commands[0].endswith("-m skgate demo\n")
    assert commands[1].endswith("-m pytest\n")
    landing = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all(command in landing for command in commands)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=name)
def test_github_shows_no_raw_role(page):
    """GitHub knows no roles or directives of Sphinx."""
    text = page.read_text("utf-8")
    assert not re.search(r"\{[\w:-]+\}`|^[`:]{3,}\s*\{", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_its_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and ":" not in path:
            assert (page.parent / path).exists(), target


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=name)
def test_the_tutorials_give_the_takeaway_of_a_notebook(notebook):
    first = "".join(json.loads(notebook.read_text("utf-8"))["cells"][0]["source"])
    title, takeaway, _ = first.split("\n\n", 2)
    index = (DOCS / "tutorials.md").read_text("utf-8")
    for text in (title.removeprefix("# "), takeaway.removeprefix("**Takeaway:** ")):
        assert " ".join(text.split()).lower() in " ".join(index.split()).lower()
    assert f"`download <tutorials/{notebook.name}>`" in index


def public_names():
    modules = [skgate, *(getattr(skgate, n) for n in ("datasets", "distributed", "inspection"))]
    modules += [skgate.baselines, skgate.evaluation, skgate.judges, skgate.metrics]
    return [
        (module.__name__, public)
        for module in modules
        for public in module.__all__
        if not inspect.ismodule(getattr(module, public))
    ]


def test_the_reference_has_every_public_name():
    module, listed = None, set()
    for line in (DOCS / "api.md").read_text("utf-8").splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.match(r"   (\w+)$", line):
            listed.add((module, found[1]))
    assert listed == set(public_names())


@pytest.mark.parametrize(("module", "public"), public_names())
def test_it_has_an_example_that_runs(module, public):
    documented = getattr(importlib.import_module(module), public)
    examples = doctest.DocTestParser().get_examples(documented.__doc__)
    skipped = [example.options.get(doctest.SKIP, False) for example in examples]
    if f"{module}.{public}" in SKIPPED_EXAMPLES:
        assert any(skipped)
    else:
        assert examples
        assert not any(skipped)


@pytest.mark.parametrize(
    "estimator",
    [
        "ActivationSource",
        "ActivationStore",
        "ActivationTransformer",
        "LatentGate",
        "SteeringWrapper",
    ],
)
def test_its_example_shows_every_method_of_its_own(estimator):
    """Those that scikit-learn's estimators all have are taken as known."""
    documented = getattr(skgate, estimator)
    known = {"fit", "predict", "predict_log_proba", "decision_function"}
    methods = {
        method
        for owner in documented.__mro__
        if owner.__module__.startswith("skgate")
        for method in vars(owner)
        if not method.startswith(("_", "set_")) and callable(getattr(documented, method))
    }
    text = documented.__doc__ + "".join(getattr(documented, one).__doc__ for one in methods)
    sources = [one.source for one in doctest.DocTestParser().get_examples(text)]
    assert methods - known <= set(re.findall(r"\.(\w+)\(", "".join(sources)))


def rows(page):
    """The cells of a page's tables, without heads and code marks."""
    lines = re.findall(r"^\| (`.*) \|$", page.read_text("utf-8"), re.MULTILINE)
    return [[cell.strip(" `") for cell in line.split(" |")] for line in lines]


def test_the_table_of_languages_says_what_the_code_knows():
    from skgate.datasets import _multijail, _polyrefuse
    from skgate.metrics._tiers import LANGUAGE_TIERS

    phrases = set(json.loads((ROOT / "skgate/judges/phrases.json").read_text("utf-8")))
    has = [set(data._LANGUAGES) for data in (_polyrefuse, _multijail)]  # noqa: SLF001 - no public list
    found = {code: cells for code, _, *cells in rows(DOCS / "language_codes.md")}
    assert found == {
        code: [tier, *("yes" if code in known else "" for known in [*has, phrases])]
        for code, tier in LANGUAGE_TIERS.items()
    }


def test_the_table_of_constants_has_the_values_of_the_code():
    from skgate.gate import _shift_prior

    found = {name: value for name, value, _ in rows(DOCS / "guide" / "shrinkage.md")}
    for place in found:
        module, constant = place.split(".")
        value = getattr(importlib.import_module(f"skgate.gate.{module}"), constant)
        values = [value] if isinstance(value, int | float) else value
        assert found[place] == ", ".join(f"{one:g}" for one in values), place
    prior = {f"_shift_prior.{one}" for one in vars(_shift_prior) if one.isupper()}
    assert {place for place in found if place.startswith("_shift_prior.")} == prior


def test_the_messages_that_the_faq_explains_are_those_of_the_code():
    source = "".join(path.read_text("utf-8") for path in (ROOT / "skgate").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # a message on several lines
    messages = [cells[0] for cells in rows(DOCS / "guide" / "faq.md")]
    assert len(messages) >= 20
    parts = {part.strip() for message in messages for part in message.split("...")}
    assert {part for part in parts if part not in source} == set()


def test_the_architecture_page_has_every_module():
    tables = runpy.run_path(str(DOCS / "file_tables.py"))["write_tables"]()
    modules = list((ROOT / "skgate").rglob("*.py"))
    for module in modules:
        assert f"| `{module.name}` |" in tables
    assert tables.count("\n| `") == len(modules)
