"""What is done beside check-ins, by one process at a time: a task, or the way to the next capsule.

It outlives an agent that is killed, and what it is told to do is on the disk before it begins.
"""

from __future__ import annotations

from pathlib import Path

from provisiond.agent import tasks
from provisiond.agent.console import Tell, tell_journal
from provisiond.agent.node import Node, load_node
from provisiond.agent.notes import NEXT, RUN, is_worked, load_plan, lock_work
from provisiond.protocol import Plan


def has_work(run: Path, plan: Plan) -> bool:
    """Tell whether the plan has something to do that no process does yet."""
    wanted = (
        tasks.is_to_do(run, plan.task)
        if plan.task
        # What was begun is undone when the plan has it no more.
        else plan.next is not None or (run / NEXT).exists()
    )
    return wanted and not is_worked(run)


def work(node: Node, *, run: Path = RUN, tell: Tell = tell_journal) -> None:
    """Do what the newest plan says, unless another process does."""
    lock = lock_work(run)
    plan = load_plan(run)
    if lock is None or plan is None:
        return
    if plan.task is not None:
        # First: what comes of it must be told before another kernel is started, which knows
        # nothing of it. The plan has a task until the server has heard its end.
        tasks.do_task(run, plan.task)
    elif plan.next is not None or (run / NEXT).exists():
        from provisiond.agent.upgrade import upgrade

        upgrade(node, plan, run, tell)


def run_work() -> None:
    """Do what the newest plan of this node says.

    Raises:
        VnfsbuildError: it could not be done; after the next check-in it is tried again.
    """
    work(load_node(RUN / "node.json"))
