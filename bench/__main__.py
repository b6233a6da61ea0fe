"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, scrub, space, stalls, vms, volumes

for part in (clones, volumes, vms, gc, space, fuse, stalls, scrub):
    part.main()
