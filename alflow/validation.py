"""A dataclass from a mapping: every key known, every value of its type, all problems at once with their places.

Values are checked as strict JSON: a whole number is accepted where a real one is asked for, a list where a tuple or a
set is, and nothing else is bent into shape (``true`` is not 1, ``"8"`` is not 8).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from alflow.errors import InputError, SpecError

T = TypeVar("T")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

_WORDS = {
    "Input should": "should",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text (put it in quotes)",
    "a valid array": "a list",
    "an object": "a mapping",
    "a valid dictionary": "a mapping",
}
"""How pydantic says it, and how somebody who writes YAML does."""


class SpecErrors(SpecError):  # noqa: N818  # plural: it holds several
    """Several independent mistakes in one file, one after the other.

    Attributes:
        errors: the mistakes.
    """

    def __init__(self, errors: Sequence[InputError]) -> None:
        super().__init__(errors[0].where, errors[0].problem, errors[0].hint)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(str(e) for e in self.errors)


def each(error: InputError) -> tuple[InputError, ...]:
    """The single mistakes that `error` is made of."""
    return error.errors if isinstance(error, SpecErrors) else (error,)


def raise_all(errors: Sequence[InputError]) -> None:
    """Raise what there is: nothing, the one error, or all of them as one `SpecErrors`."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SpecErrors(errors)


def moved(error: InputError, where: str) -> InputError:
    """The same mistake with its place put below `where`."""
    if isinstance(error, SpecErrors):
        return SpecErrors([moved(e, where) for e in error.errors])
    return type(error)(joined(where, error.where), error.problem, error.hint)


def joined(where: str, key: str) -> str:
    """Key path of `key` below `where`."""
    return f"{where}.{key}" if where and key and not key.startswith("[") else where + key


def suggestion(word: str, known: Iterable[str]) -> str:
    """What the user may have meant, as a hint: the closest of `known`, or the list of them."""
    names = sorted(known)
    folded = {n.lower(): n for n in names}
    close = difflib.get_close_matches(word.lower(), folded, 1)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    return f"known: {', '.join(names)}" if names else ""


def check_keys(mapping: Mapping[str, Any], known: Iterable[str], where: str) -> list[InputError]:
    """One error for each key of `mapping` that is not in `known`."""
    names = tuple(known)
    return [
        SpecError(joined(where, str(key)), "is not a known key", suggestion(str(key), names))
        for key in mapping
        if key not in names
    ]


def expand(text: str, where: str) -> str:
    """Replace ``${NAME}``, ``$NAME`` and a leading ``~`` in a path.

    Raises:
        SpecError: the environment has no such variable.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise SpecError(
                where,
                f"the environment variable {name} is not set",
                f"export {name}=/path/to/it; see the head of the file",
            )
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(value, text))  # noqa: PTH111  # Path would drop what follows a "//"


def validate(cls: type[T], mapping: Any, where: str, folder: Path | None = None) -> T:
    """An instance of the dataclass `cls` with the fields of `mapping`.

    Fields of type `Path` may contain ``~`` and environment variables, and are relative to `folder`.

    Raises:
        SpecError: with the key path at fault, below `where`; a `SpecErrors` if there are several.
    """
    if not isinstance(mapping, Mapping):
        raise SpecError(where, f"expected a mapping of keys, got {shown(mapping)}")
    known = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    errors = check_keys(mapping, known, where)
    content = {k: v for k, v in mapping.items() if k in known}
    try:
        content = with_paths(cls, content, where, folder)
        made = _construct(cls, content, where)
    except InputError as exc:
        raise_all([*errors, *each(exc)])
        raise  # not reached: there is one error at least
    raise_all(errors)
    return made


def with_paths(cls: type, mapping: Mapping[str, Any], where: str, folder: Path | None) -> dict[str, Any]:
    """`mapping` with the values of all `Path` fields expanded and made absolute.

    Raises:
        SpecError: an environment variable is not set.
    """
    hints = type_hints(cls)
    return {k: _placed(v, hints.get(k), joined(where, k), folder) for k, v in mapping.items()}


def plain(value: Any) -> dict[str, Any]:
    """The fields of a dataclass instance as plain JSON values, such that `validate` gives them back."""
    fields: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return fields


def shown(value: Any) -> str:
    """A value as a message shows it: short, in YAML's words."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


@lru_cache
def type_hints(cls: Any) -> Mapping[str, Any]:
    """Resolved annotations of a class's fields."""
    return get_type_hints(cls)


@lru_cache
def _cached_adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _adapter(cls: Any) -> TypeAdapter[Any]:
    return _cached_adapter(cls)


def _construct(cls: type[T], content: Mapping[str, Any], where: str) -> T:
    try:
        made: T = _adapter(cls).validate_json(json.dumps(content), strict=True)
    except ValidationError as exc:
        raise_all(_translated(exc, content, where))
        raise  # not reached
    except InputError as exc:  # a field check of the class itself; it knows only the field's name
        raise moved(exc, where) from None
    return made


def _placed(value: Any, hint: Any, where: str, folder: Path | None) -> Any:
    """`value` with its strings made absolute paths where `hint` says that they are paths."""
    if isinstance(value, str) and _is_path(hint):
        path = Path(expand(value, where))
        return str(path if path.is_absolute() or folder is None else (folder.resolve() / path))
    inner = [a for a in get_args(hint) if a is not type(None)]
    if get_origin(hint) in {Union, types.UnionType}:
        containers = [a for a in inner if get_args(a)]
        return _placed(value, containers[0], where, folder) if len(containers) == 1 else value
    if isinstance(value, list) and inner:
        return [_placed(v, inner[0], f"{where}[{i}]", folder) for i, v in enumerate(value)]
    if isinstance(value, dict) and len(inner) == 2:
        return {k: _placed(v, inner[1], joined(where, k), folder) for k, v in value.items()}
    return value


def _is_path(hint: Any) -> bool:
    if get_origin(hint) in {Union, types.UnionType}:
        return Path in get_args(hint) and str not in get_args(hint)
    return hint is Path


def _translated(exc: ValidationError, content: Mapping[str, Any], where: str) -> list[InputError]:
    """One error for each value at fault; the branches of a union are joined by "or"."""
    found: dict[str, tuple[list[str], str]] = {}
    for error in exc.errors(include_url=False):
        missing = error["type"] == "missing"
        loc = error["loc"][:-1] if missing else error["loc"]
        place, value = _locate(loc, content, where)
        if missing:
            place, words, got = _below(place, error["loc"][-1]), "is required", ""
        elif error["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
            words, got = "is not a known key", ""
        else:
            words = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            words, got = _in_yaml_words(words), f", got {shown(value)}"
        said, _ = found.setdefault(place, ([], got))
        if words not in said:
            said.append(words)
    return [SpecError(place, " or ".join(said) + got) for place, (said, got) in found.items()]


def _below(where: str, step: int | str) -> str:
    return f"{where}[{step}]" if isinstance(step, int) else joined(where, step)


def _in_yaml_words(message: str) -> str:
    for pydantic, ours in _WORDS.items():
        message = message.replace(pydantic, ours)
    return message


def _locate(loc: tuple[int | str, ...], content: Any, where: str) -> tuple[str, Any]:
    """Key path and value that pydantic's `loc` points to; words in it that name branches of a union are left out."""
    value: Any = content
    for step in loc:
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            value, where = value[step], _below(where, step)
        elif isinstance(value, Mapping) and step in value:
            value, where = value[step], _below(where, str(step))
    return where, value
