"""The worst moment is seen, not the last one."""

from provisiond.agent.meter import Meter


def test_the_least_that_was_free_is_told(world, tmp_path):
    file = tmp_path / "meminfo"

    def free(mib):
        new = tmp_path / "new"
        new.write_text(f"MemTotal: 1048576 kB\nMemAvailable: {mib * 1024} kB\n")
        new.replace(file)

    free(900)
    with Meter(proc=tmp_path, every_seconds=0.001) as meter:
        free(300)
        world.until(lambda: meter.least_kib == 300 * 1024)
        free(700)
    assert meter.line() == ("memory: 900 MiB were free, 300 MiB at worst: 600 MiB were taken")
    assert meter.report() == {"memoryPeakKib": 600 * 1024, "memoryLeastKib": 300 * 1024}
    assert not meter._thread.is_alive()


def test_where_the_kernel_tells_nothing_nothing_is_wrong(tmp_path):
    with Meter(proc=tmp_path) as meter:
        pass
    assert meter.peak_kib == 0
