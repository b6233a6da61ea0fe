"""atheris on one target: ``fuzz_python.py TARGET [options of libFuzzer] DIR...``."""

import sys

import atheris

with atheris.instrument_imports(
    include=["engine", "service.rpc", "service.addresses", "hypervisor", "nfsgw"]
):
    from targets import TARGETS, close


def main() -> None:
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    try:
        atheris.Fuzz()
    finally:
        close()


if __name__ == "__main__":
    main()
