"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, scrub, space

for part in (clones, space, fuse, scrub):
    part.main()
