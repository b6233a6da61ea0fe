from chance import EXPLORE, SEED
from hypothesis import settings

import fusefs  # noqa: F401 - before any pyfuse3

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, print_blob=True, deadline=None)
settings.load_profile("explore" if EXPLORE else "same")


def pytest_report_header() -> str:
    return f"seed {SEED}{', hypothesis at random' if EXPLORE else ''}"
