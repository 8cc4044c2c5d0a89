import pytest

from .registries import running_registry


@pytest.fixture
def registry():
    with running_registry() as running:
        yield running
