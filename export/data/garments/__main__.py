"""Write the built-in pictures:  python -m cir_rt.export.data.garments FOLDER [--seed N]."""

from __future__ import annotations

from pathlib import Path

import click

from cir_rt.export.data.garments.dataset import write


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, seed: int) -> None:
    """Draw both splits into FOLDER, in FashionIQ's layout: 9,000 and 2,400 pictures."""
    write(folder, seed=seed)


if __name__ == "__main__":
    main()
