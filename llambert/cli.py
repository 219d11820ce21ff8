"""``llambert …``: plan, run, status, verify, repair, label, serve, ontology, report. Commands import what they need
when they run, so that ``llambert --help`` and a complete run come back at once.

Exit status: 0 done; 2 the recipe or its inputs are at fault, with one line a fault; 130 or 143 stopped by SIGINT or
SIGTERM; 1 anything else.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from llambert import __version__, engines, stopping
from llambert.command_arguments import RecipePath, Settings
from llambert.errors import InputError
from llambert.execution import Executor
from llambert.experiments.experiment_recipe import AnyExperiment, load_experiment
from llambert.printable import SURROGATE, visible
from llambert.review import command_line
from llambert.run import Run, open_run, record_recipe
from llambert.section import validate
from llambert.storage.manifest import Manifest
from llambert.urls import without_secrets

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(command_line.app, name="review")

InProcess = Annotated[
    bool, typer.Option("--in-process", help="One worker in this process, no Ray: for small corpora and for debugging.")
]


def job(step: Callable[[Run, Executor], object]) -> None:
    """Run ``step`` as a program whose arguments are a recipe, ``--set`` and ``--in-process``: the body of every job."""

    def main(recipe: RecipePath, settings: Settings = None, in_process: InProcess = False) -> None:
        _start(_open_checked(recipe, settings), lambda run: step(run, _executor(in_process)))

    _run_as_program(main)


def experiment_job(run_experiment: Callable[[AnyExperiment], str]) -> None:
    """Run an experiment as a program whose arguments are its recipe and ``--set``s, and print its page."""

    def main(recipe: RecipePath, settings: Settings = None) -> None:
        print(run_experiment(load_experiment(recipe, settings)))

    _run_as_program(main)


def _run_as_program(function: Callable[..., None]) -> None:
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command(help=sys.modules["__main__"].__doc__)(function)
    _run_and_exit(program)


def main() -> None:
    """The console script."""
    _run_and_exit(app)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="What to call the task, its recipe and its run.", show_default=False)],
    corpus: Annotated[str | None, typer.Option(help="The texts: a file, a folder, a glob or s3://….")] = None,
    question: Annotated[str | None, typer.Option(help="What is asked about each text.")] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="A label, with answer words if they differ: label or label=word,word.")
    ] = None,
    shot: Annotated[list[str] | None, typer.Option(help="A worked answer, as label=text.")] = None,
    text: Annotated[str | None, typer.Option(help="The column of the text; none: guessed from the file.")] = None,
    record_id: Annotated[str | None, typer.Option(help="The column of the id, if there is one.")] = None,
    gold_label: Annotated[str | None, typer.Option(help="The column of a person's labels, if there is one.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of text files that are not UTF-8, such as gb18030.")] = None,
    folder: Annotated[str, typer.Option(help="Where the two files go.")] = ".",
) -> None:
    """Write a commented task and recipe for a question of your own; asks for what the flags do not say."""
    from llambert.authoring.draft import Draft, guess_text_column, parse_categories, parse_shots
    from llambert.corpus_recipe import CorpusRecipe

    corpus = corpus or _prompt_for("corpus", "Where are the texts (a file, a folder, a glob or s3://…)?")
    source = validate(CorpusRecipe, {"path": corpus, "encoding": encoding}, "", "llambert init")
    text = text or guess_text_column(source)
    question = question or _prompt_for("question", "What do you want to know about each text?")
    labels = category or _prompt_for("category", "The labels, separated by semicolons?").split(";")
    categories = parse_categories(labels)
    shots = parse_shots(shot or [], categories)
    draft = Draft(name, question, categories, corpus, text, record_id, gold_label, shots, encoding)
    task, recipe = draft.write(Path(folder))
    print(f"{task}: the question; its texts are in column {text!r} of {corpus}\n{recipe}: the run")
    print(f"next: llambert try {recipe}, then llambert run {recipe}")


@app.command("try")
def try_(
    recipe: Annotated[str, typer.Argument(help="A recipe; or a task, with --corpus.", show_default=False)],
    n: Annotated[int, typer.Option("--n", min=1, help="How many records.")] = 5,
    corpus: Annotated[str | None, typer.Option(help="With a task: where its texts are.")] = None,
    text: Annotated[str, typer.Option(help="With a task: the column that holds the text.")] = "text",
    prompts_only: Annotated[bool, typer.Option(help="Show the prompts and load no model.")] = False,
    settings: Settings = None,
) -> None:
    """Show the prompts and the LLM's answers for a few records; a recipe's run finds the answers."""
    from llambert.authoring import trial

    chosen = trial.open_trial(recipe, corpus, text, settings)
    records = trial.first_records(chosen, n)
    if prompts_only:
        lines = trial.render_prompts(records, chosen)
    else:
        lines = trial.render(trial.run_trial(records, chosen), chosen)
    for line in lines:
        print(line)


@app.command()
def plan(
    recipe: RecipePath,
    records: Annotated[
        int, typer.Option(min=50, help="Records to learn from that the pilot annotates; they stay annotated.")
    ] = 500,
    gain: Annotated[float, typer.Option(min=0.01, help="Points of accuracy that a doubling has to promise.")] = 0.5,
    prices: Annotated[
        str | None, typer.Option(help="A price table of your own, such as llambert/planning/prices.yaml.")
    ] = None,
    accelerator: Annotated[str | None, typer.Option(help="The GPU of the price table that runs it.")] = None,
    curve: Annotated[bool, typer.Option(help="Train small classifiers, to say how many annotations pay.")] = True,
    measured: Annotated[
        list[str] | None, typer.Option(help="A rate from elsewhere, instead of a pilot: STAGE=NUM:SECONDS.")
    ] = None,
    corpus_records: Annotated[int | None, typer.Option(min=1, help="With --measured: records of the corpus.")] = None,
    settings: Settings = None,
) -> None:
    """Say what a run will take, stage by stage, what the LLM on everything would, and how many annotations pay."""
    from llambert.planning import plan as planning
    from llambert.planning.costs import load_prices
    from llambert.planning.forecast import parse_timings
    from llambert.recipe import load_recipe

    table = load_prices(prices)
    if accelerator is not None and accelerator not in table.accelerators:
        raise InputError(f"--accelerator: the price table has {', '.join(table.accelerators)}, not {accelerator!r}")
    if measured:
        if corpus_records is None:
            raise InputError("--measured: needs --corpus-records, since no corpus is read")
        rates = parse_timings(measured)
        planned = planning.plan_from_rates(load_recipe(recipe, settings), rates, corpus_records, table)
    else:
        opened = _open_checked(recipe, settings)
        planned = planning.plan(record_recipe(opened), records, gain / 100, table, curve)
    for line in planning.render(planned, accelerator):
        print(line)


@app.command()
def run(recipe: RecipePath, settings: Settings = None, in_process: InProcess = False) -> None:
    """Ingest, annotate, parse, fine-tune, label (certify, escalate), report. Complete stages are skipped."""
    opened = _open_checked(recipe, settings)
    from llambert.pipeline import pipeline

    _start(opened, lambda run: pipeline(run, _executor(in_process)))


@app.command()
def status(recipe: RecipePath, settings: Settings = None) -> None:
    """Show the progress of each stage, during the run and after it."""
    from llambert.integrity.status import render, status

    print(render(status(open_run(recipe, settings))))


@app.command()
def verify(recipe: RecipePath, settings: Settings = None) -> None:
    """Check that every part exists and is unaltered, and that every record is in exactly one."""
    from llambert.integrity.source_changes import source_note
    from llambert.integrity.verify import verify

    findings, note = verify(opened := open_run(recipe, settings)), source_note(opened)
    for line in [*([f"corpus: {note}"] if note else []), *findings]:
        print(line)
    if findings:
        raise typer.Exit(1)
    print("verified: every part is there and whole, every record once")


@app.command()
def repair(recipe: RecipePath, settings: Settings = None) -> None:
    """Set aside what verify finds damaged, and make only that again."""
    from llambert.integrity.repair import repair

    num = 0
    for num, finding in enumerate(repair(record_recipe(_open_checked(recipe, settings))), 1):  # noqa: B007
        print(finding, flush=True)
    print(f"repaired: {num} findings, made again and verified" if num else "nothing to repair: every part is whole")


@app.command()
def label(
    checkpoint: Annotated[str, typer.Option(help="A fine-tuned classifier: a folder, s3://… or a hub name.")],
    source: Annotated[str, typer.Option("--input", help="Files to label: one, a folder or a glob.")],
    output: Annotated[str, typer.Option(help="Where the labels go: a folder or s3://….")],
    text: Annotated[str, typer.Option(help="The column that holds the text.")] = "text",
    record_id: Annotated[str | None, typer.Option(help="The column that holds the id; none: file and row.")] = None,
    max_malformed_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the rows that may be unreadable.")
    ] = 0.01,
    encoding: Annotated[str | None, typer.Option(help="Of text files that are not UTF-8, such as gb18030.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the checkpoint.")] = False,
) -> None:
    """Label any files with a checkpoint, without the rest of the method."""
    from llambert.corpora.rows import HIDDEN_FILES, hidden_files_skipped
    from llambert.corpus_recipe import Columns, CorpusRecipe
    from llambert.recipe import LabelRecipe
    from llambert.stages.label.user_files import label_files

    columns = Columns(text=text, record_id=record_id)
    values = {"path": source, "encoding": encoding, "max_malformed_share": max_malformed_share}
    corpus = validate(CorpusRecipe, {**values, "columns": columns.model_dump(mode="json")}, "", "llambert label")
    manifest = label_files(checkpoint, corpus, output, LabelRecipe(trust_remote_code=trust_remote_code))
    rejected = ", ".join(f"{num:,} {reason}" for reason, num in manifest.num_rejected.items()) or "none"
    skipped = hidden_files_skipped(manifest.counts.get(HIDDEN_FILES, 0))
    line = f"{manifest.num_kept:,} of {manifest.num_in:,} records labelled into {output}; rejected: {rejected}"
    print(visible(f"{line}; {skipped}" if skipped else line))


@app.command()
def serve(
    run: Annotated[str, typer.Argument(help="A run directory, a recipe or a checkpoint folder.", show_default=False)],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: for every machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Minimum number of replicas.")] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, help="Maximum number of replicas, under load.")] = 1,
    cpus: Annotated[float | None, typer.Option(help="CPUs per replica; default: an equal share.")] = None,
    limits: Annotated[list[str] | None, typer.Option("--limit", help="A limit, as max_texts=500.")] = None,
    settings: Settings = None,
) -> None:
    """Label by HTTP: POST /v1/label, GET /healthz, /docs. If LLAMBERT_SERVE_TOKEN is set, requests need that token."""
    from llambert.execution.ray_executor import connect
    from llambert.serving import deployment as serving

    most = max(replicas, max_replicas)
    placed = {"min_replicas": replicas, "max_replicas": most, "cpus_per_replica": cpus, "listen": (host, port)}
    options = serving.options(run, settings, limits, **placed)
    serving.check(options)
    # Of the processes that Ray starts; Serve, already imported here, keeps its threads in this one.
    for switch in ("RUN_USER_CODE_IN_SEPARATE_THREAD", "RUN_ROUTER_IN_SEPARATE_LOOP"):
        os.environ.setdefault(f"RAY_SERVE_{switch}", "0")  # a thread less between a request and its answer
    connect()
    stopping.leave()  # a stopped server answers what it accepted
    serving.serve_until_stopped(options)


@app.command()
def ontology(
    run: Annotated[str, typer.Argument(help="A run directory, or its recipe file.", show_default=False)],
    category: Annotated[str, typer.Option(help="The label of the concepts to keep.")],
    output: Annotated[str, typer.Option("--output", "--out", help="Where the files go: a folder or s3://….")],
    settings: Settings = None,
) -> None:
    """The concepts that a UMLS run labelled with a category and their CHD edges: Parquet, GraphML and GEXF."""
    from llambert.ontology import ontology

    recipe, where = (f"{run}/recipe.yaml", [f"storage={run}"]) if Path(run).is_dir() else (run, [])
    found = ontology(open_run(recipe, [*(settings or []), *where]).last_read(), category)
    found.write(output)
    print(f"{found.nodes.num_rows:,} concepts and {found.edges.num_rows:,} edges between them written to {output}")


@app.command()
def report(
    recipe: RecipePath,
    prices: Annotated[str | None, typer.Option(help="Write it again with a price table of your own.")] = None,
    settings: Settings = None,
) -> None:
    """Write the report of a finished run if it has none, and print its summary."""
    from llambert.report.page import report

    _start(_open_checked(recipe, settings).last_read(), lambda run: report(run, prices))


def _prompt_for(flag: str, question: str) -> str:
    try:
        return str(typer.prompt(question)).strip()
    except typer.Abort:
        raise InputError(f"--{flag}: is missing, and this is not an interactive terminal") from None


def _open_checked(recipe: str, settings: list[str] | None) -> Run:
    """The run, after every check that reads no record."""
    from llambert.corpora import gold
    from llambert.stages import by_label, certify, parse

    opened = open_run(recipe, settings)
    gold.check(opened.recipe.corpus, opened.task.category_names)
    engines.check(opened.recipe.annotator, opened.task)
    parse.check(opened)
    certify.check(opened)
    by_label.check(opened)
    opened.fingerprints  # noqa: B018  looks up every file and model
    return opened


def _executor(in_process: bool) -> Executor:
    if in_process:
        from llambert.execution.in_process import IN_PROCESS

        return IN_PROCESS
    from llambert.execution.ray_executor import RAY

    return RAY


def _start(run: Run, step: Callable[[Run], object]) -> None:
    run = record_recipe(run)
    done = step(run)
    if isinstance(done, Manifest) and done.stage != "report":
        print(done.summary)
    elif (run := run.at(run.generation)).table("report").read_manifest() is not None:  # now its labels have a dtype
        from llambert.report.page import summary

        print(summary(run))


def _run_and_exit(program: typer.Typer) -> None:
    stopping.install()
    stopping.run(lambda: _run(program))


def _run(program: typer.Typer) -> None:
    try:
        if strange := next((value for value in sys.argv if SURROGATE.search(value)), None):
            raise InputError(f"{strange}: the name is not UTF-8; rename the file, or name the folder that it is in")
        program()
    except InputError as error:
        for line in str(error).splitlines():
            print(f"llambert: {line}", file=sys.stderr)
        sys.exit(2)
    except Exception:  # a fault of ours, whose traceback may quote a signed URL or the password of a proxy
        if stopping.stopped_by():
            raise
        print(visible(without_secrets(traceback.format_exc())), end="", file=sys.stderr)
        sys.exit(1)
