"""Which pool of a lane gets the next task: one of the block that has most to do already.

Parsl picks one by chance, so that a few last tasks, such as the fits at the end, hold as many blocks. Packed, the
others run empty and are given back. The fullest block comes first, not the oldest, so that a node on which everything
fails at once is the last choice for another try.
"""

from __future__ import annotations

import random
from collections import Counter

from parsl.executors.high_throughput.manager_record import ManagerRecord
from parsl.executors.high_throughput.manager_selector import ManagerSelector


class FullestBlock(ManagerSelector):  # type: ignore[misc]  # Parsl's class is untyped here
    """Sorts managers so that the last, which the interchange takes first, is of the block with most tasks."""

    def sort_managers(self, ready_managers: dict[bytes, ManagerRecord], manager_list: set[bytes]) -> list[bytes]:
        """The managers of `manager_list` from the emptiest block to the fullest; chance decides among equals."""
        tasks: Counter[str | None] = Counter()
        for pool in ready_managers.values():
            tasks[pool["block_id"]] += len(pool["tasks"])
        found = list(manager_list)
        random.shuffle(found)
        return sorted(found, key=lambda m: (tasks[ready_managers[m]["block_id"]], len(ready_managers[m]["tasks"])))
