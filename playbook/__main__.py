"""So that a debugger can start it; users start `rotation-playbook`, which no working directory can shadow."""

from playbook.cli import main

main()
