"""What `-o` says about a mount, in the words of fstab(5).

Three sorts of words: those that are for the kernel, those that are for Ramet, and those that are
for somebody else (mount(8), systemd, what is so in any case) and say nothing here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine import errors

KERNEL = frozenset({"ro", "noexec", "noatime", "sync", "dirsync"})
POLL_US_MAX = 1000
NO_MORE = {"rw": "ro", "exec": "noexec", "atime": "noatime", "async": "sync"}
ELSEWHERE = frozenset({
    "defaults", "auto", "noauto", "user", "users", "nouser", "owner", "group", "nofail", "_netdev",
    "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "iversion",
    "noiversion", "silent", "loud", "nomand", "nosuid", "nodev", "allow_other",
    "default_permissions", "nosymfollow", "suid", "dev",  # nosuid and nodev it is always
    "nodiratime", "diratime",  # reading sets no access time, and libfuse does not know them
})  # fmt: skip
ELSEWHERE_VALUES = ("x-", "X-", "comment=", "uhelper=", "helper=", "subtype=",
                    "user_id=", "group_id=", "max_read=", "user=")  # fmt: skip


@dataclass(frozen=True)
class MountOptions:
    """``volume``: VOL or VOL@SNAP, the only one to be shown; None: all."""

    flags: frozenset[str] = field(default_factory=frozenset)  # of KERNEL
    volume: str | None = None
    source: str | None = None  # what is said to be mounted
    real_blocks: bool = False
    nonempty: bool = False
    remount: bool = False
    poll_us: int | None = None  # service/polling.py; None: as long as it says

    def words(self) -> list[str]:
        """What ``parse`` takes, to hand it on."""
        found = sorted(self.flags)
        found += [f"volume={self.volume}"] if self.volume is not None else []
        found += [f"fsname={_escaped(self.source)}"] if self.source is not None else []
        for name in ("real_blocks", "nonempty", "remount"):
            found += [name] if getattr(self, name) else []
        found += [f"poll_us={self.poll_us}"] if self.poll_us is not None else []
        return found


def parse(texts: Iterable[str], *, sloppy: bool = False) -> MountOptions:
    """The options in comma-separated lists; of two that contradict each other the later counts.

    InvalidArgument for a word that nobody knows, unless ``sloppy``.
    """
    flags: set[str] = set()
    own: dict[str, str | int] = {}
    for word in (word for text in texts for word in _split(text) if word):
        name, _, value = word.partition("=")
        if word in KERNEL:
            flags.add(word)
        elif word in NO_MORE:
            flags.discard(NO_MORE[word])
        elif word in ("real_blocks", "nonempty", "remount"):
            own[word] = True
        elif name == "volume" and value:
            own["volume"] = value
        elif name == "fsname" and value:
            own["source"] = value
        elif name == "poll_us":
            own["poll_us"] = _poll_us(value)
        elif word not in ELSEWHERE and not word.startswith(ELSEWHERE_VALUES) and not sloppy:
            raise errors.InvalidArgument(f"{word!r} is no mount option; see `ramet mount --help`")
    return MountOptions(frozenset(flags), **own)  # type: ignore[arg-type]


def _poll_us(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > POLL_US_MAX:
        raise errors.InvalidArgument(f"poll_us={text}: 0 to {POLL_US_MAX} microseconds")
    return int(text)


def _split(text: str) -> list[str]:
    """Commas part the words, but for those after a backslash and in double quotes."""
    words, quoted, at = [""], False, 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and text[at + 1 : at + 2] in (",", "\\"):
            at += 1
            words[-1] += text[at]
        elif letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            words.append("")
        else:
            words[-1] += letter
        at += 1
    return words


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")
