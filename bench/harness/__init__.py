"""The benchmark's frame: what a peer and a scenario are, who runs them, what comes out.

It knows no peer and no scenario by name; those are modules of ``bench.peers`` and
``bench.scenarios``, or files of a lab's own.
"""
