"""One transaction of a repair: a commit as fsck sees it, and what is to be written over it."""

from dataclasses import dataclass, field

from engine.findings import Report
from engine.fsck import Checker
from engine.meta import STATE_KEY, Reader, id_key
from engine.nodes import BODY_BYTES, Node, encode, record_bytes
from engine.stored import Stored
from engine.superblock import State
from engine.volume_record import VolumeRecord

FILL_BYTES = BODY_BYTES * 3 // 4


@dataclass(frozen=True)
class Repaired:
    """One thing that was put right: the invariant it broke, where, what was done."""

    check: str
    where: str
    done: str


@dataclass
class Result:
    """What a repair did, and what fsck still finds."""

    repaired: list[Repaired] = field(default_factory=list)
    left: Report = field(default_factory=Report)


class Pass:
    """One transaction: reads one commit, collects what is to be written over it."""

    def __init__(self, source: Stored, result: Result) -> None:
        self.source = source
        self.result = result
        self.reader: Reader = source.reader()
        self.report = Report()
        self.checker = Checker(source, self.reader, self.report)
        self.checker.run()
        self.state = State(**vars(self.checker.state))
        self.stored = {
            table: dict(self.reader.items(table)) for table in ("super", "volumes", "slots")
        }
        self.nodes: dict[int, bytes] = {}
        self.puts: dict[tuple[str, bytes], bytes] = {}
        self.deletes: set[tuple[str, bytes]] = set()

    def tell(self, check: str, where: str, done: str) -> None:
        self.result.repaired.append(Repaired(check, where, done))

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.puts[table, key] = value

    def close(self) -> None:
        self.reader.close()

    def write(self) -> None:
        """All of it, or nothing."""
        if self.nodes or self.puts or self.deletes:
            puts = [(table, key, value) for (table, key), value in self.puts.items()]
            self.source.meta.write(self.nodes.items(), (), puts, self.deletes)

    def put_record(self, record: VolumeRecord) -> None:
        key, raw = id_key(record.id), record.pack()
        if self.stored["volumes"].get(key) != raw:
            self.put("volumes", key, raw)

    def build(self, records: list[tuple[bytes, bytes]]) -> int:
        """A new tree of these records; returns its root."""
        level: list[tuple[bytes, object]] = list(records)
        height = 0
        while True:
            made: list[tuple[bytes, object]] = []
            node: Node | None = None
            for key, value in level:
                size = record_bytes(height, key, value)
                full = node is not None and (
                    node.size + size > FILL_BYTES
                    or len(node.keys) >= self.source.superblock.records_max
                )
                if node is None or full:
                    node = Node(self.state.next_node, height, self.state.epoch)
                    self.state.next_node += 1
                    made.append((key, node))
                node.keys.append(key)
                node.vals.append(value)  # type: ignore[arg-type]
                node.size += size
            for _, each in made:
                assert isinstance(each, Node)
                self.nodes[each.id] = encode(each, self.source.superblock.hash_seed)
            level = [(key, each.id) for key, each in made]  # type: ignore[attr-defined]
            if len(level) == 1:
                return level[0][1]  # type: ignore[return-value]
            height += 1

    def store_state(self) -> None:
        packed = self.state.pack()
        if self.stored["super"].get(STATE_KEY) != packed:
            self.put("super", STATE_KEY, packed)
