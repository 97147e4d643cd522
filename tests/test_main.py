"""The command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skgate.__main__ import main


def test_the_demo_tells_the_story(tmp_path, monkeypatch, capsys):
    import skgate._demo
    from skgate.datasets import load_organism

    organism = load_organism()
    few = organism.prompts.groupby(["split", "language", "harmful"])
    organism.prompts = few.head(20)
    monkeypatch.setattr(skgate._demo, "load_organism", lambda: organism)
    picture = tmp_path / "demo.png"
    main(["demo", "--output", str(picture), "--draws", "1"])
    said = capsys.readouterr().out
    for expected in ("unsteered", "gate, 0 shots", "gate, 4 shots", "low-resource", "(refuses)"):
        assert expected in said
    assert picture.stat().st_size > 10_000
    assert str(picture) in said


@pytest.mark.parametrize("arguments", [[], ["demon"], ["demo", "--draws", "0"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m skgate" in capsys.readouterr().err


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "skgate", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "demo" in done.stdout
