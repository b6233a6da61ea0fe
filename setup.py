"""A wheel has the C parts compiled, for one Python and one kind of machine, and their sources.

All else is in pyproject.toml.  An editable install leaves compiling to ``make setup``.
"""

import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

BUILDERS = "native/build.py", "fusefs/build.py", "nfsgw/build.py"
ON_THE_WAY = "native/_core.c", "native/_core.o", "nfsgw/_again.c", "nfsgw/_again.o"


class WithC(build_py):
    """Each builder compiles beside itself, so the copies do it where the wheel is put together."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        into = Path(self.build_lib)
        for builder in BUILDERS:
            subprocess.run([sys.executable, str(into / builder)], check=True)
        for left in ON_THE_WAY:
            (into / left).unlink(missing_ok=True)


class Compiled(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_py": WithC}, distclass=Compiled)
