"""The iPXE script. One text for all nodes: what differs, iPXE itself fills in."""

from __future__ import annotations

from collections.abc import Sequence

RETRY_SECONDS = 10
LOADER_ASKS = "vnfs.loader=asks"
"""Tells the bootstrap that after a reboot the server is asked again what to start."""
INITRDS = ("initrd", "site.cpio", "drivers.cpio")
"""What the kernel unpacks, in this order. A node without further drivers gets an empty archive: no
firmware stumbles over that, and the script need not know."""


def render_boot_script(boot_url: str, kernel_arguments: Sequence[str]) -> str:
    """Return the script that fetches the bootstrap OS from *boot_url* and starts it.

    All names stand on the command line as ``initrd=``: the EFI stub loads those files and no
    others when iPXE is old, in this order; elsewhere the words do no harm. A node that fails
    says why and tries again, for ever: nobody is there to press a key.
    """
    query = "?mac=${netX/mac:hexhyp}"
    arguments = " ".join(
        [
            *(f"initrd={name}" for name in INITRDS),
            "BOOTIF=01-${netX/mac:hexhyp}",
            LOADER_ASKS,
            *kernel_arguments,
        ]
    )
    initrds = "\n".join(
        f"initrd --name {name} {boot_url}/boot/{name}{query} || goto failed" for name in INITRDS
    )
    return f"""#!ipxe
:again
imgfree
set vnfs-choice bootstrap
chain --autofree {boot_url}/boot/choice.ipxe{query} || goto bootstrap
iseq ${{vnfs-choice}} local && goto local || goto bootstrap
:bootstrap
echo Fetching the bootstrap OS from {boot_url}
kernel --name kernel {boot_url}/boot/kernel{query} {arguments} || goto failed
{initrds}
boot || goto failed
:failed
echo The bootstrap OS could not be fetched or started; trying again in {RETRY_SECONDS} seconds.
echo On the node server: provisionctl vnfs list shows whether a bootstrap was imported.
sleep {RETRY_SECONDS}
goto again
:local
echo This node boots from its own disk, as its plan says.
iseq ${{platform}} efi && exit 1 ||
sanboot --no-describe --drive 0x80 ||
echo There is no disk that starts; asking again in {RETRY_SECONDS} seconds.
sleep {RETRY_SECONDS}
goto again
"""


def render_choice(local: bool) -> str:
    """Return the script for one node that says what is started: its own disk, or the bootstrap."""
    return "#!ipxe\nset vnfs-choice local\n" if local else "#!ipxe\n"
