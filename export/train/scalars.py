"""Losses, rate and scores over a run, as event files that TensorBoard reads."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from cir_rt.export.train.trainer import Step

FOLDER = "scalars"  # below the checkpoint folder:  tensorboard --logdir CKPT/scalars


class Scalars:
    """Writes one point a step."""

    def __init__(self, checkpoint: Path) -> None:
        """Open the event file; a resumed run adds one of its own."""
        self._writer = SummaryWriter(str(checkpoint / FOLDER))

    def __enter__(self) -> Scalars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def write(self, step: Step) -> None:
        """Add the step's losses by stage, their sum, and a validation's score."""
        for name, value in step.losses.items():
            self._writer.add_scalar(f"{step.stage}/{name}", value, step.steps)
        self._writer.add_scalar(f"{step.stage}/total", sum(step.losses.values()), step.steps)
        self._writer.add_scalar("rate", step.rate, step.steps)
        if step.score is not None:
            self._writer.add_scalar("score", step.score, step.steps)
