"""``python -m cli`` is the ``ramet`` command."""

from cli.main import main

main()
