"""The words after -o."""

import pytest

from engine import errors
from service.mount_options import MountOptions, parse


def test_words_of_fstab_that_say_nothing_here_are_taken() -> None:
    usual = (
        "defaults,rw,suid,dev,exec,auto,nouser,async,nosuid,nodev,noauto,user,users,owner,nofail,"
        "_netdev,relatime,nodiratime,strictatime,lazytime,allow_other,x-systemd.automount,"
        "x-gvfs-hide,x-systemd.requires=libvirtd.service,X-mount.mkdir=0755,comment=a,,"
        "subtype=ramet"
    )
    assert parse([usual]) == MountOptions()


def test_flags_are_the_kernels_and_the_later_counts() -> None:
    assert parse(["ro,noexec", "noatime,exec"]).flags == {"ro", "noatime"}
    assert parse(["defaults,ro,rw"]).flags == frozenset()


def test_what_is_ramets_own() -> None:
    found = parse(["volume=lab@monday,real_blocks,nonempty,remount", 'fsname="/a,b:c"'])
    assert found == MountOptions(frozenset(), "lab@monday", "/a,b:c", True, True, True)


def test_options_are_handed_on_as_they_are() -> None:
    for source in ("/srv/store:lab", "/a,b\\c,", "\\,"):
        told = MountOptions(frozenset({"ro", "sync"}), "lab", source, real_blocks=True)
        assert parse([",".join(told.words())]) == told


@pytest.mark.parametrize("word", ["bogus", "volume=", "volume", "fsname", "ro=1", "posixacl"])
def test_an_unknown_word_is_an_error_unless_sloppy(word: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="no mount option"):
        parse([f"ro,{word}"])
    assert parse([f"ro,{word}"], sloppy=True).flags == {"ro"}


def test_poll_us() -> None:
    assert parse(["poll_us=0"]).poll_us == 0
    assert parse(parse(["poll_us=1000,ro"]).words()) == parse(["ro,poll_us=1000"])
    assert parse([]).poll_us is None
    for bad in ("", "-1", "1001", "x", "1.5", "\u0661"):
        with pytest.raises(errors.InvalidArgument, match="0 to 1000 microseconds"):
            parse([f"poll_us={bad}"])
