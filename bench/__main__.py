"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, scrub, space, stalls

for part in (clones, gc, space, fuse, stalls, scrub):
    part.main()
