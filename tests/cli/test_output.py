"""What a person sees: names that are more than text, an interrupted command."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command import Ramet

from cli.local import run_local
from cli.main import main
from cli.output import lines, printable, table
from cli.settings import Settings
from engine import ROOT_INO, Store, errors
from service.addresses import Context
from service.steps import Steps, durable

HOSTILE = "\x1b]0;owned\x07\r\n\u202egnp.\udcff"
SHOWN = "\\x1b]0;owned\\x07\\r\\n\\u202egnp.\\udcff"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as opened, click.Context(main, obj=Settings()):
        opened.create_volume("lab")
        opened.commit()
        yield opened


def test_no_name_reaches_the_terminal_as_it_is(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable(HOSTILE) == SHOWN
    table([{"name": HOSTILE, "macs": [HOSTILE]}])
    lines("snapshots", [HOSTILE])
    lines("name", HOSTILE.replace("\n", ""))
    lines("xml", f"<a>\n\t{HOSTILE}</a>")
    out = capsys.readouterr().out
    assert out.count("owned") == 5
    assert all(c.isprintable() or c in "\n\t" for c in out)


def test_an_error_is_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    cli = Ramet(tmp_path / "store")
    cli.run("init", cli.store)
    cli.run("volume", "create", "lab")
    stderr = cli.run("ls", "lab:/x\n\x1b[31m", code=12).stderr
    assert stderr.endswith("\n")
    assert all(c.isprintable() for c in stderr[:-1])


def test_an_interrupted_command_undoes_and_stores_what_it_did(store: Store) -> None:
    told: list[str] = []

    def half(context: Context) -> Steps[None]:
        lab = context.store.volume("lab")
        lab.mkdir(ROOT_INO, b"half", 0o755, 0, 0)
        yield durable
        try:
            os.kill(os.getpid(), signal.SIGINT)
            lab.mkdir(ROOT_INO, b"whole stretch", 0o755, 0, 0)
            yield None
        except Exception as error:
            told.append(str(error))
            lab.rmdir(ROOT_INO, b"half")
            yield durable  # undoing is not interrupted again
            lab.rmdir(ROOT_INO, b"whole stretch")
            raise

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(errors.Busy, match="interrupted"):
        run_local(store, half)
    assert len(told) == 1
    assert store.volume("lab").readdir(ROOT_INO) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_ends_a_pass_and_a_second_one_ends_at_once(store: Store) -> None:
    def passing(context: Context) -> Steps[None]:
        reader = context.store.pool.reader()

        def visit() -> None:
            signal.raise_signal(signal.SIGINT)
            while True:
                list(reader.node_ids())

        try:
            yield visit
        except errors.Busy:
            signal.raise_signal(signal.SIGINT)
            raise
        finally:
            reader.close()

    with pytest.raises(KeyboardInterrupt):
        run_local(store, passing)
