"""``python -m bench``: every measurement there is."""

from bench import clones, fuse, gc, jobs, scrub, space, stalls

for part in (clones, jobs, gc, space, fuse, stalls, scrub):
    part.main()
