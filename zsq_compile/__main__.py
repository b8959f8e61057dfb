"""Run the command line with ``python -m zsq_compile``."""

from zsq_compile.entry import main

main()
