"""File capabilities, as getcap(8) tells them."""

import struct

import pytest

from vnfsbuild.inside.capability import render_capabilities


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((0x02000001, 1 << 13, 0, 0, 0), "cap_net_raw=ep"),
        ((0x02000000, 1 << 13, 0, 0, 0), "cap_net_raw=p"),
        ((0x02000001, 1 << 10 | 1 << 12, 0, 0, 0), "cap_net_bind_service,cap_net_admin=ep"),
        ((0x02000001, 1, 2, 0, 0), "cap_chown=ep cap_dac_override=ei"),
        ((0x02000001, 0, 0, 1 << 8, 0), "cap_checkpoint_restore=ep"),
        ((0x02000001, 0, 0, 1 << 20, 0), "cap_52=ep"),
        ((0x03000001, 1 << 13, 0, 0, 0, 1000), "cap_net_raw=ep"),
        ((0x01000001, 1, 0), "cap_chown=ep"),
        ((0x02000000, 0, 0, 0, 0), ""),
    ],
)
def test_words(words, text):
    assert render_capabilities(struct.pack(f"<{len(words)}I", *words)) == text


@pytest.mark.parametrize("value", [b"", b"\1", bytes(20), bytes.fromhex("01000002") + bytes(8)])
def test_what_is_none_is_told_as_it_is(value):
    assert render_capabilities(value) == value.hex()
