"""`python -m es_cli` is `es`."""

from es_cli.cli.app import main

main()
