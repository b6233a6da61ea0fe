"""``python -m bench``: every measurement there is."""

from bench import clones

clones.main()
