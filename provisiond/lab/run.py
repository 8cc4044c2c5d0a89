"""The flow of ``provisionctl lab run``: power on, hand out the capsule, watch, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from provisiond.lab.laboratory import Laboratory
from provisiond.lab.machine import Machine
from provisiond.lab.watch import PANIC, Outcome, Sight, describe_change, find_sight, judge

POLL_SECONDS = 0.3

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What shall be booted, and how."""

    capsule: str
    """As it is assigned: a reference in the laboratory's node server."""
    method: str = "kexec"
    timeout_seconds: float = 300


def boot(
    laboratory: Laboratory, machines: Sequence[Machine], wish: Wish, *, tell: Tell
) -> tuple[Outcome, ...]:
    """Power on *machines*, assign the capsule to each as it registers, and return how it went.

    *tell* gets a line for each thing that happens. Ends when all are ready, when one has failed,
    or after the timeout.
    """
    for machine in machines:
        laboratory.power_on(machine)
        tell(f"{machine.label:<9} {0.0:6.1f} s  power on ({machine.firmware})")
    watched = [_Watched(laboratory, machine, wish, tell) for machine in machines]
    deadline = time.monotonic() + wish.timeout_seconds
    while True:
        nodes = laboratory.nodes()
        outcomes = tuple(item.look(find_sight(nodes, item.machine)) for item in watched)
        if all(outcome.is_ready for outcome in outcomes):
            return outcomes
        if any(item.is_hopeless for item in watched):
            return outcomes
        if time.monotonic() > deadline:
            late = f"not ready after {wish.timeout_seconds:.0f} s: "
            return tuple(
                item if item.is_ready else replace(item, reason=late + item.reason)
                for item in outcomes
            )
        time.sleep(POLL_SECONDS)


class _Watched:
    """A machine whose boot is followed."""

    def __init__(self, laboratory: Laboratory, machine: Machine, wish: Wish, tell: Tell) -> None:
        self.machine = machine
        self.is_hopeless = False
        self._laboratory = laboratory
        self._wish = wish
        self._tell = tell
        self._seen: Sight | None = None
        self._console_read = 0

    def look(self, sight: Sight | None) -> Outcome:
        """Take *sight* for what is so now: tell what changed, and do what has to be done."""
        power_on = self._laboratory.powered_on[self.machine]
        if sight is not None:
            for line in describe_change(self._seen, sight):
                self._tell(f"{sight.name:<9} {time.time() - power_on:6.1f} s  {line}")
            if self._seen is None:
                self._assign(sight.name)
            self._seen = sight
        outcome = judge(self.machine, sight, power_on=power_on)
        broken = None if outcome.is_ready else self._broken()
        self.is_hopeless = broken is not None or outcome.state == "failed"
        return replace(outcome, reason=broken) if broken else outcome

    def _assign(self, name: str) -> None:
        self._laboratory.set("method", self._wish.method, name)
        self._laboratory.set("vnfs", self._wish.capsule, name)

    def _broken(self) -> str | None:
        """Return why nothing more is to be expected of the machine, if so."""
        ended = self._laboratory.ended(self.machine)
        if ended is not None:
            return ended
        with self._laboratory.console(self.machine).open("rb") as file:
            file.seek(self._console_read)
            data = file.read()
        # The words may still be half written: the last bytes are looked at again.
        self._console_read += max(0, len(data) - len(PANIC))
        return PANIC if PANIC.encode() in data else None
