"""Settings from a TOML file and `--set a.b=c`, checked against a frozen dataclass, and back to TOML.

The dataclass says it all: its fields are the keys, its annotations the types, its nested dataclasses the tables, its
own checks the ranges, and the text under each field the meaning. Every error names the file (or `--set`), the key and
the mend.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import math
import sys
import textwrap
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from retinafocus.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Config = TypeVar("Config")

Named = Mapping[type, Mapping[str, Any]]
"""For dataclasses that have named examples: TOML may give such a name in place of the table."""

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def read_settings(kind: type[Config], path: Path, overrides: Sequence[str] = (), named: Named | None = None) -> Config:
    """Read and check settings.

    Args:
        kind: a frozen dataclass whose fields all have defaults.
        path: the TOML file. A table changes only the keys it names.
        overrides: `a.b=c` each, applied in order. c is a TOML value; what is none is a text.
        named: see `Named`.

    Raises:
        SettingsError: the file is missing or no TOML, or a key is unknown, of another type or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as settings ({error}); ready ones are in configs/") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # the latter for thousands of brackets
        raise SettingsError(f"{path}: this is no TOML: {error}") from error
    overridden = set()
    for override in overrides:
        overridden.add(_override(values, override))
    return settings_of(kind, values, str(path), overridden, named)


def settings_of(
    kind: type[Config],
    values: Mapping[str, Any],
    origin: str,
    overridden: Collection[str] = (),
    named: Named | None = None,
) -> Config:
    """Check values as parsed from TOML; `origin` is named in errors, but for keys that were `overridden`.

    Raises:
        SettingsError: as `read_settings`.
    """
    settings: Config = _Reader(origin, set(overridden), named or {}).record(kind(), values, "")
    return settings


def assignment(key: str, text: str) -> str:
    """An override that sets a key to a text, whatever is in it."""
    return f"{key}={json.dumps(text)}"


def _override(values: dict[str, Any], override: str) -> str:
    """Put `a.b=c` into the nested values; returns "a.b"."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise SettingsError(f"--set {override}: write KEY=VALUE with dots for tables, such as --set loop.steps=500")
    table = values
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {override}: {part} is a value and has no keys of its own")
        table = inner
    try:
        table[parts[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[parts[-1]] = text
    return ".".join(parts)


class _Reader:
    """Turns parsed TOML into the types of a dataclass, and knows where each value came from."""

    def __init__(self, origin: str, overridden: set[str], named: Named) -> None:
        self.origin = origin
        self.overridden = overridden
        self.named = named

    def record(self, default: Any, table: Mapping[str, Any], key: str) -> Any:
        """The dataclass instance `default` with the values of the table; `key` is the table's dotted name."""
        hints = get_type_hints(type(default))
        values = {}
        for name, value in table.items():
            inner = f"{key}.{name}" if key else name
            if name not in hints:
                near = difflib.get_close_matches(name, hints, n=1)
                there = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
                raise self.error(inner, f"there is no such setting; {there}")
            values[name] = self.value(hints[name], getattr(default, name), value, inner)
        try:
            return dataclasses.replace(default, **values)
        except SettingsError as error:
            where = f"table [{key}]" if key else "top level"
            given = [name for name in self.overridden if name.rpartition(".")[0] == key]
            origin = f"--set {', '.join(sorted(given))}" if given else self.origin
            raise SettingsError(f"{origin}: {where}: {error}") from error

    def value(self, hint: Any, default: Any, value: Any, key: str) -> Any:
        """One value as its annotation wants it."""
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):  # X | None: what is left out stays as it is
            (hint,) = (each for each in get_args(hint) if each is not type(None))
            origin = get_origin(hint)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.table(hint() if default is None else default, value, key)
        if origin is Literal:
            return self.choice(get_args(hint), value, key)
        if origin is tuple:
            return self.row(get_args(hint), value, key)
        if origin is not None:  # a mapping of numbers by name
            if not isinstance(value, dict):
                raise self.error(key, f"is {_shown(value)}; give a table of numbers by name")
            return {name: self.value(get_args(hint)[1], None, item, f"{key}.{name}") for name, item in value.items()}
        if hint is float and type(value) is int:
            return float(value)
        if type(value) is not hint:
            raise self.error(key, f"is {_shown(value)}; give {KINDS[hint]}")
        if hint is float and not math.isfinite(value):
            raise self.error(key, f"is {value}; give a finite number")
        return value

    def table(self, default: Any, value: Any, key: str) -> Any:
        named = self.named.get(type(default), {})
        if isinstance(value, dict):
            return self.record(default, value, key)
        if named:
            return named[self.choice(tuple(named), value, key)]
        raise self.error(key, f"is {_shown(value)}; it is a table, write its keys under [{key}]")

    def choice(self, choices: tuple[Any, ...], value: Any, key: str) -> Any:
        if value not in choices:
            raise self.error(key, f"is {_shown(value)}; choose one of {', '.join(map(str, choices))}")
        return value

    def row(self, hints: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise self.error(key, f"is {_shown(value)}; give a list in square brackets")
        if hints[-1] is Ellipsis:
            hints = (hints[0],) * len(value)
        if len(hints) != len(value):
            raise self.error(key, f"is {_shown(value)}; give {len(hints)} values in square brackets")
        listed = enumerate(zip(hints, value, strict=True))
        return tuple(
            self.value(hint, None, item, f"{key}.{number}" if isinstance(item, dict) else key)
            for number, (hint, item) in listed
        )

    def error(self, key: str, message: str) -> SettingsError:
        # The key itself, one above it, or one below it, which made a table of it.
        from_command = any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in self.overridden)
        return SettingsError(f"{'--set' if from_command else self.origin}: {key}: {message}")


def _shown(value: Any) -> str:
    return _toml(value) if not isinstance(value, dict) else "a table"


def settings_toml(config: Any, *, meanings: bool = False) -> str:
    """All settings as TOML that `read_settings` reads back to an equal dataclass.

    Args:
        config: the dataclass instance. What is None is left out.
        meanings: put the text under each field before it, as a comment.
    """
    return "\n".join(_lines(config, "", meanings)).strip() + "\n"


def _lines(config: Any, key: str, meanings: bool) -> list[str]:
    texts = field_meanings(type(config)) if meanings else {}
    values, tables = [], []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = f"{key}.{field.name}" if key else field.name
        # An empty prefix keeps "#" lines of a long text apart from the line before it.
        comment = [f"# {line}" for line in textwrap.wrap(texts.get(field.name, ""), 110)]
        if dataclasses.is_dataclass(value):
            tables += ["", *comment, f"[{inner}]", *_lines(value, inner, meanings)]
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for number, each in enumerate(value):
                tables += ["", *(comment if number == 0 else ()), f"[[{inner}]]", *_lines(each, inner, meanings)]
        elif value is None:  # TOML has no word for it: a key that is left out
            values += comment
        else:
            values += [*comment, f"{field.name} = {_toml(value)}"]
    return values + tables


def field_meanings(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass, in one line each."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        items = [f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items()]
        return "{" + ", ".join(items) + "}"
    # TOML's texts, numbers and booleans are written as JSON writes them.
    return json.dumps(value, default=str)
