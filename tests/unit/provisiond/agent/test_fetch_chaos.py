"""Whatever three mirrors do: what lands is right, or it is refused and nothing has landed."""

import hashlib
import io
import random

import pytest

from provisiond.agent.client import NetworkError
from provisiond.agent.distrust import Distrust
from provisiond.agent.fetch import Fetcher, Patience
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import LAYER_SQUASHFS, Descriptor

DATA = random.Random(1).randbytes(700_000)
BLOB = Descriptor(LAYER_SQUASHFS, digest_of(DATA), len(DATA))
PATH = "/blobs/" + BLOB.digest.replace(":", "/")
SIZE = 60_000
INDEX = render_json(
    {
        "blobs": [
            {
                "chunks": [
                    [hashlib.sha256(DATA[n : n + SIZE]).hexdigest()[:32], len(DATA[n : n + SIZE])]
                    for n in range(0, len(DATA), SIZE)
                ],
                "digest": BLOB.digest,
                "size": len(DATA),
            }
        ]
    }
)
IMPATIENT = Patience(stall_seconds=0.5, tries=4, least_delay_seconds=0.001, most_delay_seconds=0.01)


def misbehave(chance, bad):
    """Return a fault that does something else each time; *bad*: wrong bytes among it."""

    def fault(handler, data, offset):
        kinds = ["right", "right", "break", "busy", "error", "gone"] + ["wrong"] * 3 * bad
        kind = chance.choice(kinds)
        if kind == "right":
            return False
        if kind == "busy":
            handler.reply(b"busy", 503, {"Retry-After": "0"})
        elif kind == "error":
            handler.reply(b"oh", 500)
        elif kind == "gone":
            handler.connection.close()
        else:
            body = bytearray(data[offset:])
            if kind == "wrong":
                body[chance.randrange(len(body))] ^= 0xFF
            handler.send_response(206 if offset else 200)
            if offset:
                handler.send_header("Content-Range", f"bytes {offset}-{len(data) - 1}/{len(data)}")
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            cut = chance.randrange(len(body)) if kind == "break" else len(body)
            handler.wfile.write(body[:cut])
        return True

    return fault


@pytest.mark.parametrize("seed", range(24))
def test_what_lands_is_right_or_nothing_is(world, mirrors, seed):
    chance = random.Random(seed)
    third = world.Mirror()
    servers = [*mirrors, third]
    bad = chance.randrange(4)  # how many of the three give wrong bytes
    for number, server in enumerate(servers):
        server.add(DATA, INDEX)
        server.fault = misbehave(chance, number < bad)
    wrong = {server.base for server in servers[:bad]}
    chance.shuffle(servers)
    file, told, counts = io.BytesIO(b"before"), [], []
    file.seek(0, io.SEEK_END)
    distrust = Distrust()
    fetcher = Fetcher(
        [server.base for server in servers],
        tell=told.append,
        patience=IMPATIENT,
        advance=counts.append,
        distrust=distrust,
        chunks=digest_of(INDEX) if seed % 2 else None,
    )
    fault = None
    try:
        fetcher.fetch_into(file, BLOB, where="layer 0")
    except (NetworkError, VerificationError) as error:
        fault = str(error)
    finally:
        fetcher.close()
        third.stop()
    landed = b"" if fault else DATA
    assert file.getvalue() == b"before" + landed
    assert file.tell() == len(b"before") + len(landed)
    assert sum(counts) == len(landed)
    assert fault is None or fault.startswith("layer 0: ")
    caught = {text.split(": wrong bytes")[0] for text in distrust.report().get("wrongMirrors", [])}
    assert caught <= wrong, "who gave no wrong byte is not blamed"
