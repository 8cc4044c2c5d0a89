"""What the tests of the running node server share."""

import pytest

from .daemon import site


@pytest.fixture(scope="module")
def shared():
    """One daemon without dnsmasq for all tests that only ask it; each takes nodes of its own."""
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        yield made.serve()
