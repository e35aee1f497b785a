"""From the word after ``kind:`` to a class, by module name; nothing to register.

``kind: md`` of a sampler is ``alflow/samplers/md.py``, which exports ``Part``; modules that start with an underscore
are private. Packages of others add kinds through entry points of the group ``alflow.<role>``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from alflow.errors import AlflowError, InputError, SpecError, UnknownPartError
from alflow.interfaces import Model
from alflow.store.files import write_json
from alflow.validation import joined, plain, shown, suggestion, validate

ROLES: Final = ("builders", "samplers", "potentials", "uncertainty", "selectors", "labelers")
MANIFEST_SCHEMA: Final = 1

_PIP_NAMES: Final = {"torch_sim": "torch-sim-atomistic", "yaml": "pyyaml", "sklearn": "scikit-learn"}
"""Where the package to install is not called as the module it brings."""


# ---- parts ---------------------------------------------------------------------------------------------------------


def names(role: str) -> tuple[str, ...]:
    """Every kind of a role, sorted; imports none of them.

    Raises:
        UnknownPartError: no such role.
    """
    return tuple(sorted({*_modules(role), *_foreign(role)}))


def part_class(role: str, kind: str, where: str = "") -> type[Any]:
    """The class behind a kind.

    Raises:
        UnknownPartError: no part of that name, with the closest one as a hint.
        SpecError: it needs a package that is not installed.
    """
    place = joined(where, "kind")
    if kind not in names(role):
        raise UnknownPartError(place, f"no {role_word(role)} is called {kind!r}", suggestion(kind, names(role)))
    try:
        if kind in _modules(role):
            module = importlib.import_module(f"alflow.{role}.{kind}")
            found: type[Any] | None = getattr(module, "Part", None)
        else:
            found = _foreign(role)[kind].load()
    except ModuleNotFoundError as exc:
        raise _missing_package(exc, kind, place) from exc
    if found is None:
        raise UnknownPartError(place, f"the module alflow.{role}.{kind} has no class Part")
    return found


def make(role: str, mapping: Any, where: str, folder: Path | None = None) -> Any:
    """A part from its YAML mapping ``{kind: ..., field: value ...}``, every key checked.

    Args:
        role: the part folder, such as ``samplers``.
        mapping: the YAML or JSON value.
        where: key path for messages.
        folder: what relative paths of the part's `Path` fields start from.

    Raises:
        SpecError: with the key path at fault and a suggestion; `UnknownPartError` if the kind is none.
    """
    kind, fields = split_kind(mapping, where, names(role))
    return validate(part_class(role, kind, where), fields, where, folder)


def split_kind(mapping: Any, where: str, kinds: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The kind and the other keys of a mapping ``{kind: ..., ...}``.

    Raises:
        SpecError: not a mapping, or it has no kind.
    """
    listed = f"kinds: {', '.join(kinds)}"
    if not isinstance(mapping, Mapping):
        raise SpecError(
            where, f"expected a mapping such as {{kind: {next(iter(kinds), '...')}}}, got {shown(mapping)}", listed
        )
    kind = mapping.get("kind")
    if kind is None:
        raise SpecError(where, "has no 'kind'", listed)
    if not isinstance(kind, str):
        raise SpecError(joined(where, "kind"), f"expected a word, got {shown(kind)}", listed)
    return kind, {k: v for k, v in mapping.items() if k != "kind"}


def kind_of(role: str, part: Any) -> str:
    """The kind of a part instance.

    Raises:
        UnknownPartError: its class can be reached neither by a module of the role nor by an entry point.
    """
    cls = type(part)
    package, _, kind = cls.__module__.rpartition(".")
    if package == f"alflow.{role}" and kind in _modules(role):
        return kind
    for name, entry in _foreign(role).items():
        if (entry.module, entry.attr) == (cls.__module__, cls.__qualname__):
            return name
    raise UnknownPartError(f"{cls.__module__}.{cls.__qualname__}", f"is not a {role_word(role)} that has a kind")


def dump(role: str, part: Any) -> dict[str, Any]:
    """A part as plain JSON values ``{kind: ..., field: value ...}``; `make` gives an equal part back."""
    return {"kind": kind_of(role, part), **plain(part)}


def role_word(role: str) -> str:
    """The name of one part of a role: ``sampler`` of ``samplers``."""
    return role.removesuffix("s")


def role_of(word: str) -> str:
    """The role of ``sampler`` or ``samplers``.

    Raises:
        UnknownPartError: no such role.
    """
    for role in ROLES:
        if word in {role, role_word(role)}:
            return role
    raise UnknownPartError(word, "is not a role", suggestion(word, ROLES))


@lru_cache
def _modules(role: str) -> frozenset[str]:
    role_of(role)
    spec = importlib.util.find_spec(f"alflow.{role}")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return frozenset(m.name for m in pkgutil.iter_modules(places) if not m.name.startswith("_"))


@lru_cache
def _foreign(role: str) -> Mapping[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=f"alflow.{role}")}


def _missing_package(exc: ModuleNotFoundError, kind: str, where: str) -> SpecError:
    module = (exc.name or "").partition(".")[0]
    if module == "alflow":
        return SpecError(where, f"{kind!r} cannot be imported: {exc}", "reinstall alflow")
    name = _PIP_NAMES.get(module, module)
    return SpecError(
        where, f"{kind!r} needs the Python package {name!r}, which is not installed", f"pip install {name}"
    )


# ---- saved models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``model.json`` says of a fitted potential.

    Attributes:
        kind: kind of the potential.
        fields: its settings as plain JSON values.
        files: absolute paths that `Potential.load` needs, in order.
        elements: chemical symbols it was fitted to.
    """

    kind: str
    fields: Mapping[str, Any]
    files: tuple[Path, ...]
    elements: tuple[str, ...]


def save_manifest(
    path: Path, kind: str, fields: Mapping[str, Any], files: Sequence[Path], elements: Sequence[str] = ()
) -> None:
    """Write ``model.json``; the files are stored relative to it, so that a folder can be moved whole."""
    folder = path.resolve().parent
    content = {
        "alflow_model": MANIFEST_SCHEMA,
        "kind": kind,
        "fields": dict(fields),
        "files": [Path(os.path.relpath(f.resolve(), folder)).as_posix() for f in files],
        "elements": sorted(elements),
    }
    write_json(path, content)


def read_manifest(path: Path) -> Manifest:
    """Read ``model.json``.

    Raises:
        InputError: missing, unreadable, not a manifest, or a file it names is not there.
    """
    content = _manifest_content(path)
    try:
        files = tuple((path.resolve().parent / str(f)).resolve() for f in content["files"])
        found = Manifest(str(content["kind"]), dict(content["fields"]), files, tuple(content.get("elements", ())))
    except (KeyError, TypeError, ValueError) as exc:
        raise InputError(str(path), f"is a damaged model manifest: {exc!r}") from exc
    for file in files:
        if not file.is_file():
            raise InputError(str(path), f"names the file {file}, which does not exist", "move a model with its folder")
    return found


def load_model(path: Path) -> Model:
    """The model of a manifest ``model.json``, of a folder that holds one, or of a foreign file by its suffix.

    A potential reads foreign files if its class has ``foreign_suffixes`` and ``read_foreign(path)``.

    Raises:
        InputError: missing, unreadable, or of a kind nobody knows.
    """
    path = path / "model.json" if (path / "model.json").is_file() else path
    if not path.exists():
        raise InputError(str(path), "no such file", "give a model.json, or a file of a known potential format")
    try:
        if path.suffix == ".json":
            manifest = read_manifest(path)
            potential = make("potentials", {"kind": manifest.kind, **manifest.fields}, f"{path}: fields")
            model: Model = potential.load(manifest.files)
        else:
            model = _foreign_reader(path).read_foreign(path)
    except InputError:
        raise
    except (AlflowError, OSError, ValueError, KeyError, RuntimeError, EOFError) as exc:
        raise InputError(str(path), f"cannot be read as a model: {exc}") from exc
    return model


def _manifest_content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(str(path), f"cannot be read as a model manifest: {exc}") from exc
    schema = content.get("alflow_model") if isinstance(content, dict) else None
    if schema != MANIFEST_SCHEMA:
        raise InputError(
            str(path), f'expected a model manifest with "alflow_model": {MANIFEST_SCHEMA}, got {shown(schema)}'
        )
    return dict(content)


def _foreign_reader(path: Path) -> Any:
    suffixes: dict[str, str] = {}
    for kind in names("potentials"):
        try:
            cls = part_class("potentials", kind)
        except SpecError:  # needs a package that is not installed: it cannot be the reader
            continue
        for suffix in getattr(cls, "foreign_suffixes", ()):
            if path.name.endswith(suffix):
                return cls
            suffixes[suffix] = kind
    known = ", ".join(["model.json", *(f"*{s} ({k})" for s, k in sorted(suffixes.items()))])
    raise InputError(str(path), "is not a model file of a known format", f"known: {known}")
