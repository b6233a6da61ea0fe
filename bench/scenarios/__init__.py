"""The questions, a module each, in the order they are asked."""

from bench.harness.scenario import Scenario
from bench.scenarios.beside import Beside
from bench.scenarios.boot import Boot
from bench.scenarios.clone_size import CloneSize
from bench.scenarios.cold import Cold
from bench.scenarios.command import Command
from bench.scenarios.data_path import DataPath
from bench.scenarios.datastore import Datastore
from bench.scenarios.deleting import Deleting
from bench.scenarios.duplicate import Duplicate
from bench.scenarios.fragmentation import Fragmentation
from bench.scenarios.generation import Generation
from bench.scenarios.growth import Growth
from bench.scenarios.many import Batch, Concurrency
from bench.scenarios.mark import Mark
from bench.scenarios.memory import Memory
from bench.scenarios.metadata import Metadata
from bench.scenarios.nfs import Nfs
from bench.scenarios.space import Dedup, Space
from bench.scenarios.vms import Vms

SCENARIOS: tuple[type[Scenario], ...] = (
    CloneSize, Fragmentation, Generation, Batch, Concurrency, Command, Datastore, Space, Dedup,
    DataPath, Duplicate, Beside, Cold, Nfs, Deleting, Growth,
    Metadata, Memory, Mark, Vms, Boot,
)  # fmt: skip
