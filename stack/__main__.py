from stack.cli import cli

cli(prog_name="python -m stack")
