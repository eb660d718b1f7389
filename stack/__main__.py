import os

from stack.cli import cli

os.umask(0o022)  # containers' users read what is written here; .local keeps others out
cli(prog_name="python -m stack")
