"""Why a request is turned down. :mod:`.api` gives each its HTTP status."""

from __future__ import annotations

from vnfsbuild.errors import InputError, VnfsbuildError


class Refused(VnfsbuildError):
    """The request is not one that this node may make."""


class TooMany(VnfsbuildError):
    """Not now; the same request is good in a second."""


class NotThere(InputError):
    """What was asked for does not exist, or not any more."""
