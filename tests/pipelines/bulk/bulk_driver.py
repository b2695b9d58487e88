"""A driver in a process of its own, to be killed."""

from bulk_helpers import HashSpec, arm
from distributed import Client

from idlegrid.pipelines.bulk import BulkJob


def drive(scheduler: str, source: str, target: str, point: str) -> None:
    """Run the job on the grid of `scheduler`, and die at a failpoint."""
    arm(point)
    with Client(scheduler) as client:
        BulkJob(spec=HashSpec(), source=source, target=target, column="text", unit_rows=25).run(client)
