"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, jobs, scrub, space, stalls, volumes

for part in (clones, jobs, volumes, gc, space, fuse, stalls, scrub):
    part.main()
