"""Arguments that several commands take."""

from typing import Annotated

import typer

RecipePath = Annotated[str, typer.Argument(help="The recipe file.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A value of the recipe, as key.path=value.")]
