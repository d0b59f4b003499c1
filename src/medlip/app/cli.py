"""The command line."""

import typer

app = typer.Typer(help="Fine-grained medical language-image pre-training.", no_args_is_help=True)


def main() -> None:
    """Run the command line."""
    app()
