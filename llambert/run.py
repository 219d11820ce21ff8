"""One run: a recipe, its task, its directory, and the fingerprint under which each table lives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

from llambert import corpora
from llambert.annotation.sampling import Purpose
from llambert.annotation.verbalizer import RULES_VERSION
from llambert.corpora import READER_VERSION
from llambert.recipe import DEFAULTS_VERSION, Recipe, digest, dump_recipe, load_recipe, result_fields
from llambert.storage.manifest import Manifest, Part, total
from llambert.storage.reference import MAIN, content_identity, find_commit, is_hub_name
from llambert.storage.run_directory import RunDirectory, TableDirectory
from llambert.tables import TABLES, TableGraph
from llambert.tasks import Task, load_task

REPORT_VERSION = 1
"""Part of the report's fingerprint. Raise it when a report of the same tables would say something else: a figure is
computed in another way, added or removed, or the page shows it otherwise."""


@dataclass(frozen=True)
class Run:
    """Everything a stage is given. Picklable; stages take ``run`` and return their table's manifest."""

    recipe: Recipe
    task: Task
    tables: TableGraph = field(default=TABLES, compare=False, repr=False)
    commits: Mapping[str, str] = field(default_factory=dict, compare=False)
    """File of the run's directory -> the commit that it says, or will say, for a hub name of the recipe."""

    @property
    def directory(self) -> RunDirectory:
        """Where the tables are."""
        return RunDirectory(self.recipe.storage)

    @cached_property
    def model_identities(self) -> dict[str, str]:
        """Content hashes of the annotator's and the classifier's model (an HTTP engine's is its name)."""
        annotator, classifier = self.recipe.annotator, self.recipe.classifier
        return {
            "annotator": annotator.model
            if annotator.engine == "openai"
            else content_identity(annotator.model, annotator.revision),
            "classifier": content_identity(classifier.model, classifier.revision),
        }

    @cached_property
    def corpus_identity(self) -> str:
        """Content hash of the corpus' source files."""
        return corpora.identity(self.recipe.corpus)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Table -> twelve hexadecimal digits over every value that can change it and the tables upstream.

        Values at their defaults are left out, so a new key of the recipe changes no fingerprint. ``records`` is the
        corpus without its gold labels: what annotate, parse, label and silver training may see. So a corrected gold
        label costs a new report, not a new annotation. ``responses`` leaves ``num_records`` out: a response depends
        on its record, not on how many others are asked about, so a larger sample finds the responses of the smaller
        one.
        """
        recipe, task = self.recipe, self.task
        annotator = result_fields(recipe.annotator)
        num_records = annotator.pop("num_records")
        if "splits" in annotator:  # their order means nothing
            annotator["splits"] = sorted(set(annotator["splits"]))
        fields = result_fields(recipe.corpus)
        # What a gold value means depends on the categories.
        categories = task.category_names if recipe.corpus.columns.gold_label else None
        corpus = digest(DEFAULTS_VERSION, fields, self.corpus_identity, READER_VERSION, categories)
        fields.pop("gold_labels", None)
        if columns := {name: value for name, value in fields.pop("columns", {}).items() if name != "gold_label"}:
            fields["columns"] = columns
        records = digest(DEFAULTS_VERSION, fields, self.corpus_identity, READER_VERSION)
        # Gold shots are the one way in which gold labels reach the annotator, and only if the recipe says so.
        drawn = [annotator.get("gold_shots"), recipe.annotator.num_shots, task.category_names, Purpose.GOLD_SHOTS]
        shots = digest(corpus, *drawn)
        shown = shots if self.tables["responses"].reads_gold(recipe) else None
        selection = {name: annotator.get(name) for name in ("seed", "stratify_by", "splits")}
        sample = digest(records, selection, num_records, shown)
        responses = digest(
            records,
            annotator,
            shown,
            self.model_identities["annotator"],
            result_fields(task.prompt(recipe.annotator.prompt)),
            [result_fields(category) for category in task.categories],
        )
        rules = RULES_VERSION if recipe.annotator.mode == "generate" else None
        silver = digest(responses, num_records, result_fields(recipe.parse), rules)
        # Gold labels, which `corpus` covers, reach the classifier in these two regimes alone.
        gold = [corpus, Purpose.GOLD_TRAINING] if recipe.classifier.learns_gold else None
        checkpoint = digest(silver, gold, result_fields(recipe.classifier), self.model_identities["classifier"])
        passed_through = [corpus] if self.tables["labels"].reads_gold(recipe) else []
        labels = digest(records, checkpoint, result_fields(recipe.label), *passed_through)
        found = {
            "corpus": corpus,
            "shots": shots,
            "sample": sample,
            "responses": responses,
            "silver": silver,
            "checkpoint": checkpoint,
            "labels": labels,
            "report": digest(corpus, labels, REPORT_VERSION),
        }
        for table in self.tables:  # those that need no rule of their own
            if table.fingerprint == table.name and table.name not in found:
                seen = found if table.reads_gold(recipe) else {**found, "corpus": records}
                section = result_fields(getattr(recipe, table.section)) if table.section else {}
                found[table.name] = digest(
                    table.name, section, [seen[name] for name in self.tables.upstream(table.name, recipe)]
                )
        return found

    def table(self, name: str) -> TableDirectory:
        """The directory of one of the run's tables."""
        spec = self.tables[name]
        return self.directory.table(name, self.fingerprints[spec.fingerprint], spec.schema)

    def complete(
        self,
        name: str,
        parts: list[Part],
        num_rejected: dict[str, int] | None = None,
        upstream: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Manifest:
        """Mark a table complete, and before it the table of what it rejects; their manifests say all the graph knows.

        ``upstream`` joins the fingerprints of the tables it is made of; ``fields``: see ``TableDirectory.complete``.
        """
        spec, provenance = self.tables[name], self._provenance(name)
        provenance["upstream"] |= upstream or {}
        num_rejected = total(parts, "rejected") if num_rejected is None else num_rejected
        num_rows = sum(num_rejected.values())
        for companion in self.tables.together(name):
            if companion.is_rejects and companion.written_with == name:
                rejects = self.table(companion.name)
                stored = {part.name: part for part in rejects.committed_parts({part.name for part in parts})}
                rejected = [stored[part.name] for part in parts if part.name in stored]
                found = sum(part.num_rows for part in rejected)
                assert found == num_rows, f"{companion.name} has {found} rows, {name} counts {num_rows} rejected"
                rejects.complete(companion.stage, rejected, counts=dict(num_rejected), **provenance)
        if spec.holds_rejected:
            fields["num_kept"] = sum(part.num_rows for part in parts) - num_rows
        return self.table(name).complete(spec.stage, parts, num_rejected, **{**provenance, **fields})

    def _provenance(self, name: str) -> dict[str, Any]:
        """What the manifests of a table and of those written with it say of where they come from."""
        spec = self.tables.leader(name)
        found: dict[str, Any] = {
            "upstream": {one: self.fingerprints[one] for one in self.tables.upstream(name, self.recipe)}
        }
        if spec.section:
            found["recipe"] = getattr(self.recipe, spec.section).model_dump(mode="json")
        if spec.model:
            found["model"] = getattr(self.recipe, spec.model).model
            files = spec.model_files
            found["model_identity"] = (
                content_identity(self.table(files).uri) if files else self.model_identities[spec.model]
            )
        return found


def open_run(recipe_path: str, settings: list[str] | None = None) -> Run:
    """The run a recipe file describes, each hub name at the commit that is stored, or that it is at now.

    Nothing is written. ``InputError`` if another version's run is in its place.
    """
    recipe = load_recipe(recipe_path, settings)
    directory = RunDirectory(recipe.storage)
    directory.check_layout()
    commits: dict[str, str] = {}

    def resolve(name: str, revision: str | None, repo_type: str) -> str | None:
        if not is_hub_name(name):
            return revision
        file = f"commits/{repo_type}/{quote(f'{name}@{revision or MAIN}', safe='')}"
        commits[file] = directory.find(file) or find_commit(name, revision, repo_type)
        return commits[file]

    return Run(_pin_revisions(recipe, resolve), load_task(recipe.task), commits=commits)


def record_recipe(run: Run) -> Run:
    """Save the resolved recipe and the commits beside the results; the run at the commits that were saved first."""
    run.directory.claim()
    stored = {commit: run.directory.create(file, commit) for file, commit in run.commits.items()}
    recipe = _pin_revisions(run.recipe, lambda name, revision, repo_type: stored.get(revision or "", revision))
    run.directory.write("recipe.yaml", dump_recipe(recipe))
    return replace(run, recipe=recipe)


def _pin_revisions(recipe: Recipe, resolve: Callable[[str, str | None, str], str | None]) -> Recipe:
    """The recipe with each model's and data set's revision replaced by ``resolve(name, revision, repo_type)``."""

    def pin(section: Any, name: str, repo_type: str = "model") -> Any:
        return section.model_copy(update={"revision": resolve(name, section.revision, repo_type)})

    sections: dict[str, Any] = {}
    if recipe.annotator.engine != "openai":
        sections["annotator"] = pin(recipe.annotator, recipe.annotator.model)
    sections["classifier"] = pin(recipe.classifier, recipe.classifier.model)
    if recipe.corpus.format == "huggingface":
        dataset = pin(recipe.corpus.huggingface, recipe.corpus.path, "dataset")
        sections["corpus"] = recipe.corpus.model_copy(update={"huggingface": dataset})
    return recipe.model_copy(update=sections)
