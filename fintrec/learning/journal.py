"""What a training leaves in its run directory while it goes: its curve, and its state when due."""

from collections.abc import Callable

from fintrec.learning.curves import Curve
from fintrec.learning.progress import Progress
from fintrec.learning.run_state import Run, State


class Journal:
    """Of one task; `found` is the state that an earlier run left, which the curve is cut back to.

    With `writes` False (all processes but the first) it reads alone. ConfigurationError when the
    run directory is of another training.
    """

    def __init__(self, run: Run, task: str, writes: bool = True) -> None:
        self.found = run.read(task)
        self._run = run
        self._task = task
        kept, self._step, self._seconds = 0, 0, 0.0
        if self.found is not None:
            at = self.found["at"]
            kept, self._step, self._seconds = self.found["curve_bytes"], at["step"], at["seconds"]
        self._curve = Curve(run.directory, task, kept, self._step) if writes else None

    def record(self, progress: Progress, state: Callable[[], State] | None) -> None:
        """Write a line, and the state if it is due; with `state` None none is worth keeping."""
        evaluated = progress.validation is not None
        if self._curve is not None:
            self._curve.append(progress)
        if state is not None and (evaluated or self._is_due(progress)):
            self._save(progress, state())
        if evaluated and self._curve is not None:
            self._curve.draw()

    def _is_due(self, progress: Progress) -> bool:
        if self._run.save_steps is not None:
            return progress.step - self._step >= self._run.save_steps
        return progress.seconds - self._seconds >= self._run.save_seconds

    def _save(self, progress: Progress, state: State) -> None:
        self._step, self._seconds = progress.step, progress.seconds
        if self._curve is not None:
            self._run.write(self._task, {**state, "curve_bytes": self._curve.position()})

    def last_state(self) -> str:
        """Where the last good state is, for an error's text."""
        if not self._step:
            return "no state had been written before"
        return f"the last good state, of step {self._step}, is {self._run.path(self._task)}"

    def close(self) -> None:
        """Write what is left of the curve."""
        if self._curve is not None:
            self._curve.close()
