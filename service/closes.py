"""What was closed on the mount before a command began is closed for the command.

close(2) on a FUSE file returns when the kernel has queued its RELEASE; the command that somebody
runs next can overtake that on its way here, and would be refused because of a file that nobody has
open.  The kernel hands its requests over in order, so when it has an answer to one that was asked
later, those before it have been read.
"""

import os
from functools import partial

from engine import Volume
from service.addresses import Context
from service.steps import Steps


def closes_arrive(context: Context, volume: Volume) -> Steps[None]:
    """Before one looks whether files of the volume are open: let what is under way come in.

    RELEASE is a background request, of which the kernel hands over a dozen at a time: one asks
    again for as long as that lets files go.
    """
    before = volume.held + 1
    while context.own_mount is not None and 0 < volume.held < before:
        before = volume.held
        yield partial(os.statvfs, context.own_mount)
