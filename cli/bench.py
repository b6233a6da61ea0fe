"""``ramet bench``: this host, what people would use instead, and Ramet, side by side."""

import shlex
import sys
from pathlib import Path

import click

from cli.later import benchmark
from cli.output import show
from cli.running import Branch
from cli.settings import common_options, settings

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class Optional(Branch):
    """A command with subcommands, which runs without one too."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.params += common_options()


def names(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """``a,b`` and two options are the same."""
    return [name for value in values for name in value.split(",") if name]


def directories(
    _ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Path]:  # fmt: skip
    told = {}
    for value in values:
        peer, equals, path = value.partition("=")
        if not equals or not Path(path).is_dir():
            raise click.BadParameter(f"{value} is not PEER=DIRECTORY, as xfs=/srv/xfs")
        told[peer] = Path(path).absolute()
    return told


@click.group(cls=Optional, invoke_without_command=True)
@click.option("--quick", "scale", flag_value="quick", default=True, help="Minutes.  [default]")
@click.option("--full", "scale", flag_value="full", help="Hours: larger, older, more of them.")
@click.option("--tiny", "scale", flag_value="tiny", help="A minute: does it run here at all?")
@click.option("--peers", multiple=True, callback=names, metavar="A,B", help="Only these.")
@click.option("--scenarios", multiple=True, callback=names, metavar="A,B", help="Only these.")
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="At most so many of each.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="For results and report.  [default: ramet-bench-TIME]")  # fmt: skip
@click.option("--folder", type=FOLDER, help="Where peers keep their files.  [default: --out]")
@click.option("--dir", "given", multiple=True, callback=directories, metavar="PEER=DIR",
              help="A directory for a peer, in place of a loop device.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Peers, scenarios of your own.")
@click.option("--list", "listing", is_flag=True, help="Which peers and scenarios there are.")
@click.pass_context
def bench(ctx: click.Context, /, listing: bool, **told: object) -> None:
    """Measure Ramet against what you would use instead, on this host; needs no store.

    Example: ramet bench --quick --peers ramet,xfs,qcow2 --out report
    """
    if ctx.invoked_subcommand is not None:
        return
    if listing:
        show(benchmark.listing(told["plugins"]))  # type: ignore[arg-type]
        return
    words = shlex.join(["ramet", *sys.argv[1:]])
    wish = benchmark.Wish(**told, command=words, quiet=settings().quiet)  # type: ignore[arg-type]
    sys.exit(benchmark.bench(wish, as_json=settings().as_json))


@bench.command("compare")
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option("--all", "all_lines", is_flag=True, help="Also what has not changed.")
def bench_compare(before: Path, after: Path, all_lines: bool) -> None:
    """What changed beyond noise; exit code 1 when Ramet got worse.

    Example: ramet bench compare old/results.json new/results.json
    """
    sys.exit(1 if benchmark.bench_compare(before, after, all_lines=all_lines) else 0)


COMMANDS = (bench,)
