"""What the label stage computes in and on, where its recipe does not say: one dtype a table, decided by the driver."""

import pytest

from llambert.errors import InputError
from llambert.execution.devices import by_device, placed, with_gpus, with_label_dtype
from llambert.execution.in_process import InProcessExecutor
from llambert.execution.placement import half_precision_of
from llambert.recipe import LabelRecipe
from llambert.run import Run
from llambert.stages.label import label
from tests.fixtures.label_runs import fill, filled_run, make_run
from tests.fixtures.noting_executor import NotingExecutor
from tests.fixtures.tiny_classifier import tiny_texts

T4, A100, CPU = {"GPU": 1.0, "accelerator_type:T4": 1.0}, {"GPU": 8.0, "accelerator_type:A100": 1.0}, {"CPU": 4.0}


class HasGpus(InProcessExecutor):
    """An executor whose cluster has GPUs of one kind, or none; it counts how often it was asked."""

    def __init__(self, dtype: str | None) -> None:
        self.dtype, self.num_asked = dtype, 0

    def half_precision(self, _: str | None = None) -> str | None:
        self.num_asked += 1
        return self.dtype


@pytest.mark.parametrize(
    ("nodes", "resource", "expected"),
    [
        ([CPU], None, None),
        ([CPU, A100], None, "bfloat16"),
        ([CPU, T4], None, "float16"),
        ([T4, A100], None, "bfloat16"),
        ([CPU, {"GPU": 1.0}], None, "bfloat16"),
        ([CPU | {"labelling": 1.0}, A100], "labelling", None),
        ([CPU, A100 | {"labelling": 1.0}, T4], "labelling", "bfloat16"),
    ],
)
def test_the_nodes_that_the_stage_may_use_say_which_half_precision(nodes, resource, expected):
    assert half_precision_of(nodes, resource) == expected


@pytest.mark.parametrize(
    ("recipe", "gpus", "expected"),
    [
        (LabelRecipe(), None, ("float32", 0)),
        (LabelRecipe(), "bfloat16", ("bfloat16", 1)),
        (LabelRecipe(), "float16", ("float16", 1)),
        (LabelRecipe(dtype="float32"), "bfloat16", ("float32", 1)),
        (LabelRecipe(gpus_per_actor=0), "bfloat16", ("float32", 0)),
        (LabelRecipe(gpus_per_actor=0.25), None, ("bfloat16", 0.25)),
        (LabelRecipe(gpus_per_actor=1, dtype="float16"), "bfloat16", ("float16", 1)),
    ],
)
def test_null_is_by_device_and_a_value_is_what_it_says(recipe, gpus, expected):
    executor = HasGpus(gpus)
    dtype = recipe.stated_dtype or by_device(recipe, executor)
    found = with_gpus(recipe.model_copy(update={"dtype": dtype}), executor)
    assert (found.dtype, found.gpus_per_actor) == expected


def test_another_stage_with_gpus_gives_label_one_before_any_is_up(tmp_path):
    """A cluster that scales down shows no GPU while the corpus is read."""
    run = make_run(tmp_path)
    classifier = run.recipe.classifier.model_copy(update={"use_gpu": True})
    run = Run(run.recipe.model_copy(update={"classifier": classifier}), run.task)
    executor = HasGpus(None)
    run = placed(with_label_dtype(run, executor), executor)
    assert (run.recipe.label.dtype, run.recipe.label.gpus_per_actor) == ("bfloat16", 1)
    assert not executor.num_asked


def test_the_resolved_dtype_is_in_the_fingerprint_of_the_labels_and_in_no_other(tmp_path):
    null, stated = make_run(tmp_path), make_run(tmp_path, dtype="float32")
    on_cpu, on_gpu = (with_label_dtype(null, HasGpus(gpus)) for gpus in (None, "bfloat16"))
    assert null.fingerprints == stated.fingerprints == on_cpu.fingerprints
    assert on_gpu.fingerprints == make_run(tmp_path, dtype="bfloat16").fingerprints
    changed = {name for name, value in null.fingerprints.items() if on_gpu.fingerprints[name] != value}
    assert {"labels", "report"} <= changed
    assert not changed & {"corpus", "sample", "responses", "silver", "checkpoint"}


def test_labels_begun_in_one_dtype_are_completed_in_it_on_another_device(tmp_path):
    """Otherwise a run that moves between machines would have parts of two dtypes, or begin again."""

    def stop(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    run = filled_run(tmp_path, 50, dtype="bfloat16", gpus_per_actor=0)
    first, second = NotingExecutor(), NotingExecutor()
    first.before_unit = stop
    with pytest.raises(KeyboardInterrupt):
        label(run, first)
    by_device = make_run(tmp_path)
    assert by_device.label_dtype == "bfloat16"
    manifest = label(by_device, second)
    assert manifest.recipe["dtype"] == "bfloat16"
    assert len(second.units) == len(manifest.parts) - 1
    elsewhere = HasGpus("float16")
    assert label(make_run(tmp_path), elsewhere) == manifest
    assert not elsewhere.num_asked  # a complete table is found without looking for a device


def test_the_manifest_and_the_card_say_what_null_became(tmp_path):
    run = filled_run(tmp_path, 5)
    manifest = label(run, HasGpus(None))
    assert (manifest.recipe["dtype"], manifest.recipe["gpus_per_actor"]) == ("float32", 0)
    assert "computed in float32" in run.table("labels").read_file("README.md").decode()


def test_a_gpu_that_pytorch_does_not_find_is_one_line(tmp_path):
    run = make_run(tmp_path, gpus_per_actor=1)
    fill(run, tiny_texts(5), tmp_path / "encoder")
    with pytest.raises(InputError, match=r"^label.gpus_per_actor: 1, but PyTorch finds no GPU here; .*, or set 0$"):
        label(run, HasGpus(None))


def test_compile_on_a_cpu_is_ignored_with_a_line(tmp_path, capsys):
    label(filled_run(tmp_path, 5, compile=True), HasGpus(None))
    assert "label: label.compile is ignored" in capsys.readouterr().err


def test_float16_without_a_gpu_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(InputError, match=r"^label.dtype: float16 needs a GPU"):
        with_label_dtype(make_run(tmp_path, dtype="float16"), HasGpus(None))
    with_label_dtype(make_run(tmp_path, dtype="float16"), HasGpus("float16"))
