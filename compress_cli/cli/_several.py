"""Several processes for one run: those that torchrun started, or those that `--processes` asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from compress_cli.errors import RecipeError

if TYPE_CHECKING:
    from compress_cli.pipeline.crew import Crew
    from compress_cli.pipeline.plan import Plan
    from compress_cli.pipeline.schedule import Schedule
    from compress_cli.store.store import Store


def is_crew_member() -> bool:
    """Whether another process of the run, the first one, prints and writes."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def check_command(arguments: Sequence[str]) -> None:
    """RecipeError for a command that torchrun has started several times, and that would do its work as often."""
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1" and arguments[:1] != ["run"]:
        raise RecipeError("torchrun: of the commands of compress, only 'run' is made by several processes together")


def joined(context: typer.Context, processes: int, elsewhere: bool, made: Callable[[], tuple[Plan, Store]]) -> Schedule | None:
    """The processes of which this is the first; None where there is none but this one. Another one does not return.

    made: the plan and the store that the command line means.
    """
    if elsewhere and processes > 1:
        raise RecipeError(
            "--processes: train each step by several processes, or make several steps at once with --jobs or --on"
        )
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return None
    from compress_cli.pipeline import crew, crew_member
    from compress_cli.pipeline.rendezvous import Place

    place = Place.of_environment()
    if place is None:
        return None
    if place.rank:
        crew_member.take_part(place, made)
    first = context.with_resource(crew.crew(place))
    if processes > 1:
        raise RecipeError(f"--processes: torchrun started {place.count} processes already; leave one of the two out")
    if elsewhere:
        raise RecipeError(
            "torchrun trains each step by several processes; leave out --jobs and --on, which make several at once"
        )
    return first


def started(context: typer.Context, processes: int, arguments: list[str], threads: int | None) -> Crew:
    """So many processes of this machine, with those arguments of `compress`; they share its cores."""
    import torch

    from compress_cli.pipeline import crew

    if threads is None:
        torch.set_num_threads(crew.threads_each(processes))
    return context.with_resource(crew.started(processes, arguments))
