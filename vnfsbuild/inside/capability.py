"""File capabilities in words, as ``getcap`` prints them: ``cap_net_raw=ep``."""

from __future__ import annotations

_NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid",
    "setuid", "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin",
    "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace",
    "sys_pacct", "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time",
    "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read",
    "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip
_EFFECTIVE = 1
_LENGTHS = {1: 12, 2: 20, 3: 24}
"""Revision of the format → its bytes."""


def render_capabilities(value: bytes) -> str:
    """Return what the extended attribute ``security.capability`` says; empty for no capability.

    A value that is none is returned as hexadecimal digits.
    """
    magic = int.from_bytes(value[:4], "little")
    revision = magic >> 24
    if _LENGTHS.get(revision) != len(value):
        return value.hex()
    words = [int.from_bytes(value[at : at + 4], "little") for at in range(4, len(value), 4)]
    permitted, inheritable = words[0], words[1]
    if revision > 1:
        permitted |= words[2] << 32
        inheritable |= words[3] << 32
    flags: dict[str, list[str]] = {}
    for number in range(64):
        bits = ("i" if inheritable >> number & 1 else "", "p" if permitted >> number & 1 else "")
        if any(bits):
            kind = ("e" if magic & _EFFECTIVE else "") + "".join(bits)
            name = _NAMES[number] if number < len(_NAMES) else str(number)
            flags.setdefault(kind, []).append(f"cap_{name}")
    return " ".join(f"{','.join(names)}={kind}" for kind, names in flags.items())
