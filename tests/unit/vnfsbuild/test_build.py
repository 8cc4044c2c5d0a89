"""What the flow of a build knows of the formats of layers."""

import pytest

from vnfsbuild.manifest import LAYER_TYPES
from vnfsbuild.payloads import FORMATS
from vnfsbuild.recipe import parse_recipe

RECIPE = """\
name = "small"
[distribution]
id = "debian"
release = "trixie"
[kernel]
package = "linux-image-amd64"
[rootfs]
format = "%s"
"""


def test_the_agent_mounts_each_format_by_the_name_that_the_recipe_has():
    assert {media_type: name for name, (media_type, _) in FORMATS.items()} == LAYER_TYPES


@pytest.mark.parametrize("name", FORMATS)
def test_a_recipe_may_name_each_format(name):
    assert parse_recipe(RECIPE % name, where="r.toml").rootfs.format == name
