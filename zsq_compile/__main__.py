"""Run the command line with ``python -m zsq_compile``."""

from zsq_compile.cli.entry import main

main()
