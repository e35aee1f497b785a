"""The child of `alflow.engines.ase_process`: makes one ASE calculator and computes frame after frame with it.

Started by its path, perhaps by another Python: needs ase, numpy and the standard library only. Every message is JSON;
numbers keep every bit in it.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import json
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Message = dict[str, Any]


def main() -> None:
    """``_ase_child.py FD``: say what the calculator is, then answer frames until the other side closes."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if p and Path(p).resolve() != here]  # modules here are called like others'
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    pipe = Connection(int(sys.argv[1]))
    os.set_inheritable(pipe.fileno(), False)
    setup = json.loads(pipe.recv_bytes())
    calculator, told = _introduced(setup)
    pipe.send_bytes(json.dumps(told).encode())
    calculator = calculator if setup["reuse"] else None  # one made here may write here
    while not told.get("problem"):
        request = json.loads(pipe.recv_bytes())
        answer, calculator = _answered(setup, request, calculator)
        pipe.send_bytes(json.dumps(answer).encode())


# ---- the calculator ------------------------------------------------------------------------------------------------


def _introduced(setup: Message) -> tuple[Any, Message]:
    """A calculator, and what it can do; or ``problem``: the word for what is wrong, and ``said``."""
    try:
        cls = _class_of(setup["calculator"])
    except LookupError as exc:
        return None, {"problem": "name", "said": exc.args[0], "known": exc.args[1]}
    except Exception as exc:  # noqa: BLE001 -- whatever an import does: this is a border
        return None, {"problem": "import", "said": _said(exc)}
    words, open_ = _keywords(cls)
    if not open_ and (unknown := [k for k in setup["settings"] if k not in words]):
        return None, {"problem": "keyword", "said": unknown[0], "known": words}
    try:
        calculator = _made(setup)
    except Exception as exc:  # noqa: BLE001 -- as above
        return None, {"problem": "settings", "said": _said(exc)}
    return calculator, {"properties": sorted(map(str, calculator.implemented_properties))}


def _class_of(name: str) -> Any:
    """The class behind a dotted name, or behind one of ase's short names.

    Raises:
        LookupError: there is none, or it is no calculator; args are words and known names.
    """
    from ase.calculators.calculator import BaseCalculator, get_calculator_class, names

    module, _, attribute = name.rpartition(".")
    if not module:
        if name not in names:
            raise LookupError(f"ase has no calculator called {name!r}", sorted(names))
        cls = get_calculator_class(name)
    else:
        imported = importlib.import_module(module)
        cls = getattr(imported, attribute, None)
        if cls is None:
            known = [n for n, v in vars(imported).items() if inspect.isclass(v) and issubclass(v, BaseCalculator)]
            raise LookupError(f"the module {module} has no {attribute!r}", sorted(known))
    if not (inspect.isclass(cls) and issubclass(cls, BaseCalculator)):
        raise LookupError(f"{name!r} is no class of calculators (ase.calculators.calculator.BaseCalculator)", [])
    return cls


def _keywords(cls: Any) -> tuple[list[str], bool]:
    """Keyword arguments that a class names, and whether it may know others.

    A `Calculator` with default parameters takes any keyword and ignores those it does not know; one that writes the
    input of a program may hand all of them on.
    """
    from ase.calculators.calculator import Calculator, FileIOCalculator
    from ase.calculators.genericfileio import GenericFileIOCalculator

    defaults = getattr(cls, "default_parameters", None) or {}
    words, takes_any = set(defaults), True
    for base in cls.__mro__:
        if "__init__" in vars(base):
            given = inspect.signature(base.__init__).parameters.values()
            words |= {p.name for p in given if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}} - {"self"}
            takes_any = any(p.kind is p.VAR_KEYWORD for p in given)
        if base is Calculator or not takes_any:
            break
    writes = issubclass(cls, FileIOCalculator | GenericFileIOCalculator)
    return sorted(words), writes or (takes_any and not defaults)


def _made(setup: Message) -> Any:
    return _class_of(setup["calculator"])(**copy.deepcopy(setup["settings"]))


# ---- one frame -----------------------------------------------------------------------------------------------------


def _answered(setup: Message, request: Message, calculator: Any) -> tuple[Message, Any]:
    """The label of a frame or why there is none, and the calculator to go on with."""
    os.chdir(request["folder"])
    with Path(request["log"]).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        calculator = calculator or _made(setup)
        answer = _computed(setup, request, calculator)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 -- whatever a calculator does: this is a border
        traceback.print_exc()
        return _failure(exc), None
    return answer, calculator if setup["reuse"] else None


def _computed(setup: Message, request: Message, calculator: Any) -> Message:
    import numpy as np
    from ase import Atoms

    atoms = Atoms(request["numbers"], request["positions"], cell=request["cell"], pbc=request["pbc"])
    if setup["magmoms"]:
        atoms.set_initial_magnetic_moments([setup["magmoms"].get(s, 0.0) for s in atoms.get_chemical_symbols()])
    given, answer = atoms.copy(), {}
    free = setup["energy"] == "free_energy" and "free_energy" in calculator.implemented_properties
    wanted = [*(["stress"] if request["stress"] else []), "forces", "free_energy" if free else "energy"]
    for name in wanted:  # the dearest first: the others come with it
        answer[name] = np.asarray(calculator.get_property(name, atoms), float).tolist()
    if atoms != given:
        raise RuntimeError("the calculator changed the structure it was given")
    answer["energy"] = answer.pop(wanted[-1])
    return answer


def _failure(exc: BaseException) -> Message:
    last = traceback.extract_tb(exc.__traceback__)[-1].filename
    return {
        "error": [c.__name__ for c in type(exc).__mro__],
        "said": _said(exc),
        "errno": getattr(exc, "errno", None),
        "starting": isinstance(exc, OSError) and Path(last).name == "subprocess.py",
    }


def _said(exc: BaseException) -> str:
    words = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {words}" if words else type(exc).__name__


if __name__ == "__main__":
    with contextlib.suppress(EOFError, OSError):
        main()
