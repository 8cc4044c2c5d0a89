"""Run by the Python of a tree, not by ours: the agent's modules, compiled for that Python.

Arguments: a directory with sources, where they will be on a node, and a directory for the result.
Unchecked, since nobody changes them there. Standard library of any Python 3.9 or later, no more.
"""

import os
import py_compile
import sys


def compile_all(sources: str, place: str, out: str) -> None:
    """Compile each module below *sources*, one after the other in the order of their names."""
    for directory, names, files in os.walk(sources):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)  # noqa: PTH118  # this Python imports little
            below = os.path.relpath(path, sources)
            py_compile.compile(
                path,
                cfile=os.path.join(out, below + "c"),  # noqa: PTH118
                dfile=place + "/" + below,
                doraise=True,
                optimize=0,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


if __name__ == "__main__":
    compile_all(*sys.argv[1:])
