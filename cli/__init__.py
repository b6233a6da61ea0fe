"""The ``ramet`` command: words, tables and JSON around service.operations.  No logic."""
