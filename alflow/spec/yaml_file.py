"""Strict YAML with a line number for every key.

Plain words keep their text unless they are ``true``, ``false``, ``null`` or a decimal number, as in the core schema of
YAML 1.2: ``no`` and ``on`` are words (nobelium stays an element), ``04:00:00`` is no number of base sixty, ``1e-3``
is a real number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from alflow.errors import InputError, SpecError
from alflow.validation import SpecErrors, joined

_SCALARS: Final = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$")),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$")),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.nan|\.NaN)$"
        ),
    ),
)
_TEXT: Final = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML mapping and where each of its keys stands.

    Attributes:
        path: the file.
        content: plain dicts, lists, words and numbers.
        lines: line of each key path such as ``stages[0].builder.kind``, counted from 1.
    """

    path: Path
    content: dict[str, Any]
    lines: Mapping[str, int]

    def place(self, where: str) -> str:
        """``file.yaml:12: stages[0].builder.kind``; the line of the nearest key above where there is none."""
        known = where
        while known and known not in self.lines:
            known = known[: max(known.rfind("."), known.rfind("["), 0)]
        line = f":{self.lines[known]}" if known else ""
        return f"{self.path}{line}" + (f": {where}" if where else "")

    def placed(self, error: InputError) -> InputError:
        """The same error with file and line before its key path."""
        if isinstance(error, SpecErrors):
            return SpecErrors([self.placed(e) for e in error.errors])
        return type(error)(self.place(error.where), error.problem, error.hint)


def read(path: Path) -> Document:
    """Read one YAML mapping.

    Raises:
        InputError: the file is missing or cannot be read.
        SpecError: not UTF-8, not YAML, a key given twice, a tag or a merge key, or not a mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise InputError(str(path), f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SpecError(f"{path}: byte {exc.start}", "is not UTF-8 text", "save the file as UTF-8") from exc
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """`read` from text; `path` is for messages.

    Raises:
        SpecError: as `read`.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        raise _syntax_error(exc, path) from exc
    except yaml.YAMLError as exc:  # a control character: no mark
        raise SpecError(str(path), f"is not YAML: {' '.join(str(exc).split())}") from exc
    if node is None:
        raise SpecError(str(path), "is empty", "see the folder workflows/ for files to start from")
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(_at(path, node), "expected keys and values such as 'name: al'")
    lines: dict[str, int] = {}
    content = _Builder(path, lines).value(node, "", ())
    return Document(path, content, lines)


class _Loader(yaml.SafeLoader):
    """Resolves plain words by `_SCALARS` only."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # replaces PyYAML's table of YAML 1.1


for _tag, _pattern in _SCALARS:
    _Loader.add_implicit_resolver(_tag, _pattern, None)


@dataclass(frozen=True, slots=True)
class _Builder:
    path: Path
    lines: dict[str, int]

    def value(self, node: yaml.Node, where: str, above: tuple[yaml.Node, ...]) -> Any:
        if node in above:
            raise SpecError(_at(self.path, node), f"{where}: the anchor refers to itself")
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, where, (*above, node))
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(n, f"{where}[{i}]", (*above, node)) for i, n in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, where)
        raise SpecError(
            f"{_at(self.path, node)}: {where}", f"the tag {node.tag!r} is not allowed", "write plain values"
        )

    def _mapping(self, node: yaml.MappingNode, where: str, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(_at(self.path, key_node), "a key must be a word")
            key = str(key_node.value)
            place = joined(where, key)
            if key == "<<":
                hint = "what all stages share goes under 'defaults:'"
                raise SpecError(f"{_at(self.path, key_node)}: {place}", "merge keys are not supported", hint)
            if key in found:
                raise SpecError(
                    f"{_at(self.path, key_node)}: {place}", f"is given twice, first in line {self.lines[place]}"
                )
            self.lines[place] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, place, above)
        return found

    def _scalar(self, node: yaml.ScalarNode, where: str) -> Any:
        text = str(node.value)
        match node.tag.rpartition(":")[2] if node.tag.startswith("tag:yaml.org,2002:") else node.tag:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" if re.fullmatch(r"[-+]?[0-9]+", text):
                return int(text)
            case "float":
                try:
                    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()))
                except ValueError:
                    pass
        raise SpecError(
            f"{_at(self.path, node)}: {where}", f"the tag {node.tag!r} is not allowed here", "write plain values"
        )


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _syntax_error(exc: yaml.MarkedYAMLError, path: Path) -> SpecError:
    mark = exc.problem_mark or exc.context_mark
    place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    problem = exc.problem or exc.context or "cannot be parsed"
    line = _source_line(mark)
    hint = ""
    if "\\t" in problem or "\t" in line:
        hint = "indent with spaces: YAML allows no tabs"
    elif "mapping values are not allowed" in problem:
        hint = "check the indentation, and put text that contains ': ' in quotes"
    elif "expected <block end>" in problem:
        hint = "the indentation does not match the lines above"
    return SpecError(place, f"is not YAML: {problem}", hint)


def _source_line(mark: Any) -> str:
    if mark is None or mark.buffer is None:
        return ""
    return str(mark.buffer).splitlines()[mark.line] if mark.line < len(str(mark.buffer).splitlines()) else ""
