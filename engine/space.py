"""Space figures of a whole store."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Space:
    """Space figures of the whole store, in bytes; all O(volumes) to compute."""

    logical_bytes: int  # the sum of all file sizes
    referenced_bytes: int  # mapped blocks, counted in every file and volume that maps them
    physical_bytes: int  # allocated slots
    metadata_bytes: int
    free_bytes: int  # for new blocks: of the host file system, and free slots that take space on it
    volumes: int
    snapshots: int
    files: int
