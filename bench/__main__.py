"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, space

for part in (clones, space, fuse):
    part.main()
