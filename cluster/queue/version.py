"""What client and service must agree on to understand each other."""

from importlib import metadata

PROTOCOL = 1  # raised with each change that an older client would not understand
HEADER = "X-Orchestrate"


def version() -> str:
    """Of the package, and of what client and service say to one another."""
    try:
        return f"{metadata.version('orchestrate')}/{PROTOCOL}"
    except metadata.PackageNotFoundError:
        return f"source/{PROTOCOL}"
