"""Templates of cloud-init files: ``{{ name }}``, filled in for each clone.

The form is Jinja's, and that much of it only: a name, and after ``|`` one of two filters.  ``$``
would collide with every shell script and ``{}`` with every flow mapping of YAML.  Other things in
double braces (``{{ ds.meta_data }}`` for cloud-init, ``{{.ID}}`` for docker) stay as they are.

| form | what is put in |
|---|---|
| ``{{ x }}`` | the value as it is |
| ``{{ x | tojson }}`` | the value in JSON, a quoted string of YAML: right for any text |
| ``{{ x | quote }}`` | the value as one word of a shell |

A value must not become YAML's structure (``a: b``, ``# c``) and must not change its type behind
one's back (``no`` is a boolean, ``0123`` is 83, ``22:22`` is 1342).  So a YAML document is read
twice, with placeholders and with the values, event by event: anything that differs but the values
is an error that says where and what to write.
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from engine import errors
from hypervisor.patterns import Value

BYTES_MAX = 1 << 20
_FIELD = re.compile(r"\{\{ *([A-Za-z_][A-Za-z0-9_]*) *(?:\| *([A-Za-z_]+) *)?\}\}")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_DECIMAL = re.compile(r"0|-?[1-9][0-9]*")
_STRING = "tag:yaml.org,2002:str"
_INT = "tag:yaml.org,2002:int"


def as_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_FILTERS: dict[str, Callable[[Value], str]] = {
    "": as_text,
    "tojson": lambda value: json.dumps(value, ensure_ascii=False),
    "quote": lambda value: shlex.quote(as_text(value)),
}


class Template:
    """A text with fields.  ``what`` is what the user calls it; ``is_yaml``: read as such.

    InvalidArgument for a filter that is not there, and for YAML that is none.
    """

    def __init__(self, what: str, text: str, *, is_yaml: bool) -> None:
        self.what = what
        self.text = text
        self._fields = [(m[1], m[2] or "", m[0]) for m in _FIELD.finditer(text)]
        for name, filter_, whole in self._fields:
            if filter_ not in _FILTERS:
                raise errors.InvalidArgument(
                    f"{what}: {whole} has the filter {filter_!r}; there are tojson and quote "
                    f"(for {name} as it is: {{{{ {name} }}}})"
                )
        self._events = self._parse(self._with_placeholders()) if is_yaml else None

    @property
    def names(self) -> set[str]:
        """The variables that it needs."""
        return {name for name, _, _ in self._fields}

    def check_names(self, known: set[str]) -> None:
        """InvalidArgument that names the variables nobody sets."""
        unknown = sorted(self.names - known)
        if unknown:
            raise errors.InvalidArgument(
                f"{self.what} needs {', '.join(unknown)}; there is {', '.join(sorted(known))} "
                "(more come from the columns of --var)"
            )

    def render(self, values: Mapping[str, Value]) -> str:
        """The text for one clone.  InvalidArgument for a value that YAML would misread."""
        self.check_names(set(values))
        if not self._fields:
            return self.text
        done = _FIELD.sub(lambda m: _FILTERS[m[2] or ""](values[m[1]]), self.text)
        if len(done) > BYTES_MAX:
            raise errors.TooLarge(f"{self.what} becomes {len(done)} bytes; at most {BYTES_MAX}")
        if self._events is not None:
            self._compare(self._events, done, values)
        return done

    def keys(self) -> set[str]:
        """The keys at the top of a YAML document; InvalidArgument when it is no mapping."""
        root = yaml.compose(self._with_placeholders(), Loader=_LOADER)
        if not isinstance(root, yaml.MappingNode):
            raise errors.InvalidArgument(f"{self.what} must be a YAML mapping")
        return {str(key.value) for key, _ in root.value}

    def _placeholder(self, n: int) -> str:
        return f"RametVariable{n:06d}x"

    def _with_placeholders(self) -> str:
        order = iter(range(len(self._fields)))
        return _FIELD.sub(lambda m: _FILTERS[m[2] or ""](self._placeholder(next(order))), self.text)

    def _parse(self, text: str) -> list[Any]:
        try:
            return list(yaml.parse(text, Loader=_LOADER))
        except (yaml.YAMLError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise errors.InvalidArgument(f"{self.what} is no YAML: {reason}") from None

    def _compare(self, events: list[Any], text: str, values: Mapping[str, Value]) -> None:
        """``text`` must be ``events`` with the placeholders replaced, and nothing else."""
        expected = {}
        for n, (name, filter_, _) in enumerate(self._fields):
            plain = "" if filter_ == "tojson" else filter_
            expected[self._placeholder(n)] = (name, _FILTERS[plain](values[name]))
        made = self._parse_values(text)
        for old, new in zip(events, made, strict=False):
            if type(old) is not type(new):
                break
            if not isinstance(old, yaml.ScalarEvent):
                continue
            wanted, used = old.value, []
            for token, (name, value) in expected.items():
                if token in wanted:
                    wanted = wanted.replace(token, value)
                    used.append(name)
            if new.value != wanted or new.style != old.style:
                break
            if used and new.implicit[0]:
                self._check_type(used[0], new.value)
        else:
            if len(events) == len(made):
                return
        raise errors.InvalidArgument(
            f"{self.what}: a value would change the structure of the YAML; "
            f"write {{{{ {self._suspect(values)} | tojson }}}}, without quotes around it"
        )

    def _parse_values(self, text: str) -> list[Any]:
        try:
            return list(yaml.parse(text, Loader=_LOADER))
        except (yaml.YAMLError, RecursionError):
            return []

    def _suspect(self, values: Mapping[str, Value]) -> str:
        """The variable whose value looks least like a plain word."""
        names = [name for name, filter_, _ in self._fields if filter_ != "tojson"]
        return min(names or ["x"], key=lambda name: _plainness(as_text(values.get(name, ""))))

    def _check_type(self, name: str, text: str) -> None:
        tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
        if tag == _STRING or (tag == _INT and _DECIMAL.fullmatch(text)):
            return
        kind = tag.rpartition(":")[2]
        raise errors.InvalidArgument(
            f"{self.what}: {name} is {text!r}, which YAML reads as {kind}; "
            f"write {{{{ {name} | tojson }}}}"
        )


def _plainness(text: str) -> float:
    return sum(c.isalnum() or c in "._-" for c in text) / len(text) if text else 0.0
