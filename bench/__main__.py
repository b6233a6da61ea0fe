"""``python -m bench``: every measurement there is."""

from bench import (
    clones,
    fuse,
    gc,
    jobs,
    machines,
    nfs,
    nfs_clone,
    nfs_guest,
    scrub,
    space,
    stalls,
    vms,
    volumes,
)

PARTS = (
    clones, jobs, volumes, vms, machines, gc, space, fuse, nfs, nfs_clone, nfs_guest, stalls, scrub,
)  # fmt: skip
for part in PARTS:
    part.main()
