"""``ramet vm map`` and ``ramet volume map``.

JSON has all extents; people get sums, and all of them with ``--extents``.  Both are written as
they come, so that a map may be larger than memory.
"""

from collections.abc import Callable, Iterator
from typing import Any

import click

from cli.later import extents, maps, volume_maps
from cli.output import Stream, show, stream_json, table, text
from cli.running import CONNECT, EXACT, Leaf, address, session, uri
from cli.settings import settings

EXTENTS = click.option("--extents", "every", is_flag=True, help="List all extents.")
Call = Callable[..., Any]
Row = dict[str, Any]
SUMS = ("size_bytes", "extent_count", "mapped_bytes", "shared_bytes")


@click.command("map", cls=Leaf)
@click.argument("directory", required=False)
@click.option("--domain", help="Any domain of this name instead of a VM of the store.")
@EXTENTS
@EXACT
@CONNECT
def vm_map(
    directory: str | None, domain: str | None, every: bool, exact: bool, connect: str | None
) -> None:  # fmt: skip
    """Follow a VM's disks to files and to the slots that hold their bytes.

    Shared: bytes that another file, snapshot or clone may have as well; unique: what deleting the
    file frees.

    Example: ramet vm map --domain web-001 -c qemu:///system --extents
    """
    if (directory is None) == (domain is None):
        raise click.UsageError("give a VM's directory or --domain NAME")
    where = None if directory is None else address(directory)
    with session(exact=exact) as call:
        result = call(maps.vm_map, where, domain, uri(connect))
        if settings().as_json:
            stream_json(result | {"images": [_with_extents(call, row) for row in result["images"]]})
        elif not settings().quiet:
            _show_vm(call, result, every=every)


@click.command("map", cls=Leaf)
@click.argument("name")
@EXTENTS
@click.option("--hosts", "ask", is_flag=True, help="Ask known hosts which domains use its files.")
@EXACT
@click.pass_context
def volume_map(ctx: click.Context, name: str, every: bool, ask: bool, exact: bool) -> None:
    """Where a volume's files, or one file, are presented, and where their bytes lie.

    A file: ramet volume map lab:/web.raw --extents

    Example: ramet volume map lab --hosts
    """
    one = ":" in name or name.startswith("/")
    if (one and ask) or (every and not one and not settings().as_json):
        raise click.UsageError("--hosts goes with a volume, --extents with a file, VOL:/path")
    with session(exact=exact) as call:
        if one:
            _one_file(call, address(name), every=every)
            return
        domains = call(volume_maps.volume_domains, name) if ask else None
        _whole_volume(call, name, domains, every=every)
    for reason in domains["not_answered"] if domains else []:
        click.echo(f"ramet: host {reason}", err=True)
        ctx.exit(3)


def _with_extents(call: Call, row: Row) -> Row:
    """A file's row and its extents; they are asked for when they are written."""
    if row["file"] is None:
        return row | {"extents": []}
    return row | {"extents": Stream(extents.extents(call, row["volume"], row["inode"]))}


def _one_file(call: Call, where: str, *, every: bool) -> None:
    result = call(volume_maps.file_map, where)
    if settings().as_json:
        stream_json(_with_extents(call, result))
    elif not settings().quiet:
        show({key: value for key, value in result.items() if key not in ("volume", "inode")})
        if every:
            _show_extents(call, result)


def _whole_volume(call: Call, name: str, domains: Row | None, *, every: bool) -> None:
    result = call(volume_maps.volume_map, name)
    totals: Row = {}
    rows = volume_maps.files(call, name, totals)
    if settings().as_json:
        if every:
            rows = (_with_extents(call, row) for row in rows)
        stream_json(result | {"files": Stream(rows), "totals": totals} | (domains or {}))
    elif not settings().quiet:
        show(result)
        click.echo()
        _show_files(rows)
        click.echo(_line(totals | {"unique_bytes": None, "vm": None, "shares": []},
                         f"{totals['files']} files"))  # fmt: skip
        if domains and domains["domains"]:
            click.echo()
            table(domains["domains"])


# --- for people


def _show_vm(call: Call, result: Row, *, every: bool) -> None:
    show({key: value for key, value in result.items() if key != "images"})
    click.echo()
    table([
        {"disk": row["target"] + "+" * row["level"], "via": row["via"], "format": row["format"],
         "file": row["file"], "size_bytes": row["size_bytes"], "extents": row["extent_count"]}
        | {key: row[key] for key in ("mapped_bytes", "shared_bytes", "unique_bytes", "source")}
        for row in result["images"]
    ])  # fmt: skip
    for row in result["images"]:
        if row["note"]:
            click.echo(f"{row['target']}{'+' * row['level']}: {text('note', row['note'])}")
    for row in result["images"]:
        if every and row["file"] is not None:
            click.echo(f"\n{text('file', row['file'])}")
            _show_extents(call, row)


def _show_extents(call: Call, row: Row) -> None:
    """One a line: where in the file, how long, slab:slot, flags."""
    click.echo(f"{'offset':>16} {'length':>14} {'slab:slot':>16}  flags")
    for each in extents.extents(call, row["volume"], row["inode"]):
        place = "-" if each["hole"] else f"{each['slab']}:{each['slot']}"
        flags = "hole" if each["hole"] else "shared" if each["shared"] else ""
        line = f"{each['offset_bytes']:>16} {each['length_bytes']:>14} {place:>16}  {flags}"
        click.echo(line.rstrip())


def _show_files(rows: Iterator[Row]) -> None:
    words = ("size", "extents", "mapped", "shared", "unique")
    click.echo("".join(f"{word:>11}" for word in words) + f"  {'vm':<16} file")
    for row in rows:
        shares = f"  ({', '.join(row['shares'])})" if row["shares"] else ""
        click.echo(_line(row, text("file", row["file"]) + shares))


def _line(row: Row, last: str) -> str:
    numbers = "".join(f"{text(key, row[key]):>11}" for key in (*SUMS, "unique_bytes"))
    return f"{numbers}  {text('vm', row['vm']):<16} {last}"
