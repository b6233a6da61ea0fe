"""Commands on files and directories: in and out, clone, list, remove."""

import os

import click

from cli.block_ranges import RANGE
from cli.later import clones, operations
from cli.running import DRY_RUN, EXACT, Leaf, address, run, run_counted
from cli.waiting import job_options, run_job
from engine.block_range import BlockRange


@click.command("import", cls=Leaf)
@click.argument("file")
@click.argument("target")
@click.option("--format", "form", help="Format of FILE  [default: what its header says]")
@click.option("-p", "--parents", is_flag=True, help="Make the directories above TARGET.")
def import_file(file: str, target: str, form: str | None, parents: bool) -> None:
    """Bring an image in, as raw.  Example: ramet import -p golden.qcow2 lab:/golden/disk.raw"""
    run(operations.import_file, os.path.abspath(file), address(target), form, parents)


@click.command("export", cls=Leaf)
@click.argument("source")
@click.argument("file")
def export_file(source: str, file: str) -> None:
    """Write a file out, raw and sparse.  Example: ramet export lab:/web.raw web.raw"""
    run(operations.export_file, address(source), os.path.abspath(file))


@click.command(cls=Leaf)
@click.argument("source")
@click.argument("target")
@click.option("--count", default=1, show_default=True, help="How many; TARGET then has {n}.")
@click.option("--start", default=1, show_default=True, help="The first n.")
@click.option("--replace", is_flag=True, help="Replace TARGET if it is there.")
@click.option("--force", is_flag=True, help="Replace a directory although files of it are open.")
@click.option(
    "--range", "ranges", type=RANGE, multiple=True, help="Only these blocks of 4 KiB; repeatable."
)
@click.option("--extend", is_flag=True, help="A range may make TARGET larger, or new.")
@job_options
def clone(
    source: str, target: str, count: int, start: int, replace: bool, force: bool,
    ranges: tuple[BlockRange, ...], extend: bool, wait: bool, after: tuple[int, ...],
) -> None:  # fmt: skip
    """Clone a file, a directory, or block ranges of a file into another.

    Example: ramet clone lab:/golden 'lab:/web-{n:03d}' --count 20

    Ranges are cloned all or none, as SOURCE is when it begins, and may overlap in one file.
    Example: ramet clone lab:/root.raw san:/lun0 --range 0:2048:512 --range 512:0:64

    With --replace a directory takes the place of TARGET in one step; a VM stays the VM it is, and
    has to be off.  Example: ramet clone lab@monday:/web-001 lab:/web-001 --replace
    """
    if extend and not ranges:
        raise click.UsageError("--extend is for --range")
    if force and not replace:
        raise click.UsageError("--force is for --replace")
    if ranges:
        if replace or count != 1:
            raise click.UsageError("--range goes into one file; leave out --replace and --count")
        told = [list(each) for each in ranges]
        run_job(clones.clone_ranges, address(source), address(target), told, extend, wait=wait,
                after=after)  # fmt: skip
        return
    run_job(
        clones.clone, address(source), address(target), count, start, replace, force, wait=wait,
        after=after,
    )  # fmt: skip


@click.command(cls=Leaf)
@click.argument("directory")
def ls(directory: str) -> None:
    """List a directory.  Example: ramet ls lab:/"""
    run(operations.ls, address(directory))


@click.command(cls=Leaf)
@click.argument("directory")
@EXACT
def du(directory: str, exact: bool) -> None:
    """Sizes below a directory, and what deleting frees.  Example: ramet du lab:/ --exact"""
    run_counted(exact, operations.du, address(directory))


@click.command(cls=Leaf)
@click.argument("target")
@click.option("-r", "recursive", is_flag=True, help="A directory with all below it.")
@DRY_RUN
def rm(target: str, recursive: bool, dry_run: bool) -> None:
    """Remove a file or directory.  Example: ramet rm -r lab:/web-001"""
    run(operations.rm, address(target), recursive, dry_run)


COMMANDS = (import_file, export_file, clone, ls, du, rm)
