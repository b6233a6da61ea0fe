"""The program that owns a store while it runs: grouped commits, and the front ends.

``Client`` (service/client.py) is its door for Python programs.
"""

from service.client import Client, JobHandle

__all__ = ["Client", "JobHandle"]
