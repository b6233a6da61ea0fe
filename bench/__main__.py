"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, scrub, space, stalls, volumes

for part in (clones, volumes, gc, space, fuse, stalls, scrub):
    part.main()
