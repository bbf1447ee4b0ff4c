"""The progress of a build, told to a caller who may end it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]  # phase, steps done, steps in all


def monitor_of(trt: Any, progress: Progress) -> Any:
    """Return TensorRT's progress monitor over a callback.

    A callback that raises cancels the build. No exception may leave a monitor, since it is called
    from within TensorRT: what was raised is kept in `.raised`, for the compiler to raise again.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.raised is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._steps.pop(phase_name, 0))

        def _tell(self, phase: str, done: int) -> None:
            if self.raised is None:
                try:
                    progress(phase, done, self._steps.get(phase, done))
                except BaseException as error:  # Ctrl-C too
                    self.raised = error

    return Monitor()
