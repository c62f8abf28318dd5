"""`python -m knowledge_circuits`: the `kc` command where its script is not on the path."""

from knowledge_circuits.command import main

if __name__ == "__main__":
    raise SystemExit(main())
