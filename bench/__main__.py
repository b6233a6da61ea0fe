"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, jobs, machines, nfs, scrub, space, stalls, vms, volumes

for part in (clones, jobs, volumes, vms, machines, gc, space, fuse, nfs, stalls, scrub):
    part.main()
