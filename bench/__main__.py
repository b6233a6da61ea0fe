"""``python -m bench``: every measurement there is."""

from bench import (
    clones,
    datapath,
    flat,
    gc,
    index,
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
    clones, jobs, volumes, vms, machines, gc, space, datapath, flat, index, nfs, nfs_clone,
    nfs_guest, stalls, scrub,
)  # fmt: skip
for part in PARTS:
    part.main()
