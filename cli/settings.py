"""What the command was told: options, environment, configuration file, in this order."""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

CONFIG_FILES = ("~/.config/ramet.toml", "/etc/ramet.toml")
KEYS = {"store", "connect"}


def configuration() -> dict[str, str]:
    """The first configuration file there is: ``store`` and ``connect``, both optional."""
    override = os.environ.get("RAMET_CONFIG")
    for name in [override] if override else CONFIG_FILES:
        path = Path(name).expanduser()
        try:
            values = tomllib.loads(path.read_text())
        except FileNotFoundError:
            continue
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{path}: {error}") from None
        for key, value in values.items():
            if key not in KEYS or not isinstance(value, str):
                raise click.UsageError(f"{path}: {key} is not one of {', '.join(sorted(KEYS))}")
        return values
    return {}


@dataclass
class Settings:
    """One per invocation, in the root context."""

    store: str | None = None
    connect: str | None = None
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    config: dict[str, str] = field(default_factory=configuration)

    @property
    def store_path(self) -> str:
        path = self.store or self.config.get("store")
        if path is None:
            raise click.UsageError(
                'say which store: --store DIR, RAMET_STORE, or store = "DIR" in /etc/ramet.toml'
            )
        return os.path.abspath(path)

    @property
    def uri(self) -> str:
        return self.connect or self.config.get("connect") or "qemu:///system"


def settings() -> Settings:
    found: Settings = click.get_current_context().find_root().obj
    return found


def _note(name: str) -> Any:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().ensure_object(Settings)
            setattr(ctx.find_root().obj, name, True)

    return callback


def common_options() -> list[click.Option]:
    """Options that every command takes, before or after its name."""
    texts = {
        ("--json", "as_json"): "Print one JSON document.",
        ("-q", "--quiet"): "Print nothing but errors.",
        ("-v", "--verbose"): "Print where an error came from.",
    }
    return [
        click.Option(
            list(names),
            is_flag=True,
            expose_value=False,
            help=text,
            callback=_note(names[-1].lstrip("-")),
        )
        for names, text in texts.items()
    ]
