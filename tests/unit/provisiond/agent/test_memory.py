"""What a boot takes of memory, and what a node that is too small is told."""

import pytest

from provisiond.agent.memory import (
    MIB,
    RAMFS_ARGUMENT,
    Load,
    Memory,
    add_arguments,
    choose_method,
    kexec_peak_bytes,
    missing_bytes,
    next_kernel_bytes,
    pivot_peak_bytes,
    read_figures,
    refuse_too_little,
)
from vnfsbuild.errors import VnfsbuildError

LOAD = Load(kernel_bytes=12 * MIB, initrd_bytes=2 * MIB, layers_bytes=126 * MIB)
NAME = "debian-13-compute@0123456789ab"


def memory(total, available):
    return Memory(total * MIB, available * MIB)


def enough_for(method):
    peak = kexec_peak_bytes(LOAD) if method == "kexec" else pivot_peak_bytes(LOAD)
    return Memory(2048 * MIB, peak)


@pytest.mark.parametrize("method", ["kexec", "pivot"])
def test_what_fits_is_done_as_it_was_wanted(method):
    fit = choose_method(LOAD, enough_for(method), method=method, can_pivot=True, name=NAME)
    assert (fit.method, fit.note) == (method, "")


@pytest.mark.parametrize("method", ["kexec", "pivot"])
def test_a_byte_too_few_is_too_few(method):
    enough = enough_for(method)
    less = Memory(enough.total_bytes, enough.available_bytes - 1)
    assert missing_bytes(LOAD, enough, method) == 0
    with pytest.raises(VnfsbuildError):
        choose_method(LOAD, less, method=method, can_pivot=False, name=NAME)


def test_a_node_too_small_for_a_kexec_pivots_where_the_kernel_is_the_same():
    fit = choose_method(LOAD, memory(512, 300), method="kexec", can_pivot=True, name=NAME)
    assert fit.method == "pivot"
    assert fit.note.startswith("memory: this node has 512 MiB, 300 MiB of it free; ")
    assert fit.note.endswith("; by pivot it fits")


def test_a_node_too_small_is_told_what_it_has_and_what_it_needs():
    needed = -(-kexec_peak_bytes(LOAD) // MIB)
    with pytest.raises(VnfsbuildError) as caught:
        choose_method(LOAD, memory(512, 300), method="kexec", can_pivot=False, name=NAME)
    assert str(caught.value) == (
        "memory: this node has 512 MiB, 300 MiB of it free; "
        f"{NAME} needs {needed} MiB free for a kexec"
    )
    assert caught.value.hint == (
        f"{needed - 300} MiB more memory; or a pivot, which fits: method auto, "
        "and a bootstrap of the same kernel"
    )


def test_where_no_pivot_fits_either_none_is_promised():
    with pytest.raises(VnfsbuildError) as caught:
        choose_method(LOAD, memory(300, 90), method="kexec", can_pivot=True, name=NAME)
    assert f"{next_kernel_bytes(LOAD) // MIB} MiB in all for the next kernel" in str(caught.value)
    assert "smaller capsule" in caught.value.hint


def test_a_pivot_that_was_wanted_is_never_made_a_kexec():
    with pytest.raises(VnfsbuildError, match="MiB free for a pivot"):
        choose_method(LOAD, memory(300, 90), method="pivot", can_pivot=True, name=NAME)


def test_the_next_kernel_must_find_room_too():
    # All but nothing is in use now: the load would fit, and the kernel after it would die.
    load = Load(kernel_bytes=12 * MIB, initrd_bytes=0, layers_bytes=1000 * MIB)
    tight = Memory(next_kernel_bytes(load) - 1, 10**12)
    with pytest.raises(VnfsbuildError, match="for the next kernel"):
        refuse_too_little(load, tight, method="kexec", name=NAME)
    refuse_too_little(load, memory(4096, 4000), method="kexec", name=NAME)


def test_where_the_kernel_tells_no_figures_nothing_is_refused():
    assert read_figures({}) is None
    assert read_figures({"MemTotal": 2048, "MemAvailable": 1024}) == memory(2, 1)
    assert choose_method(LOAD, None, method="kexec", can_pivot=False, name=NAME).method == "kexec"


def test_an_initramfs_of_half_the_memory_is_no_tmpfs():
    words = ("console=ttyS0",)
    assert add_arguments(LOAD, memory(1024, 900), words) == words
    assert add_arguments(LOAD, memory(280, 200), words) == (RAMFS_ARGUMENT, *words)
    given = ("rootfstype=tmpfs",)
    assert add_arguments(LOAD, memory(280, 200), given) == given
    assert add_arguments(LOAD, None, words) == words
