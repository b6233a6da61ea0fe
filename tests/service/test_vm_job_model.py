"""Jobs on VMs that are there, against a model (tests/support/vm_job_machine.py)."""

from hypothesis import HealthCheck, settings
from vm_job_machine import VmJobMachine

TestVmJobs = VmJobMachine.TestCase
TestVmJobs.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
