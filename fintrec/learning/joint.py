"""Both objectives in one training, with a shared trunk or without.

- each step is of one objective: an epoch has the steps that the two have alone, in their own order,
  at places drawn anew each epoch. Batches stay of one kind and one length bucket, each model sees as
  many of its examples as it would alone, and a step's update is its own: of the other model's weights
  nothing moves, unless they are shared. Adding both losses in each step would need as many click
  batches as page batches, and there are many times fewer clicks
- each loss is divided by that of the base rates, so 1 is to know nothing, for either. Else the trunk
  would follow the clicks: a choice among K items has nats, a rare conversion hundredths of one
- epochs are judged by the sum of both validation losses in the same unit, and one epoch's weights are
  kept of both: of a shared trunk there is only one
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from fintrec.learning.loop import Task


class Turn(NamedTuple):
    """A step of one of the tasks: which, and its plan or its batch."""

    task: int
    what: Any


class JointObjective(nn.Module):
    """The objective whose turn it is, divided by its base rates' loss."""

    def __init__(self, objectives: list[nn.Module], base_losses: list[float]) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.base_losses = base_losses

    def forward(self, turn: Turn) -> Tensor:
        """(P, 2), as of the objective."""
        sums_P2 = self.objectives[turn.task](turn.what)
        return sums_P2 * sums_P2.new_tensor((1 / self.base_losses[turn.task], 1.0))


@dataclass(frozen=True, slots=True)
class _Joint:
    tasks: tuple[Task[Any, Any], ...]
    base_losses: list[float]
    seed: int

    def plan(self, epoch: int) -> list[Turn]:
        plans = [task.plan(epoch) for task in self.tasks]
        turns = np.repeat(np.arange(len(plans)), [len(plan) for plan in plans])
        np.random.default_rng([self.seed, epoch, len(plans)]).shuffle(turns)
        steps = [iter(plan) for plan in plans]
        return [Turn(task, next(steps[task])) for task in turns.tolist()]

    def batch(self, turn: Turn) -> Turn:
        return Turn(turn.task, self.tasks[turn.task].batch(turn.what))

    def tokens(self, turn: Turn) -> int:
        return self.tasks[turn.task].tokens(turn.what)

    def validate(self) -> float:
        return sum(
            task.validate() / base for task, base in zip(self.tasks, self.base_losses, strict=True)
        )


def joint_task(*tasks: Task[Any, Any], seed: int) -> Task[Turn, Turn]:
    """One task of several, whose base rates' losses must be known."""
    base_losses = [task.base_loss for task in tasks if task.base_loss]
    if len(base_losses) < len(tasks):
        raise ValueError("a task without the loss of its base rates, expected one for each")
    joint = _Joint(tasks, base_losses, seed)
    return Task(
        "joint",
        nn.ModuleDict({task.name: task.model for task in tasks}),
        JointObjective([task.objective for task in tasks], base_losses),
        joint.plan,
        joint.batch,
        joint.validate,
        joint.tokens,
        1.0,
    )
