"""The FUSE front end: a store's volumes as a file system, with pyfuse3 on trio."""

from fusefs import extra  # before pyfuse3: it stands in front of libfuse  # noqa: F401
