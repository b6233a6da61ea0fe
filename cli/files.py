"""Commands on files and directories: in and out, clone, list, remove."""

import os

import click

from cli.running import DRY_RUN, EXACT, Leaf, address, run, run_counted
from cli.waiting import job_options, run_job
from service import clones, operations


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
@click.option("--replace", is_flag=True, help="Replace TARGET if it is there (files).")
@job_options
def clone(
    source: str, target: str, count: int, start: int, replace: bool, wait: bool,
    after: tuple[int, ...],
) -> None:  # fmt: skip
    """Clone a file or directory.  Example: ramet clone lab:/golden 'lab:/web-{n:03d}' --count 20"""
    run_job(
        clones.clone, address(source), address(target), count, start, replace, wait=wait,
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
