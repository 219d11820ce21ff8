"""One run: a recipe, its task, its directory, and the fingerprint under which each table lives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self, get_args
from urllib.parse import quote

from llambert.annotation.questions import asking
from llambert.annotation.sampling import Purpose
from llambert.annotation.verbalizer import RULES_VERSION
from llambert.corpora import READER_VERSION, contents
from llambert.errors import Damaged
from llambert.recipe import (
    DEFAULTS_VERSION,
    TRAINING_VERSION,
    LabelDtype,
    Recipe,
    digest,
    dump_recipe,
    label_fields,
    load_recipe,
    result_fields,
)
from llambert.storage import generations
from llambert.storage.locations import create_private_folder, names_in
from llambert.storage.manifest import MANIFEST, Manifest, Part, total
from llambert.storage.reference import MAIN, content_identity, find_commit, is_commit, is_hub_name
from llambert.storage.refresh_decisions import Decision, find_decision
from llambert.storage.replaced_parts import remove_unlisted
from llambert.storage.run_directory import DELETE, REPAIR, RunDirectory, TableDirectory
from llambert.tables import TABLES, TableGraph
from llambert.tasks import Task, load_task

PILOT_VERSION = 3
"""Part of a plan's fingerprint: a pilot whose figures have another meaning is made again."""
REPORT_VERSION = 2
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
    pinned: str | None = field(default=None, compare=False)
    """The ``generation`` that is meant, whatever the source holds now."""

    @property
    def directory(self) -> RunDirectory:
        """Where the tables are."""
        return RunDirectory(self.recipe.storage)

    @cached_property
    def model_identities(self) -> dict[str, str]:
        """Content hashes of the annotator's and the classifier's model (an HTTP engine's is its name)."""
        classifier = self.recipe.classifier
        return {
            "annotator": self.asking["model_identity"],
            "classifier": content_identity(classifier.model, classifier.revision),
        }

    @cached_property
    def asking(self) -> dict[str, Any]:
        """``annotation.questions.asking`` of the recipe's annotator."""
        annotator = self.recipe.annotator
        is_named = annotator.engine == "openai"
        identity = annotator.model if is_named else content_identity(annotator.model, annotator.revision)
        return asking(annotator, identity, {each.name: each.answer_words for each in self.task.categories})

    @cached_property
    def generation(self) -> str:
        """Content hash of the corpus' source files: that of now, or the one that is ``pinned``."""
        return self.pinned or contents.generation(self.recipe.corpus)

    def at(self, generation: str) -> Self:
        """This run at a generation of its corpus; what the storage says of it is read anew."""
        other = replace(self, pinned=generation)
        same: dict[str, Any] = {name: vars(self)[name] for name in ("asking", "model_identities") if name in vars(self)}
        vars(other).update(same)  # the models are the same
        return other

    @cached_property
    def generations(self) -> str:
        """The folder of the generations that the run has read of this corpus."""
        return f"{self.recipe.storage.rstrip('/')}/generations/{self._made_of(None)['records']}"

    def claim_generation(self) -> int:
        """Make this run's generation the latest one of its storage; its number, from 1.

        ``Superseded`` if another start works on a newer one.
        """
        return generations.claim(self.generations, self.generation, lambda: contents.generation(self.recipe.corpus))

    def last_read(self) -> Self:
        """This run at the generation that was read last, whatever the source holds now; itself if none was."""
        _, generation = generations.latest(self.generations)
        return self.at(generation) if generation else self

    @property
    def label_dtype(self) -> LabelDtype | None:
        """The dtype of the labels: what the recipe says, or else that in which they were begun.

        None: they are not begun, and the device decides (``execution.devices.with_label_dtype``).
        """
        return self._keys[1]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Table -> twelve hexadecimal digits over every value of recipe, task, corpus and models that can change it.

        Those of the tables upstream are part of it, and so is the ``generation`` of the corpus, but for tables that
        grow (``tables.py``) and a checkpoint that was trained in an earlier generation and stays (``decision``). What a
        table is computed on is not: another kind of chip, or number of threads or workers, may change last digits, and
        with them a label that was close.

        Values at their defaults are left out, so a new key of the recipe changes no fingerprint. ``records`` is the
        corpus without its gold labels: what annotate, parse, label and silver training may see. So a corrected gold
        label costs a new report, not a new annotation. ``answers`` covers how any question is answered, by which model,
        and nothing of what is asked: so other samples, corpora and runs find the same answers. ``labels`` covers
        ``label_dtype``, float32 where that is None.
        """
        return self._keys[0]

    @property
    def checkpoint_recipe(self) -> str:
        """What a checkpoint's fingerprint covers, whatever the corpus holds."""
        return self._made_of(None)["checkpoint"]

    @cached_property
    def decision(self) -> Decision | None:
        """Which checkpoint labels this generation; None if that is not decided, or if it is no more."""
        found = find_decision(self.directory, self.checkpoint_recipe, self.generation, self.recipe.classifier.refresh)
        if found is None or not found.stays:
            return found
        table = self.directory.table("checkpoint", found.checkpoint)
        return found if table.filesystem.exists(table.path(MANIFEST)) else None

    @property
    def fingerprint_if_trained(self) -> str:
        """Of the checkpoint, if it is trained in this generation."""
        return self._made_of(self.generation)["checkpoint"]

    @property
    def as_trained(self) -> Self:
        """This run at the generation in which its checkpoint is trained."""
        return self.at(self.decision.trained_in) if self.decision and self.decision.stays else self

    def _made_of(self, generation: str | None) -> dict[str, str]:
        """The fingerprints up to that of the checkpoint which is trained in a generation; None: in any.

        ``records`` is the corpus without its gold labels. That of a table that grows is the one in any generation.
        """
        recipe, task = self.recipe, self.task
        annotator = result_fields(recipe.annotator)
        num_records = annotator.pop("num_records")
        if "splits" in annotator:  # their order means nothing
            annotator["splits"] = sorted(set(annotator["splits"]))
        fields = result_fields(recipe.corpus)
        # What a gold value means depends on the categories.
        categories = task.category_names if recipe.corpus.columns.gold_label else None
        of_generation = [] if generation is None else [generation]
        corpus = digest(DEFAULTS_VERSION, fields, *of_generation, READER_VERSION, categories)
        fields.pop("gold_labels", None)
        if columns := {name: value for name, value in fields.pop("columns", {}).items() if name != "gold_label"}:
            fields["columns"] = columns
        records = digest(DEFAULTS_VERSION, fields, *of_generation, READER_VERSION)
        # Gold shots are the one way in which gold labels reach the annotator, and only if the recipe says so.
        drawn = [annotator.get("gold_shots"), recipe.annotator.num_shots, task.category_names, Purpose.GOLD_SHOTS]
        shots = digest(corpus, *drawn)
        shown = shots if self.tables["responses"].reads_gold(recipe) else None
        selection = {name: annotator.get(name) for name in ("seed", "stratify_by", "splits")}
        sample = digest(records, selection, num_records, shown)
        answers = digest(self.asking)
        prompt = result_fields(task.prompt(recipe.annotator.prompt))
        shot_words = [result_fields(category) for category in task.categories]
        responses = digest(sample, answers, prompt, recipe.annotator.num_shots, shot_words)
        rules = RULES_VERSION if recipe.annotator.mode == "generate" else None
        silver = digest(responses, result_fields(recipe.parse), rules)
        # Gold labels, which `corpus` covers, reach the classifier in these two regimes alone.
        gold = [corpus, Purpose.GOLD_TRAINING] if recipe.classifier.learns_gold else None
        classifier = result_fields(recipe.classifier)
        checkpoint = digest(silver, gold, classifier, self.model_identities["classifier"], TRAINING_VERSION)
        return {
            "corpus": corpus,
            "records": records,
            "shots": shots,
            "sample": sample,
            "answers": answers,
            "responses": responses,
            "silver": silver,
            "checkpoint": checkpoint,
        }

    @cached_property
    def _keys(self) -> tuple[dict[str, str], LabelDtype | None]:
        """``fingerprints`` and ``label_dtype``."""
        recipe = self.recipe
        found, growing = self._made_of(self.generation), self._made_of(None)
        corpus, records = found["corpus"], found.pop("records")
        if self.decision and self.decision.stays:
            found["checkpoint"] = self.decision.checkpoint
        passed_through = [growing["corpus"]] if self.tables["labels"].reads_gold(recipe) else []
        by_dtype: dict[LabelDtype, str] = {
            dtype: digest(growing["records"], found["checkpoint"], label_fields(recipe.label, dtype), *passed_through)
            for dtype in reversed(get_args(LabelDtype))
        }
        dtype = recipe.labelling.stated_dtype
        if dtype is None:
            begun = names_in(f"{recipe.storage.rstrip('/')}/labels")
            dtype = next((dtype for dtype, fingerprint in by_dtype.items() if fingerprint in begun), None)
        labels = by_dtype[dtype or "float32"]
        # What is made of labels is made of those of a generation.
        made_of_labels = digest(labels, self.generation)
        placed = (recipe.annotator, recipe.classifier, recipe.label)
        guarantee = [result_fields(recipe.guarantee)] if recipe.guarantee else []
        # What the other fingerprints cover, and where answers are kept: those found count with the time they took.
        left_out = {"model", "revision", "splits", "dtype", "refresh", "answer_store"}
        found |= {
            "labels": made_of_labels,
            "report": digest(corpus, labels, REPORT_VERSION, *guarantee),
            "people": digest([self.task.question, self.task.category_names]),
            # What a pilot measures depends on placement too; the models are in `labels`, whatever they are called.
            "plan": digest(
                made_of_labels, PILOT_VERSION, *(each.model_dump(mode="json", exclude=left_out) for each in placed)
            ),
        }
        for table in self.tables:  # those that need no rule of their own
            if table.fingerprint == table.name and table.name not in found:
                seen = found if table.reads_gold(recipe) else {**found, "corpus": records}
                # How it is asked the fingerprint of ``responses``, which is upstream, covers.
                of_recipe = getattr(recipe, table.section) if table.section and not table.texts else None
                section = result_fields(of_recipe) if of_recipe else {}
                found[table.name] = digest(
                    table.name, section, [seen[name] for name in self.tables.upstream(table.name, recipe)]
                )
        return {**found, "corpus": growing["corpus"], "labels": labels}, dtype

    def table(self, name: str) -> TableDirectory:
        """The directory of one of the run's tables."""
        spec = self.tables[name]
        is_companion = spec.written_with is not None
        remedy = REPAIR if spec.is_checked or spec.is_store else DELETE
        if spec.is_store:  # which needs neither corpus nor classifier
            own = f"{self.directory.uri.rstrip('/')}/{name}"
            is_annotators = name == "answers"
            store = (self.recipe.annotator.answer_store or own) if is_annotators else own
            asked = self.asking if is_annotators else [self.task.question, self.task.category_names]
            fingerprint = digest(asked)
            return TableDirectory(f"{store.rstrip('/')}/{fingerprint}", spec.schema, fingerprint, remedy)
        fingerprint = self.fingerprints[spec.fingerprint]
        grows = self.tables.grows(name)
        growing = {"generation": self.generation, "generations": self.generations} if grows else {}
        return self.directory.table(name, fingerprint, spec.schema, remedy, is_companion, **growing)

    def complete(
        self,
        name: str,
        parts: list[Part],
        num_rejected: dict[str, int] | None = None,
        upstream: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Manifest:
        """Mark a table complete, and before it those that have a part for each of its own.

        Their manifests say all the graph knows: the leading one's, which tables it was completed with. ``upstream``
        joins the fingerprints of the tables it is made of; ``fields``: see ``TableDirectory.complete``. Of tables that
        grow the parts of other generations are removed at last.
        """
        spec, provenance = self.tables[name], self._provenance(name)
        provenance["upstream"] |= upstream or {}
        num_rejected = total(parts, "rejected") if num_rejected is None else num_rejected
        num_rows = sum(num_rejected.values())
        for companion in self.tables.together(name):
            if not (companion.is_by_part and companion.written_with == name):
                continue
            table = self.table(companion.name)
            stored = {part.name: part for part in table.committed_parts({part.name for part in parts})}
            if missing := [part.name for part in parts if part.name not in stored]:
                raise Damaged(f"{table.uri}/{missing[0]}", f"it is missing, and that of {name} is there", table.remedy)
            beside = [stored[part.name] for part in parts]
            found, counts = sum(part.num_rows for part in beside), {}
            if companion.is_rejects:
                assert found == num_rows, f"{companion.name} has {found} rows, {name} counts {num_rows} rejected"
                counts = dict(num_rejected)
            table.complete(companion.stage, beside, counts=counts, **provenance)
        if spec.holds_rejected:
            fields["num_kept"] = sum(part.num_rows for part in parts) - num_rows
        fields["belongs_with"] = self.companions(name)
        if self.tables.grows(name):
            self._require_stored(name, parts)
        manifest = self.table(name).complete(spec.stage, parts, num_rejected, **{**provenance, **fields})
        if not spec.written_with:
            self.remove_replaced(name)
        return manifest

    def _require_stored(self, name: str, parts: list[Part]) -> None:
        """``Damaged`` if one of ``parts`` is gone: a start that worked on another generation may have removed it."""
        table = self.table(name)
        stored = table.file_names()
        if missing := next((part.name for part in parts if part.name not in stored), None):
            raise Damaged(f"{table.uri}/{missing}", "it is missing", "start the same command again")

    def remove_replaced(self, name: str) -> None:
        """Remove the parts of a complete table that grows, and of those written with it, that no manifest lists.

        They are of other generations: of files that were changed or removed since. Called once a table is complete, and
        by every later start, since this one may be killed before.
        """
        for spec in self.tables.together(name):
            if self.tables.grows(spec.name):
                remove_unlisted(self.table(spec.name))

    def companions(self, name: str) -> dict[str, str]:
        """The complete tables that ``name`` is completed with, or is a copy of -> their content."""
        spec = self.tables[name]
        names = [table.name for table in self.tables.together(name)[1:]] if not spec.written_with else []
        found = {one: self.table(one).read_manifest() for one in [*names, *filter(None, [spec.copy_of])]}
        return {one: manifest.content for one, manifest in found.items() if manifest}

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
                self.table(files).require_manifest().content if files else self.model_identities[spec.model]
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
        remedy = f"write the commit of {name} into it that {directory.uri}/recipe.yaml names as its revision"
        stored = directory.find(file, remedy)
        if stored is not None and not is_commit(stored := stored.strip()):
            raise Damaged(f"{directory.uri}/{file}", "it holds no commit", remedy)
        commits[file] = stored or find_commit(name, revision, repo_type)
        return commits[file]

    return Run(_pin_revisions(recipe, resolve), load_task(recipe.task), commits=commits)


def claim(run: Run) -> Run:
    """Save the commits in the run's directory, which is made if it must be; the run at those that were saved first."""
    run.directory.claim()
    if store := run.recipe.annotator.answer_store:
        create_private_folder(store)
    stored = {commit: run.directory.create(file, commit) for file, commit in run.commits.items()}
    recipe = _pin_revisions(run.recipe, lambda name, revision, repo_type: stored.get(revision or "", revision))
    return replace(run, recipe=recipe)


def record_recipe(run: Run) -> Run:
    """``claim``, and save the resolved recipe beside the results.

    The run is at the generation of its corpus that it has now: a source that changes later is read by the next start.
    """
    run = claim(run)
    run.directory.write("recipe.yaml", dump_recipe(run.recipe))
    return replace(run, pinned=run.generation)


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
