"""How pytest-xdist hands out tests: its ``loadgroup``, made to outlive a worker that dies.

A test that hangs ends its worker (pytest-timeout). pytest-xdist 3.8 then hands the worker's
finished tests out once more, gives the hung test to the worker that replaces it, and asks for a
collection that is not there yet, which ends the run (its issues 1189, 1323, 1327, 1362 and 1371).
Here the hung test has failed, once, and what its worker had not begun is run by others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadGroupScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController


class SurvivingScheduling(LoadGroupScheduling):
    """Work for two and more workers, by group; each may die."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Take *node* out; return the test it died in, or None if it had nothing to do."""
        workload = self.assigned_work.pop(node)
        if not self._pending_of(workload):
            return None
        # As long as the one that replaces it collects, nothing is handed to it.
        self.registered_collections.pop(node, None)
        crashed: str | None = None
        for scope, unit in reversed(workload.items()):
            left = {name: False for name, done in unit.items() if not done}
            if left:
                self.workqueue[scope] = left
                self.workqueue.move_to_end(scope, last=False)
        # A worker runs what it was given in that order, so it died in the first of the rest.
        scope, left = next(iter(self.workqueue.items()))
        crashed = next(iter(left))
        del left[crashed]
        if not left:
            del self.workqueue[scope]
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        """Give *node* work. A worker begins a test only when it knows the next, or the end."""
        while (
            node in self.registered_collections
            and not node.shutting_down
            and self._pending_of(self.assigned_work[node]) <= 2
        ):
            try:
                super()._reschedule(node)
            except OSError:
                # It is dead already and that is told later: the work goes back then.
                return
