"""`python -m cluster.daemons FOLDER` is the supervisor of that home."""

import sys

from cluster.daemons.supervisor import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
