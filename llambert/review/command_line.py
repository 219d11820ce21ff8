"""``llambert review``: texts go out to people, and their answers come back."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from llambert.command_arguments import RecipePath, Settings
from llambert.errors import InputError
from llambert.run import Run, open_run

if TYPE_CHECKING:
    from llambert.review.items import Sample

app = typer.Typer(
    no_args_is_help=True, help="Ask people: about records where two labels disagree, or as the oracle of a guarantee."
)


@app.command("export")
def review_export(
    recipe: RecipePath,
    n: Annotated[int | None, typer.Option("--n", min=1, help="How many disagreements; default 100.")] = None,
    order: Annotated[
        str | None, typer.Option(help="random (the default), or hardest: the classifier's least sure labels first.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for the sample of disagreements; default 0.")] = None,
    split: Annotated[str | None, typer.Option(help="Only disagreements of this split of the corpus.")] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Instead: what people must answer before the guarantee can be given.")
    ] = False,
    escalate: Annotated[
        int | None, typer.Option(min=1, help="Instead: so many of the least sure labels, for people to decide.")
    ] = None,
    mixed: Annotated[str, typer.Option(help="What people may answer besides the categories.")] = "mixed/neutral",
    output: Annotated[str, typer.Option(help="Where the files go: a folder or s3://….")] = "review",
    settings: Settings = None,
) -> None:
    """Write a blind sample as CSV and for Label Studio and Argilla: of disagreements, or for a guarantee."""
    from llambert.review import formats

    chosen = {"--n": n, "--order": order, "--seed": seed, "--split": split}
    _check_choice(certify, escalate, [flag for flag, value in chosen.items() if value is not None])
    run = open_run(recipe, settings).last_read()
    if certify or escalate:
        sample, said = _draw_for_guarantee(run, escalate, mixed)
    else:
        sample, said = _draw_disagreements(run, n or 100, order or "random", seed or 0, split, mixed)
    files = formats.write(sample, output)
    print(f"{said} written to {output}: {', '.join(files)}")
    save = " --save" if certify or escalate else ""
    print(f"answers: {', '.join(sample.answers)}; then: llambert review import {recipe} FILE…{save}")


@app.command("import")
def review_import(
    recipe: RecipePath,
    files: Annotated[list[str], typer.Argument(help="Answered CSV files, exports of Label Studio or Argilla.")],
    save: Annotated[
        bool, typer.Option("--save", help="Keep the answers in the run: for a guarantee, and as gold labels.")
    ] = False,
    settings: Settings = None,
) -> None:
    """Read people's answers and print how far they agree: of disagreements a cross-table of gold, model and person."""
    from llambert.review import disagreements, formats, saving

    run, answers = open_run(recipe, settings).last_read(), formats.read(files)
    for reason, num in sorted(answers.left_out.items()):
        print(f"left out, {reason}: {num:,}", file=sys.stderr)
    is_of_disagreements = saving.is_of_disagreements(run, answers.given)
    if not is_of_disagreements and not save:
        raise InputError("these answers are for a guarantee, which needs them saved: import them with --save")
    if is_of_disagreements:
        for line in disagreements.render(disagreements.cross_table(run, answers.given)):
            print(line)
    if save:
        now = datetime.now(UTC)
        saved = saving.save_answers(run, answers.given, now.replace(microsecond=now.microsecond // 1000 * 1000))
        for line in saving.render(saved, recipe, with_agreement=not is_of_disagreements):
            print(line)


def _check_choice(certify: bool, escalate: int | None, of_disagreements: list[str]) -> None:
    """``InputError`` for options that exclude each other."""
    if certify and escalate:
        raise InputError("--certify and --escalate exclude each other: export one sample at a time")
    if of_disagreements and (certify or escalate):
        flag = "--certify" if certify else "--escalate"
        raise InputError(f"{of_disagreements[0]}: is for samples of disagreements, and not with {flag}")


def _draw_for_guarantee(run: Run, escalate: int | None, mixed: str) -> "tuple[Sample, str]":
    """The sample, and what it is; ``escalate`` None: for the certificate."""
    from llambert.review.asking_people import ask_for_certificate, ask_for_escalation

    sample = ask_for_escalation(run, escalate, mixed) if escalate else ask_for_certificate(run, mixed)
    what = "below the threshold, the least sure ones," if escalate else "of the certification sample"
    return sample, f"{len(sample.items):,} of {sample.num_open:,} texts {what} that nobody has answered,"


def _draw_disagreements(
    run: Run, num: int, order: str, seed: int, split: str | None, mixed: str
) -> "tuple[Sample, str]":
    """The sample, and what it is."""
    from llambert.review.disagreements import draw

    if order not in ("random", "hardest"):
        raise InputError(f"--order: random or hardest, not {order!r}")
    sample = draw(run, num, order, seed, split, mixed)  # type: ignore[arg-type]
    said = (
        f"{len(sample.items):,} of {sample.num_disagreements:,} records whose {sample.reference} label the classifier "
        f"does not give, {order},"
    )
    return sample, said
