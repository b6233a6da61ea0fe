"""``mount.ramet``: what mount(8) runs for a store.

mount(8) says how it calls a helper (``mount.TYPE SPEC DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]``)
and what exit codes mean; `ramet mount --install-helper` puts this one where it looks.
"""

import getopt
import os
import sys
from dataclasses import replace

from cli.output import printable
from engine import errors
from service import mount_options, mounting

USAGE, FAILED = 1, 32
HOW = "mount.ramet STORE[:VOL[@SNAP]] DIR [-fnsv] [-o OPTIONS]"


def main() -> None:
    """Exit as mount(8) says."""
    try:
        mount(sys.argv[1:])
    except (getopt.GetoptError, errors.InvalidArgument) as error:
        _fail(error, USAGE)
    except (errors.RametError, OSError) as error:
        _fail(error, FAILED)
    sys.exit(0)


def mount(arguments: list[str]) -> None:
    found, words = getopt.gnu_getopt(arguments, "sfnvho:t:N:")
    given = dict(found)
    if "-h" in given or len(words) != 2:
        raise getopt.GetoptError(f"usage: {HOW}")
    texts = [value for name, value in found if name == "-o"]
    options = mount_options.parse(texts, sloppy="-s" in given)
    store, named = mounting.parse_source(words[0])
    volume = named if named is not None else options.volume
    mountpoint = os.path.realpath(words[1])
    if "-f" in given:
        return
    if options.remount:
        mounting.remount(mountpoint, options)
        return
    source = options.source or (store if named is None else f"{store}:{named}")
    told = replace(options, volume=volume, source=source)
    mounting.mount(store, volume, mountpoint, told)


def _fail(error: Exception, code: int) -> None:
    name = os.path.basename(sys.argv[0])
    sys.stderr.write(f"{name}: {printable(str(error))}\n")
    sys.exit(code)
