"""Public names: light to import, stable in pickles, documented, with examples that run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pickle
import subprocess
import sys
import warnings
from dataclasses import is_dataclass

import pytest
from numpydoc.validate import validate

import skgate

MODULES = [
    "skgate",
    "skgate.baselines",
    "skgate.datasets",
    "skgate.distributed",
    "skgate.evaluation",
    "skgate.inspection",
    "skgate.judges",
    "skgate.metrics",
]
PARTS = ["skgate.activations", "skgate.gate", "skgate.steering"]

PUBLIC = [
    (module, name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if not inspect.ismodule(getattr(importlib.import_module(module), name))
]

# What numpydoc asks for and skgate, like scikit-learn, does without: an extended summary, See Also
# and Examples everywhere, and return values without a name.
NOT_ASKED = {"ES01", "SA01", "EX01", "GL01", "RT02"}


def find(module, name):
    return getattr(importlib.import_module(module), name)


def methods(public):
    """Public methods and properties of a class that skgate itself defines."""
    if not inspect.isclass(public):
        return []
    owners = [one for one in public.__mro__ if one.__module__.startswith("skgate")]
    return sorted(
        {
            name
            for owner in owners
            for name, member in vars(owner).items()
            if not name.startswith("_")
            and (inspect.isfunction(member) or isinstance(member, classmethod | property))
        }
    )


DOCUMENTED = [(module, name, "") for module, name in PUBLIC] + [
    (module, name, method) for module, name in PUBLIC for method in methods(find(module, name))
]


@pytest.mark.parametrize("heavy", ["torch", "transformers", "matplotlib", "pandas", "sklearn"])
def test_importing_skgate_loads_nothing_heavy(heavy):
    code = f"import sys, skgate; assert {heavy!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_gate_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from skgate import LatentGate; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_its_module_is_the_one_it_is_imported_from(module, name):
    """Wherever its file lies: pickles name this module."""
    public = find(module, name)
    assert public.__module__ == module
    assert pickle.loads(pickle.dumps(public)) is public


@pytest.mark.parametrize("part", PARTS)
def test_a_part_exports_what_it_says(part):
    exported = importlib.import_module(part)
    assert exported.__all__
    for name in exported.__all__:
        assert getattr(exported, name) is getattr(skgate, name, getattr(exported, name))


@pytest.mark.parametrize(("module", "name", "method"), DOCUMENTED)
def test_its_docstring_is_numpydoc(module, name, method):
    path = ".".join(filter(None, (module, name, method)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpydoc's, of references
        found = validate(path)["errors"]
    # The parameters of a dataclass are its attributes, and documented as such.
    skipped = NOT_ASKED | ({"PR01"} if is_dataclass(find(module, name)) else set())
    assert [error for error in found if error[0] not in skipped] == []


@pytest.mark.filterwarnings("ignore:.*non-interactive.*:UserWarning")
@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_its_examples_run(module, name):
    """``--doctest-modules`` does not find them: ``__module__`` names another file."""
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in finder.find(find(module, name), name, module=False, globs={}):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
