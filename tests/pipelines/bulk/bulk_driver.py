"""A driver in a process of its own, to be killed: ``bulk_driver.py SCHEDULER SOURCE TARGET``."""

import sys

from bulk_helpers import HashSpec
from distributed import Client

from idlegrid.pipelines.bulk import BulkJob


def main() -> None:
    scheduler, source, target = sys.argv[1:]
    with Client(scheduler) as client:
        BulkJob(spec=HashSpec(), source=source, target=target, column="text", unit_rows=25).run(client)


if __name__ == "__main__":
    main()
