"""``python -m bench``: every measurement there is."""

from bench import (
    clones,
    datapath,
    flat,
    index,
    ingest,
    jobs,
    machines,
    nfs,
    nfs_clone,
    nfs_guest,
    scrub,
    stalls,
)

PARTS = (
    clones, jobs, machines, datapath, ingest, flat, index, nfs, nfs_clone, nfs_guest, stalls, scrub,
)  # fmt: skip
for part in PARTS:
    part.main()
