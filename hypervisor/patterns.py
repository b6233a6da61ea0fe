"""Names of many clones from one pattern: Python's format syntax, made harmless.

``{n}`` and the columns of a variables file are the only fields: no attributes, no indexes, no
conversions, no nested fields, widths of two digits at most.  So a pattern from a stranger can
neither look into an object nor ask for a gigabyte of zeros.
"""

import re
import string
from collections.abc import Mapping

from engine import errors

Value = bool | int | str
_NUMBER = re.compile(r"(0?[0-9]{1,2})?[dxXob]")
_TEXT = re.compile(r"([<>^]?[0-9]{1,2})?s?")
_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")
_WHOLE = re.compile(r"-?[0-9]{1,18}")


def expand(pattern: str, fields: Mapping[str, Value]) -> str:
    """The pattern with its fields filled in; InvalidArgument says what is wrong with it."""
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise errors.InvalidArgument(f"{pattern!r}: {error}; write {{n}} or {{n:03d}}") from None
    done = []
    for text, field, form, conversion in parts:
        done.append(text)
        if field is not None:
            if field not in fields or conversion:
                known = ", ".join(f"{{{name}}}" for name in fields)
                what = field + (f"!{conversion}" if conversion else "")
                raise errors.InvalidArgument(f"{pattern!r} has {{{what}}}; write {known}")
            done.append(_filled(pattern, field, form or "", fields[field]))
    return "".join(done)


def _filled(pattern: str, field: str, form: str, value: Value) -> str:
    number = _number(value)
    if (
        number is not None
        and form
        and _NUMBER.fullmatch(form if form[-1:].isalpha() else f"{form}d")
    ):
        return format(number, form)
    if not _TEXT.fullmatch(form):
        raise errors.InvalidArgument(
            f"{pattern!r}: {form!r} is no form for {field}, which is {value!r}; write {{n:03d}}"
        )
    text = format(str(value), form)
    if not _PLAIN.fullmatch(text):
        raise errors.InvalidArgument(
            f"{field} is {text[:60]!r}, which cannot stand in a name; "
            "use letters, digits and _ . + -"
        )
    return text


def _number(value: Value) -> int | None:
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else None
    return None if isinstance(value, bool) else value
