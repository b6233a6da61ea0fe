"""``python -m bench``: every measurement there is."""

from bench import (
    clones,
    datapath,
    flat,
    gc,
    index,
    ingest,
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
    clones, jobs, volumes, vms, machines, gc, space, datapath, ingest, flat, index, nfs, nfs_clone,
    nfs_guest, stalls, scrub,
)  # fmt: skip
for part in PARTS:
    part.main()
