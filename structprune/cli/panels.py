"""Options as dataclasses: the parser sees one option a field, and the verb gets its dataclasses filled."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def takes_options(verb: Callable[..., T]) -> Callable[..., T]:
    """Give the parser the options of a verb one by one, and the verb its dataclasses.

    A parameter whose type is a dataclass stands for its fields, nested ones too; a dataclass with a ``PANEL``
    shows them under that title.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     draws: int = 5
        >>> @takes_options
        ... def verb(network: str, options: Options) -> int:
        ...     return options.draws
        >>> list(inspect.signature(verb).parameters)
        ['network', 'draws']
        >>> verb(network="resnet18", draws=7)
        7
    """
    hints = get_type_hints(verb, include_extras=True)
    kinds = {name: hints[name] for name in inspect.signature(verb).parameters}

    @functools.wraps(verb)
    def run(**values: Any) -> T:
        arguments = {
            name: _filled(kind, values) if is_dataclass(kind) else values[name]
            for name, kind in kinds.items()
        }
        return verb(**arguments)

    parameters = list(_parameters(verb, kinds))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def flat(options: object) -> dict[str, Any]:
    """Values of all options by their names, nested ones too."""
    values: dict[str, Any] = {}
    for each in fields(options):  # type: ignore[arg-type]
        value = getattr(options, each.name)
        values |= flat(value) if is_dataclass(value) and not isinstance(value, type) else {each.name: value}
    return values


def _parameters(verb: Callable[..., Any], kinds: Mapping[str, Any]) -> Iterator[inspect.Parameter]:
    for name, kind in kinds.items():
        if is_dataclass(kind):
            yield from _of(kind)
        else:
            default = inspect.signature(verb).parameters[name].default
            yield _parameter(name, kind, default)


def _of(kind: Any, panel: str | None = None) -> Iterator[inspect.Parameter]:
    panel = getattr(kind, "PANEL", panel)
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        if is_dataclass(hints[each.name]):
            yield from _of(hints[each.name], panel)
        else:
            yield _parameter(each.name, _in_panel(hints[each.name], panel), _default(each))


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(each: Field[Any]) -> Any:
    if each.default_factory is not MISSING:
        return each.default_factory()
    return inspect.Parameter.empty if each.default is MISSING else each.default


def _in_panel(annotation: Any, panel: str | None) -> Any:
    """The same annotation, its option shown under a title."""
    kind, *extras = get_args(annotation) or (annotation,)
    if panel is None or not extras or not hasattr(extras[0], "rich_help_panel"):
        return annotation
    option = copy.copy(extras[0])
    option.rich_help_panel = panel
    return Annotated[kind, option]


def _filled(kind: Any, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(
        **{
            each.name: _filled(hints[each.name], values)
            if is_dataclass(hints[each.name])
            else values[each.name]
            for each in fields(kind)
        }
    )
