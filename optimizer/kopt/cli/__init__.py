"""Commands: each is one call into the package, and what is shown of it.

Modules here import typer alone at the top; a command imports what it needs when it runs, so that help and lists of runs
start at once.
"""
