"""The iPXE script. One text for all nodes: what differs, iPXE itself fills in."""

from __future__ import annotations

from collections.abc import Sequence

RETRY_SECONDS = 10


def render_boot_script(boot_url: str, kernel_arguments: Sequence[str]) -> str:
    """Return the script that fetches the bootstrap OS from *boot_url* and starts it.

    Both names stand on the command line as ``initrd=``: the EFI stub loads those files and no
    others when iPXE is old, in this order; elsewhere the words do no harm. A node that fails
    says why and tries again, for ever: nobody is there to press a key.
    """
    query = "?mac=${netX/mac:hexhyp}"
    arguments = " ".join(
        ["initrd=initrd", "initrd=site.cpio", "BOOTIF=01-${netX/mac:hexhyp}", *kernel_arguments]
    )
    return f"""#!ipxe
:again
echo Fetching the bootstrap OS from {boot_url}
imgfree
kernel --name kernel {boot_url}/boot/kernel{query} {arguments} || goto failed
initrd --name initrd {boot_url}/boot/initrd{query} || goto failed
initrd --name site.cpio {boot_url}/boot/site.cpio{query} || goto failed
boot || goto failed
:failed
echo The bootstrap OS could not be fetched or started; trying again in {RETRY_SECONDS} seconds.
echo On the node server: provisionctl vnfs list shows whether a bootstrap was imported.
sleep {RETRY_SECONDS}
goto again
"""
