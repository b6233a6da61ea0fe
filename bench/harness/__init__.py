"""The benchmark's frame: what a peer and a scenario are, who runs them, what comes out.

It knows no scenario by name, and of peers only that Ramet's begin with ``ramet``; those are modules
of ``bench.peers`` and ``bench.scenarios``, or files of a lab's own.
"""
