"""What fsck answers: findings, each under the name that docs/FORMAT.md gives to its invariant."""

from dataclasses import dataclass, field

FINDINGS_MAX = 1000  # of one check; more are counted only

CHECKS = {
    "F1": "superblock and counters parse; every number in use is below its counter",
    "F2": "every node that is reachable exists and is whole",
    "F3": "namespace nodes are a B+tree, and their records parse",
    "F4": "extent nodes are a radix tree with right counts, within their file's size",
    "F5": "a directory entry has both records, and its inode",
    "F6": "links are what names say, and every inode is reached from the root",
    "F7": "entry counts and volume totals are the sums of what is there",
    "F8": "every mapped slot is allocated",
    "F9": "an owned slot that is mapped twice is marked shared",
    "F10": "every mapped block has its checksum",
    "F11": "a node that a tree may change in place has no other reference",
    "F12": "symlink targets, attributes and marks are whole and belong to an inode",
    "F13": "volumes have names of their own, a root directory, and snapshots a volume",
    "F14": "slot bitmaps lie inside their slabs; shared slots are allocated",
    "F15": "slab files are there and hold every mapped slot",
    "F16": "orphans parse, have a volume, and no name in it",
    "F17": "the fingerprint index's files are whole, and of slots that there are",
    "F18": "past its end a file's last block is zero",
    "F19": "records of the layers above have text for a key",
    "F20": "entries of the reclaim queue parse, and name a node of their kind and level",
    "F21": "the intent log has no damaged record before a whole one",
}


@dataclass(frozen=True)
class Finding:
    """One broken invariant: its name in docs/FORMAT.md, where, and what is wrong."""

    check: str
    where: str
    problem: str


@dataclass
class Report:
    """What a check of the whole store found."""

    findings: list[Finding] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)  # findings past FINDINGS_MAX, by check
    nodes: int = 0
    blocks: int = 0
    garbage_slots: int = 0
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.findings

    def count(self, *checks: str) -> int:
        """How many findings of these checks there are."""
        return sum(self._counts.get(check, 0) for check in checks)

    def find(self, check: str, where: str, problem: str) -> None:
        assert check in CHECKS
        count = self._counts[check] = self._counts.get(check, 0) + 1
        if count <= FINDINGS_MAX:
            self.findings.append(Finding(check, where, problem))
        else:
            self.more[check] = count - FINDINGS_MAX
