"""What `fintrec train` shows while it trains: one bar a training."""

from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fintrec.learning.progress import Progress


class Bars:
    """Epoch, losses, tokens a second and time left, on stderr; all of it fits 80 columns."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TextColumn("epoch {task.fields[epoch]} loss {task.fields[loss]:.4f}"),
            TextColumn("validation {task.fields[validation]}"),
            TextColumn("{task.fields[pace]:,.0f} tokens/s"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, progress: "Progress") -> None:
        """Move the model's bar."""
        if progress.model not in self._tasks:
            self._tasks[progress.model] = self._progress.add_task(
                progress.model, total=1.0, epoch=0, loss=0.0, validation="-", pace=0.0
            )
        changes: dict[str, Any] = {
            "epoch": progress.epoch,
            "loss": progress.loss,
            "pace": progress.tokens / max(progress.seconds, 1e-9),
        }
        if progress.validation is not None:
            changes["validation"] = f"{progress.validation:.4f}"
        self._progress.update(self._tasks[progress.model], completed=progress.share, **changes)
