"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, jobs, scrub, space, stalls, vms, volumes

for part in (clones, jobs, volumes, vms, gc, space, fuse, stalls, scrub):
    part.main()
