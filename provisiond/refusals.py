"""Why a request is turned down. :mod:`.api` gives each its HTTP status."""

from __future__ import annotations

from vnfsbuild.errors import InputError, VnfsbuildError


class Refused(VnfsbuildError):
    """The request is not one that this node may make."""


class TooMany(VnfsbuildError):
    """Not now; the same request is good in a second."""


class NotThere(InputError):
    """What was asked for does not exist, or not any more."""


UPLOADED = "the uploaded capsule"
"""What stands in messages for the file that an upload is kept in for a while; the client, who knows
what the person called it, says that instead."""
