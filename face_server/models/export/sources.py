"""Whose weights a model holds, for the people and programs that read a repository."""

from __future__ import annotations

from dataclasses import dataclass

from face_server.models.catalog import CatalogEntry, SdistMember, Source, WheelMember


@dataclass(frozen=True, slots=True)
class Origin:
    """The published weights behind a model. ``sha256`` is the digest of their file, empty for a user's own file that is not here."""

    network: str
    sha256: str
    licence: str
    commercial_use: bool
    source: str

    def parameters(self) -> dict[str, str]:
        """What ``config.pbtxt`` says of them."""
        digest = {"weights_sha256": self.sha256} if self.sha256 else {}
        return {**digest, "licence": self.licence, "source": self.source}

    def note(self, model: str) -> bytes:
        """The file that lies beside ``config.pbtxt``."""
        use = "allowed" if self.commercial_use else "not allowed"
        lines = [
            f"The weights of {model} are those of the network {self.network}.",
            f"From: {self.source}",
            f"Licence: {self.licence} (commercial use: {use})",
            f"sha256 of the published file: {self.sha256 or 'unknown; it is your own file'}",
        ]
        return "".join(f"{line}\n" for line in lines).encode()


def origin_of(entry: CatalogEntry) -> Origin:
    """The origin of a network of the catalogue."""
    source = described(entry.sources[0]) if entry.sources else f"your own file {entry.file_name}"
    return Origin(entry.name, entry.sha256, entry.licence, entry.commercial_use, source)


def described(source: Source) -> str:
    """A source in words."""
    match source:
        case WheelMember():
            return f"{source.member} in the wheel {source.project} {source.version}"
        case SdistMember():
            return f"{source.member} in the source archive {source.project} {source.version}"
        case _:
            return source.url
