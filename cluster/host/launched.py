"""What other launchers have left in the environment: ranks of a job see their own world alone."""

import os

OF_MPI = ("OMPI_", "PMIX_", "PMI_", "MPI_", "MV2_")  # DeepSpeed compares them with LOCAL_RANK
OF_ELASTIC = ("TORCHELASTIC_", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_")  # of another store


def left_over(*prefixes: str) -> dict[str, None]:
    """The variables of this process that begin so, to be taken out."""
    return dict.fromkeys(name for name in os.environ if name.startswith(prefixes))
