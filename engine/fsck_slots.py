"""fsck of slots: bitmaps against what maps say, and slab files against both."""

from engine.findings import Report
from engine.fsck_maps import Slots, ones
from engine.meta import Reader, unpack_chunk_key
from engine.owners import Owners
from engine.stored import Source
from engine.superblock import BLOCK_BYTES
from native.audit import Audit

SLOTS_PER_CHUNK = 8192
HALF_CHUNK = SLOTS_PER_CHUNK // 8
NAMED_MAX = 1000  # slots of one check and slab that are named


class SlotsCheck:
    """The checks of all slots of one commit, after its maps have been walked."""

    def __init__(
        self, source: Source, reader: Reader, report: Report, slots: Slots, slabs: int
    ) -> None:  # fmt: skip
        self._source = source
        self._reader = reader
        self.report = report
        self.find = report.find
        self.slots = slots
        self.slabs = slabs
        self.per_slab = source.superblock.slab_slots

    def run(self, slabs_said: int) -> None:
        """``slabs_said``: the counter; there may be fewer files."""
        self._allocation(self.chunks(slabs_said))

    def chunks(self, slabs_said: int) -> dict[int, tuple[int, int]]:
        """(allocated, shared) bits of each slab, as numbers."""
        found: dict[int, tuple[int, int]] = {}
        per_slab = self.per_slab
        for key, raw in self._reader.items("slots"):
            where = f"slots {key.hex()}"
            if len(key) != 8 or len(raw) != 2 * HALF_CHUNK:
                self.find("F14", where, "it does not parse")
                continue
            slab, chunk = unpack_chunk_key(key)
            allocated, shared = (
                int.from_bytes(half, "little") for half in (raw[:HALF_CHUNK], raw[HALF_CHUNK:])
            )
            room = min(max(per_slab - chunk * SLOTS_PER_CHUNK, 0), SLOTS_PER_CHUNK)
            if (allocated | shared) >> room or slab >= slabs_said:
                self.find("F14", where, "bits of slots that there are not")
            if shared & ~allocated:
                self.find("F14", where, "shared bits of slots that are not allocated")
            if slab < self.slabs and room:
                keep, shift = (1 << room) - 1, chunk * SLOTS_PER_CHUNK
                old = found.get(slab, (0, 0))
                found[slab] = (
                    old[0] | (allocated & keep) << shift, old[1] | (shared & keep) << shift,
                )  # fmt: skip
        return found

    def _allocation(self, bits: dict[int, tuple[int, int]]) -> None:
        slots, per_slab = self.slots, self.per_slab
        wrong: dict[int, tuple[str, str]] = {}
        for slab in range(self.slabs):
            first = slab * per_slab
            mapped = slots.cut(slots.mapped, first, per_slab)
            again = slots.cut(slots.again, first, per_slab)
            owned = slots.cut(slots.owned, first, per_slab)
            allocated, shared = bits.get(slab, (0, 0))
            self.report.blocks += mapped.bit_count()
            self.report.garbage_slots += (allocated & ~mapped).bit_count()
            for slot in ones(mapped & ~allocated, NAMED_MAX):
                wrong[first + slot] = ("F8", f"slot {slab}:{slot} is mapped but not allocated")
            for slot in ones(owned & again & ~shared & allocated, NAMED_MAX):
                wrong[first + slot] = ("F9", f"slot {slab}:{slot} is owned, mapped twice, unshared")
            file = self._source.slabs.file(slab)
            length = file.stat().st_size if file.is_file() else 0
            if length < mapped.bit_length() * BLOCK_BYTES:
                problem = f"{file} has {length} bytes; slot {mapped.bit_length() - 1} is mapped"
                self.find("F15", f"slab {slab}", problem)
        self._name(wrong)

    def _name(self, wrong: dict[int, tuple[str, str]]) -> None:
        """Findings for slots, under the names of the files that have them."""
        if not wrong:
            return
        wanted = bytearray(len(self.slots.mapped))
        for address in wrong:
            wanted[address >> 3] |= 1 << (address & 7)
        block = self._source.superblock
        audit = Audit(hash_seed=block.hash_seed, fanout=block.fanout, slab_slots=block.slab_slots)
        told: set[int] = set()
        walk = Owners(
            audit, self._reader, block.hash_seed, wanted, lambda address, _: address in wrong
        )
        for owner in walk.run():
            for hit in owner.hits:
                if not hit.lost and hit.address not in told:
                    told.add(hit.address)
                    name, problem = wrong[hit.address]
                    self.find(name, f"{owner} block {hit.block}", problem)
