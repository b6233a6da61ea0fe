"""The states of a job, and how it may go from one to another."""

QUEUED, RUNNING, COMPLETED, FAILED, CANCELLED = STATES = (
    "queued", "running", "completed", "failed", "cancelled",
)  # fmt: skip
MOVES = {
    QUEUED: {RUNNING, FAILED, CANCELLED},
    RUNNING: {COMPLETED, FAILED, CANCELLED},
    COMPLETED: set(),
    FAILED: set(),
    CANCELLED: set(),
}
