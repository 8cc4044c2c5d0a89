"""What the options before the verb say: which configuration, which socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisiond.client import DEFAULT_SOCKET, Client
from provisiond.config import Config, parse_config
from vnfsbuild.errors import InputError
from vnfsbuild.files import read_bounded

DEFAULT_CONFIG = Path("/etc/provisiond/provisiond.toml")
MAX_CONFIG_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Handed to every command."""

    config: Path
    socket: Path | None

    def load_config(self) -> Config:
        """Return the configuration.

        Raises:
            InputError: there is none, or with all of its faults.
        """
        try:
            data = read_bounded(self.config, limit_bytes=MAX_CONFIG_BYTES)
        except InputError as error:
            raise InputError(
                error.message, hint=f"provisiond init --config {self.config} writes it"
            ) from error
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.config}: found bytes that are not UTF-8") from error
        return parse_config(text, where=str(self.config))

    def client(self) -> Client:
        """Return what talks to the daemon: on the socket that was given, else the configured.

        Who may not read the configuration may be in the group all the same: then it is the one
        where it usually is.
        """
        if self.socket is not None:
            return Client(self.socket)
        try:
            return Client(self.load_config().socket)
        except InputError:
            return Client(DEFAULT_SOCKET)
