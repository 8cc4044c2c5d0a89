"""Run by the Python of a tree, not by ours: what some modules import, compiled for that Python.

Arguments: a directory for the result, the library directory of that Python, names of modules.
Compiled without source and unchecked: a node starts in a third of the time. Prints, a line each,
the files of extension modules. Standard library of any Python 3.9 or later, and nothing else.
"""

import os
import sys


def find_files(library: str, names: "list[str]") -> "list[str]":
    """Return the files below *library* that importing *names* loads."""
    for name in names:
        __import__(name)
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return sorted({path for path in loaded if path and path.startswith(library + os.sep)})


def compile_into(out: str, library: str, path: str) -> None:
    """Compile the module in the file *path* to where it is found without source."""
    import py_compile

    place = os.path.relpath(path, library)
    py_compile.compile(
        path,
        cfile=os.path.join(out, place + "c"),  # noqa: PTH118  # this Python imports little
        dfile=place,
        doraise=True,
        optimize=0,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    # All found before the compiler is imported: that is not for the node.
    files = find_files(sys.argv[2], sys.argv[3:])
    for file in files:
        if file.endswith(".py"):
            compile_into(sys.argv[1], sys.argv[2], file)
        else:
            sys.stdout.write(file + "\n")
