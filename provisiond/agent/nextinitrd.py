"""The node's own part of the initrd of its next capsule, added behind what was fetched.

It is made last: the overlay may have changed while the node waited to be idle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from provisiond.agent.landing import write_all
from provisiond.agent.node import Node, render_node
from provisiond.agent.obtain import INITRD_PADDING, MODE_PUBLIC, MODE_SECRET, Overlay
from provisiond.agent.papers import FILE as PAPERS
from provisiond.agent.papers import Papers, render_papers
from provisiond.agent.site import FILES
from vnfsbuild import newc


def append_own_files(
    initrd: Path, node: Node, *, papers: Papers, site: Path, overlay: Optional[Overlay]
) -> None:
    """Add *overlay*, node.json and the files of *site* to *initrd*, as an archive of their own.

    Raises:
        VnfsbuildError: there is no room.
        OSError: a file of the site is gone.
    """
    members = [("vnfs/node.json", MODE_SECRET, render_node(node))]
    if overlay is not None:
        members.append(("vnfs/overlay.tar", MODE_SECRET, overlay.data))
    members += [(f"vnfs/site/{name}", MODE_PUBLIC, (site / name).read_bytes()) for name in FILES]
    members.append((f"vnfs/site/{PAPERS}", MODE_PUBLIC, render_papers(papers)))
    with initrd.open("r+b", buffering=0) as file:
        file.seek(0, 2)
        write_all(file, b"\0" * (-file.tell() % INITRD_PADDING), where="initrd")
        write_all(file, newc.render_directories("vnfs/site/"), where="initrd")
        for name, mode, data in members:
            write_all(file, newc.render_entry(name, mode, data), where=name)
        write_all(file, newc.render_trailer(), where="initrd")
