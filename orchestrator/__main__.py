"""`python -m orchestrator` is the console script `orchestrate`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
