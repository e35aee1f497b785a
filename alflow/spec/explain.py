"""The manual of a part, read off its docstring and fields: nothing is written twice."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from alflow import registry
from alflow.campaign.policy import Until
from alflow.errors import SpecError, UnknownPartError
from alflow.interfaces import Code, Thresholds
from alflow.spec.site import Lane
from alflow.spec.workflow import PARTS, POLICIES
from alflow.validation import suggestion

_SETTINGS: Final[Mapping[str, type[Any]]] = {"until": Until, "thresholds": Thresholds, "lane": Lane, "code": Code}
_TOPICS: Final = (*PARTS, "policy", *_SETTINGS, "evaluate")
_WORDS: Final[Mapping[Any, str]] = {
    int: "whole number",
    float: "number",
    bool: "true | false",
    str: "text",
    Path: "path",
    Any: "any value",
    type(None): "null",
}
_BOUNDS: Final = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_ITEM: Final = re.compile(r"(\w+(?:, \w+)*): (.*)")


@dataclass(frozen=True, slots=True)
class Key:
    """One YAML key of a part.

    Attributes:
        name: with its unit.
        type: what may be given, in YAML's words.
        default: as YAML would have it; ``required`` if there is none.
        words: what it means.
    """

    name: str
    type: str
    default: str
    words: str


@dataclass(frozen=True, slots=True)
class Manual:
    """What is known of a part.

    Attributes:
        title: such as ``sampler md``.
        text: its docstring without the list of fields.
        keys: its fields.
        facts: what it provides, needs or runs.
    """

    title: str
    text: str
    keys: tuple[Key, ...]
    facts: Mapping[str, str]


def topics() -> Mapping[str, tuple[str, ...]]:
    """Everything that can be explained: kinds of each role and policy, and single mappings."""
    found = {word: registry.names(role) for word, role in PARTS.items()}
    return {**found, "policy": tuple(POLICIES), **dict.fromkeys((*_SETTINGS, "evaluate"), ())}


def summaries(topic: str) -> Mapping[str, str]:
    """First line of the manual of every kind of a role; why there is none where a package is missing.

    Raises:
        UnknownPartError: no such topic.
    """
    word = _topic(topic)
    found = {}
    for kind in topics()[word]:
        try:
            found[kind] = _first_line(_class_of(word, kind))
        except SpecError as exc:
            found[kind] = f"({exc.problem}; {exc.hint})"
    return found


def named(word: str) -> tuple[str, str]:
    """Topic and kind of ``topic``, ``topic.kind``, or a kind alone that only one topic has.

    Raises:
        UnknownPartError: no such topic or kind, or a kind of several topics.
    """
    topic, _, kind = word.partition(".")
    if kind or topic in {*_TOPICS, *PARTS.values()}:
        return _topic(topic or word), kind
    owners = [t for t, kinds in topics().items() if topic in kinds]
    if len(owners) > 1:
        raise UnknownPartError(word, "is the name of several parts", " or ".join(f"{t}.{topic}" for t in owners))
    return (owners[0], topic) if owners else (_topic(topic), "")


def manual(topic: str, kind: str = "") -> Manual:
    """The manual of one part, policy, or mapping.

    Raises:
        UnknownPartError: no such topic or kind.
        SpecError: the part needs a package that is not installed.
    """
    word = _topic(topic)
    cls = _class_of(word, kind)
    text, said = _split(inspect.getdoc(cls) or "")
    hints = get_type_hints(cls, include_extras=True)
    keys = tuple(
        Key(f.name, type_words(hints[f.name]), _default(f), said.get(f.name, ""))
        for f in dataclasses.fields(cls)
        if f.init
    )
    return Manual(f"{word} {kind}".strip(), text, keys, _facts(cls))


def type_words(hint: Any) -> str:
    """A type annotation in the words of somebody who writes YAML."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_words(args[0]) + _limits(args[1:])
    if origin is Literal:
        return " | ".join(str(a) for a in args)
    if origin in {Union, types.UnionType}:
        return " | ".join(type_words(a) for a in args)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(str(m.value) for m in hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {type_words(args[0])} to {type_words(args[1])}"
    if origin is tuple and args[-1:] != (...,):
        return "[" + ", ".join(type_words(a) for a in args) + "]"
    if isinstance(origin, type) and issubclass(origin, Sequence | AbstractSet):
        return f"list of {type_words(args[0])}"
    return getattr(hint, "__name__", str(hint))


def _topic(word: str) -> str:
    singular = {role: key for key, role in PARTS.items()}
    found = singular.get(word, word)
    if found not in _TOPICS:
        known = [*_TOPICS, *(kind for kinds in topics().values() for kind in kinds)]
        raise UnknownPartError(word, "is nothing that can be explained", suggestion(word, known))
    return found


def _class_of(word: str, kind: str) -> type[Any]:
    if word in PARTS:
        return registry.part_class(PARTS[word], kind, word)
    if word == "policy":
        if kind not in POLICIES:
            raise UnknownPartError(word, f"no policy is called {kind!r}", suggestion(kind, POLICIES))
        return POLICIES[kind]
    if kind:
        raise UnknownPartError(f"{word}.{kind}", f"{word} has no kinds", f"alflow explain {word}")
    if word == "evaluate":
        from alflow.science.evaluate import EvaluateSettings

        return EvaluateSettings
    return _SETTINGS[word]


def _first_line(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _split(doc: str) -> tuple[str, dict[str, str]]:
    """A Google-style docstring as its text and what its Attributes section says of each field."""
    head, _, rest = doc.partition("\nAttributes:\n")
    section = re.match(r"(?:[ \t]+.*\n?|\n(?=[ \t]))*", rest)
    body = section[0] if section else ""
    tail = rest[len(body) :].strip()
    said: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc("\n" + body).splitlines():
        item = _ITEM.fullmatch(line)
        if item:
            names = item[1].split(", ")
        for name in names:
            words = item[2] if item else line.strip()
            said[name] = f"{said.get(name, '')} {words}".strip()
    return _flowing(f"{head.strip()}\n\n{tail}".strip()), said


def _flowing(text: str) -> str:
    """Paragraphs on one line each, for whoever shows them to break; what is indented or a list keeps its lines."""
    parts = re.split(r"\n{2,}", text)
    kept = re.compile(r"\n(\s|[-*] )")
    return "\n\n".join(p if kept.search(f"\n{p}") else " ".join(p.split()) for p in parts)


def _limits(metadata: Sequence[Any]) -> str:
    found = []
    for item in metadata:
        for limit in item.metadata if isinstance(item, FieldInfo) else [item]:
            found += [f"{sign} {getattr(limit, key):g}" for key, sign in _BOUNDS.items() if hasattr(limit, key)]
    return f" ({', '.join(found)})" if found else ""


def _default(field: dataclasses.Field[Any]) -> str:
    value, factory = field.default, field.default_factory
    if isinstance(value, FieldInfo):
        value, factory = value.default, value.default_factory or dataclasses.MISSING
    if factory is not dataclasses.MISSING:
        return _in_yaml(factory())
    return "required" if value is dataclasses.MISSING or value is PydanticUndefined else _in_yaml(value)


def _in_yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_in_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | AbstractSet):
        return "[" + ", ".join(_in_yaml(v) for v in value) + "]"
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _facts(cls: type[Any]) -> dict[str, str]:
    facts = {}
    for name, words in {"provides": "provides", "requires": "needs a potential that provides"}.items():
        if hasattr(cls, name):
            facts[words] = ", ".join(sorted(getattr(cls, name))) or "nothing special"
    if hasattr(cls, "needs_guide"):
        facts["follows a model"] = "yes" if cls.needs_guide else "no"
        facts["measures length in"] = cls.length_unit
    if isinstance(getattr(cls, "code", None), str):
        facts["program"] = f"codes.{cls.code} of the site file" if cls.code else "none: runs inside alflow"
    if getattr(cls, "foreign_suffixes", ()):
        facts["reads files"] = ", ".join(cls.foreign_suffixes)
    return facts
