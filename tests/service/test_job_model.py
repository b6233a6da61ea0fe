"""Jobs against a model, as Hypothesis drives them."""

from hypothesis import HealthCheck, settings
from job_machine import JobMachine

TestJobs = JobMachine.TestCase
TestJobs.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
