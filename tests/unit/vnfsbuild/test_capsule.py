"""The .vnfs file: one valid byte sequence, and every other is refused."""

import io
import tarfile

import pytest

from vnfsbuild import ustar
from vnfsbuild.capsule import (
    make_head,
    payload_bytes,
    payloads_after,
    read_capsule,
    render_head,
    verify_file,
)
from vnfsbuild.digest import digest_of
from vnfsbuild.dsse import make_envelope, render_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import OCI_MANIFEST, render_config


def read(data, admit=lambda head: None):
    """Read a file; return its head and its payloads."""
    payloads = {}

    def take(payload, chunks):
        payloads[payload.digest] = b"".join(chunks)

    head = read_capsule(io.BytesIO(data), where="toy.vnfs", admit=admit, take=take)
    return head, payloads


@pytest.fixture(
    params=["unsigned", "signed", "signed twice", "bootstrap", "attested", "attested alone"]
)
def toy(request, workshop):
    words = {
        "unsigned": {"signers": ()},
        "signed": {},
        "signed twice": {"signers": ("dev", "ops")},
        "bootstrap": {"bootstrap": True},
        "attested": {"attesters": ("dev", "ops")},
        "attested alone": {"signers": (), "attesters": ("dev",)},
    }[request.param]
    return workshop.capsule(**words)


@pytest.fixture
def data(toy, tmp_path):
    return toy.write(tmp_path / "toy.vnfs").read_bytes()


def test_a_capsule_is_read_back(toy, data):
    head, payloads = read(data)
    assert head == toy.head
    assert payloads == toy.blobs


def test_the_members_stand_in_their_order(workshop, tmp_path):
    toy = workshop.capsule(signers=("dev", "ops"))
    with tarfile.open(toy.write(tmp_path / "toy.vnfs")) as tar:
        names = tar.getnames()
    by_signature = [digest_of(data) for _, data in render_head(toy.head)[5:9]]
    expected = [
        toy.digest,
        digest_of(b"{}"),
        digest_of(render_head(toy.head)[4][1]),
        *by_signature,
        digest_of(toy.config),
        *toy.blobs,
    ]
    assert names[:2] == ["oci-layout", "index.json"]
    assert names[2:] == [f"blobs/sha256/{digest[7:]}" for digest in expected]
    assert by_signature[0] < by_signature[2]
    assert {by_signature[1], by_signature[3]} == {digest_of(item) for item in toy.envelopes}


def test_the_order_of_signatures_makes_no_difference(workshop, tmp_path):
    one = workshop.capsule(signers=("dev", "ops")).write(tmp_path / "one.vnfs")
    two = workshop.capsule(signers=("ops", "dev")).write(tmp_path / "two.vnfs")
    assert one.read_bytes() == two.read_bytes()


def test_a_blob_that_occurs_twice_is_written_once(workshop, tmp_path):
    toy = workshop.capsule(payloads=[b"same", b"same", b"{}", b"x", b"same"])
    assert [payload.size_bytes for payload in payloads_after(toy.head)] == [4, 1]
    assert payload_bytes(toy.head) == 5
    head, payloads = read(toy.write(tmp_path / "toy.vnfs").read_bytes())
    assert head == toy.head
    assert set(payloads.values()) == {b"same", b"x"}


def test_not_one_bit_of_a_file_may_differ(data, request):
    """One bit in each byte, which bit depends on the place; of the other variants, each seventh."""
    variant = request.node.callspec.params["toy"]
    for position in range(0, len(data), 1 if variant == "signed" else 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(VerificationError, match=r"^(toy\.vnfs|toy|bootstrap|config|manifest)"):
            read(bytes(flipped))


def test_a_file_that_ends_early_is_refused(data):
    for length in {*range(0, len(data), 61), len(data) - 1, len(data) - 512}:
        with pytest.raises(VerificationError, match=r"toy\.vnfs"):
            read(data[:length])


@pytest.mark.parametrize("more", [b"\0", bytes(512), bytes(10240), b"x"])
def test_a_file_that_goes_on_is_refused(data, more):
    with pytest.raises(VerificationError, match=f"byte {len(data)}: found more after the end"):
        read(data + more)


def test_an_error_says_where(data):
    with pytest.raises(VerificationError, match=r"toy\.vnfs: byte 0: not a header"):
        read(bytes(len(data)))
    with pytest.raises(VerificationError, match=r"ends at byte 700, expected oci-layout|expected"):
        read(data[:700])


def rewritten(toy, change):
    """Return the file of *toy* with its members changed, each well-formed in itself."""
    members = list(render_head(toy.head))
    members += [
        (f"blobs/sha256/{payload.digest[7:]}", toy.blobs[payload.digest])
        for payload in payloads_after(toy.head)
    ]
    change(members)
    parts = [ustar.render_header(name, len(text)) + text + ustar.padding(len(text))
             for name, text in members]  # fmt: skip
    return b"".join(parts) + ustar.END


def swap(one, two):
    def change(members):
        members[one], members[two] = members[two], members[one]

    return change


def replace_text(position, old, new):
    def change(members):
        name, text = members[position]
        assert old in text
        text = text.replace(old, new)
        if name.startswith("blobs/"):
            name = f"blobs/sha256/{digest_of(text)[7:]}"
        members[position] = (name, text)

    return change


CHANGES = {
    "members swapped": swap(0, 1),
    "payloads swapped": swap(-1, -2),
    "a member more": lambda members: members.append(("x", b"")),
    "a member more in front": lambda members: members.insert(0, ("x", b"")),
    "a member twice": lambda members: members.insert(-1, members[-1]),
    "a payload less": lambda members: members.pop(),
    "another layout": replace_text(0, b"1.0.0", b"1.0.1"),
    "a space in the index": replace_text(1, b",", b", "),
    "another name in the index": replace_text(1, b'"toy"', b'"root"'),
    "another annotation in the index": replace_text(1, b"ref.name", b"ref.nome"),
    "no signature listed": replace_text(1, b"vnd.oci.image.index", b"vnd.oci.image.endex"),
    "signatures left out": lambda members: members.__delitem__(slice(3, 7)),
    "a way out of the directory": lambda members: members.__setitem__(
        -1, ("../../etc/passwd", members[-1][1])
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_was_put_together_otherwise_is_refused(workshop, change):
    toy = workshop.capsule()
    assert read(rewritten(toy, lambda members: None))[0] == toy.head
    with pytest.raises(VerificationError):
        read(rewritten(toy, change))


def test_a_file_by_another_tar_is_refused(toy, data):
    other = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=other, mode="w") as tar,
    ):
        for member in old:
            tar.addfile(member, old.extractfile(member))
    with pytest.raises(VerificationError, match="a header in another form"):
        read(other.getvalue())


def test_sizes_that_lie_do_not_fill_the_memory():
    data = ustar.render_header("oci-layout", 5 * 1024 * 1024) + b"x" * 1000
    with pytest.raises(VerificationError, match="found more than 4194304 bytes"):
        read(data)


def test_no_payload_is_touched_before_the_head_is_admitted(workshop, tmp_path):
    def admit(head):
        raise VerificationError("refused")

    def take(payload, chunks):
        raise AssertionError("a payload was used")

    file = workshop.capsule().write(tmp_path / "toy.vnfs").open("rb")
    with file, pytest.raises(VerificationError, match="refused"):
        read_capsule(file, where="toy.vnfs", admit=admit, take=take)


def test_a_damaged_blob_is_not_written(workshop, tmp_path):
    toy = workshop.capsule()
    toy.blobs[digest_of(b"kernel!")] = b"kernel?"
    (tmp_path / "toy.vnfs").write_text("old")
    with pytest.raises(VerificationError, match="kernel"):
        toy.write(tmp_path / "toy.vnfs")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.vnfs"]
    assert (tmp_path / "toy.vnfs").read_text() == "old"


def test_two_signatures_in_one_envelope_are_refused(workshop):
    toy = workshop.capsule(signers=())
    keys = [workshop.key("dev"), workshop.key("ops")]
    both = make_envelope(OCI_MANIFEST, toy.manifest, [(key.public_key, key.sign) for key in keys])
    with pytest.raises(VerificationError, match="found 2 signatures in one envelope, expected 1"):
        make_head(toy.manifest, toy.config, [render_envelope(both)])


def test_a_signature_over_another_manifest_is_refused(workshop):
    toy = workshop.capsule()
    with pytest.raises(VerificationError, match="is over another manifest"):
        make_head(toy.manifest, toy.config, workshop.capsule(serial=2).envelopes)
    with pytest.raises(VerificationError, match="config"):
        make_head(toy.manifest, render_config(workshop.config(serial=2)), ())


def test_a_file_is_verified_with_the_trust_of_a_site(workshop, tmp_path):
    path = workshop.capsule().write(tmp_path / "toy.vnfs")
    done = []
    verdict = verify_file(path, trust=workshop.trust(), now=workshop.now, advance=done.append)
    assert verdict.signers == (workshop.key().key_id,)
    assert sum(done) == payload_bytes(workshop.capsule().head)
    with pytest.raises(VerificationError, match="untrusted"):
        verify_file(path, trust=workshop.trust("ops"), now=workshop.now)


def test_an_unsigned_file_is_whole_but_not_trusted(workshop, tmp_path):
    path = workshop.capsule(signers=()).write(tmp_path / "toy.vnfs")
    with pytest.raises(VerificationError, match="not signed"):
        verify_file(path, trust=workshop.trust(), now=workshop.now)


def test_a_file_that_cannot_be_read_is_told(workshop, tmp_path):
    for path in (tmp_path / "none.vnfs", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            verify_file(path, trust=workshop.trust(), now=workshop.now)
