"""The command line."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name

import pytest

from skgate.__main__ import main


def test_the_demo_shows_both_models_and_draws_a_picture(tmp_path, monkeypatch, capsys):
    from skgate.datasets import load_organism

    organism = load_organism()
    few = organism.prompts.groupby(["split", "language", "harmful"])
    organism.prompts = few.head(20)
    monkeypatch.setattr("skgate._demo.load_organism", lambda: organism)
    picture = tmp_path / "demo.png"
    main(["demo", "--output", str(picture), "--draws", "1"])
    said = capsys.readouterr().out
    assert re.match(r"The model answers \d+ test prompts in 4 runs", said)
    assert said.index("that the unsteered model refuses") < said.index("These are the results")
    for expected in ("unsteered", "no examples", "4 per class", "low-resource", "(refuses)"):
        assert expected in said
    for measure in ("harmful refused", "harmless refused", "harmless answered"):
        assert said.count(measure) == 2  # a column and its explanation
    for text in re.findall(r"^ +\[q..\] (.*)   \(harm", said, re.MULTILINE):
        assert f"= {organism.translate(text)}\n" in said
    assert picture.stat().st_size > 10_000
    assert str(picture) in said


@pytest.mark.parametrize("arguments", [[], ["demon"], ["demo", "--draws", "0"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: skgate" in capsys.readouterr().err


@pytest.fixture
def must_not_run(monkeypatch):
    monkeypatch.setattr("skgate._demo.run_demo", lambda *args, **kwargs: pytest.fail("it ran"))


@pytest.mark.usefixtures("must_not_run")
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nowhere/demo.png", "nowhere is not a folder"),
        ("demo.pgn", "expected a file name that ends in one of: .*png"),
        ("demo", "expected a file name that ends in one of"),
        ("folder.png", "folder.png can't be written to"),
    ],
)
def test_an_output_that_cannot_be_written_stops_the_demo_at_once(
    output, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--output", output])
    assert stop.value.code == 2
    found = capsys.readouterr().err
    assert "usage: skgate demo" in found
    assert re.search(rf"argument --output: Got '{output}', .*{message}", found)


@pytest.mark.usefixtures("must_not_run")
def test_a_folder_without_permission_stops_the_demo_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # (root may write anywhere)
    with pytest.raises(SystemExit):
        main(["demo", "--output", str(tmp_path / "demo.png")])
    assert f"{tmp_path} can't be written to" in capsys.readouterr().err


def test_the_output_may_exist_and_has_a_default(tmp_path, monkeypatch):
    outputs = []
    monkeypatch.setattr("skgate._demo.run_demo", lambda output, n_draws: outputs.append(output))
    monkeypatch.chdir(tmp_path)
    Path("old.SVG").touch()
    main(["demo"])
    main(["demo", "--output", "old.SVG"])
    assert outputs == [Path("skgate_demo.png"), Path("old.SVG")]
    assert list(tmp_path.iterdir()) == [tmp_path / "old.SVG"]


def test_as_a_console_command():
    """As pyproject.toml declares it, which needs no new installation."""
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert resolve_name(declared["project"]["scripts"]["skgate"]) is main


def test_as_a_module():
    helped, versioned = (
        subprocess.run(
            [sys.executable, "-m", "skgate", option], capture_output=True, text=True, timeout=120
        )
        for option in ("--help", "--version")
    )
    assert helped.returncode == versioned.returncode == 0
    assert helped.stdout.startswith("usage: skgate")
    assert "demo" in helped.stdout
    assert versioned.stdout == f"skgate {version('skgate')}\n"
