"""``python -m p2es_lib.cli``: the command ``p2es`` where it is not on PATH."""

from p2es_lib.cli.main import main

main()
