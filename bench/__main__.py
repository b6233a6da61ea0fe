"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, space

for part in (clones, gc, space, fuse):
    part.main()
