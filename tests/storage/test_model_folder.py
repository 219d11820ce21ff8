"""A model's folder from anyone: what it may name and state, and what is refused before a library opens it."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llambert.classifier.checkpoint import load_checkpoint
from llambert.engines.transformers import load_model
from llambert.errors import InputError, UnfitModel
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe
from llambert.storage.model_folder import check_model_folder
from llambert.training.encoder import check_encoder
from tests.fixtures.tiny_classifier import save_tiny_classifier
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.tiny_llm import CHATML, save_tiny_llm


class Payload:
    """Pickled, it leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_tiny_classifier(root / "checkpoint")
    save_tiny_encoder(root / "encoder")
    save_tiny_llm(root / "annotator", CHATML)
    return root


LOADERS = {
    "checkpoint": lambda folder: load_checkpoint(folder, torch.float32),
    "encoder": lambda folder: check_encoder(ClassifierRecipe(model=folder), ["negative", "positive"]),
    "annotator": lambda folder: load_model(AnnotatorRecipe(model=folder, num_records=1, dtype="float32")),
}


@pytest.fixture(params=LOADERS)
def loading(request, folders, tmp_path):
    """A copy of a folder, and the function that loads it."""
    shutil.copytree(folders / request.param, tmp_path / "model")
    return tmp_path / "model", LOADERS[request.param]


def refused(load, folder) -> str:
    with pytest.raises(InputError) as caught:
        load(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    assert str(folder) in message
    return message


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def split(folder, name):
    """The weights behind an index that names ``name`` for one of them."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    files = dict.fromkeys(weights, "part.safetensors") | {min(weights): name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def test_an_index_that_names_its_own_files_is_read(loading):
    folder, load = loading
    split(folder, "part.safetensors")
    load(str(folder))


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "../other.safetensors", "/etc/passwd", "sub/x.safetensors", "x\\y.safetensors", 5, None],
)
def test_an_index_that_names_anything_else_is_refused_before_it_is_opened(loading, tmp_path, name):
    folder, load = loading
    split(folder, name)
    torch.save(Payload(tmp_path / "ran"), folder / "pytorch_model.bin")
    assert "only *.safetensors files of the folder itself are read" in refused(load, folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "holds no mapping"),
        ("{}", "is no index of weights"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "which is not in the folder"),
    ],
)
def test_a_broken_index_is_refused(loading, content, says):
    folder, load = loading
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    assert says in refused(load, folder)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": 10**12}, "which no model has"),
        ({"vocab_size": 2**40}, "which no model has"),
        ({"vocab_size": 2**30}, "describes a model of at least"),
        ({"hidden_size": 1 << 20}, "describes a model of at least"),
        ({"intermediate_size": 2**30}, "describes a model of at least"),
        ({"num_hidden_layers": 10**12}, "which no model has"),
        ({"num_hidden_layers": 90_000}, "describes a model of at least"),
        ({"num_labels": 10**9}, "which no model has"),
        ({"num_hidden_layers": 7}, "it lacks weights of the model"),
        ({"num_hidden_layers": 1}, "it has weights that its config.json does not describe"),
        ({"num_attention_heads": 0}, ""),
        ({"num_attention_heads": -2}, ""),
        ({"num_hidden_layers": -1}, ""),
        ({"hidden_size": "wide"}, ""),
        ({"intermediate_size": 60}, "shape"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"it is quantized (gptq)"),
        ({"quantization_config": {"quant_method": "fp8"}}, "it is quantized (fp8)"),
        ({"attn_implementation": "kernels-community/flash-attn"}, "code from elsewhere"),
        ({"_attn_implementation": "flash_attention_2"}, "code from elsewhere"),
        ({"_attn_implementation_internal": {"": "x/y"}}, "code from elsewhere"),
        ({"experts_implementation": "x/y"}, "code from elsewhere"),
        ({"use_kernels": True}, "asks for kernels"),
        ({"dtype": "float8_e4m3fn"}, "weights are read in float32"),
        ({"torch_dtype": "os"}, "weights are read in float32"),
        ({"transformers_weights": "../x.safetensors"}, "no safetensors file of the folder"),
        ({"transformers_weights": "model.bin"}, "no safetensors file of the folder"),
    ],
)
def test_a_configuration_that_asks_for_more_than_its_weights_is_refused(loading, values, says):
    folder, load = loading
    change(folder / "config.json", **values)
    assert says in refused(load, folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_what_would_be_waited_for_is_refused(loading, name):
    folder, load = loading
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"its {name} is a pipe, a socket or a device" in refused(load, folder)


def test_an_adapter_is_refused(loading):
    folder, load = loading
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    assert "merge it into its base model" in refused(load, folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "9" * 10_000 + "}", "[]", "{", "\x00"])
def test_a_file_of_hostile_json_is_refused(loading, file, content):
    folder, load = loading
    (folder / file).write_text(content)
    assert f"its {file} cannot be read" in refused(load, folder)


@pytest.mark.parametrize(
    "header",
    [
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}" + b"x" * 10,
        (75).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
    ],
)
def test_weights_whose_header_lies_are_refused(loading, header):
    folder, load = loading
    (folder / "model.safetensors").write_bytes(header)
    assert "model.safetensors cannot be read" in refused(load, folder)


def test_weights_of_eight_bits_are_refused(loading):
    folder, load = loading
    weights = load_file(folder / "model.safetensors")
    weights = {name: value.to(torch.float8_e4m3fn) for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "stored in F8_E4M3: name the unquantized model" in refused(load, folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**11 }}",
        "{% generation %}{{ 'a' * 10**11 }}{% endgeneration %}",
    ],
)
def test_a_chat_template_without_bounds_is_refused(folders, tmp_path, template):
    shutil.copytree(folders / "annotator", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    assert "chat template" in refused(LOADERS["annotator"], tmp_path / "model")


@pytest.mark.parametrize("name", ["encoder", "annotator"])  # BERT's own tokenizer reads no expression
def test_a_regular_expression_that_tries_every_way_to_match_is_refused(folders, tmp_path, name):
    folder, load = tmp_path / "model", LOADERS[name]
    shutil.copytree(folders / name, folder)
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change(folder / "tokenizer.json", pre_tokenizer=split)
    assert "its tokenizer" in refused(load, folder)


def test_a_tokenizer_that_pads_to_any_length_is_refused(loading):
    folder, load = loading
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    change(folder / "tokenizer.json", padding=padding | {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"})
    assert "pads each text to" in refused(load, folder)


def test_quantized_models_are_for_vllm_alone(folders, tmp_path):
    shutil.copytree(folders / "annotator", tmp_path / "model")
    change(tmp_path / "model" / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    check_model_folder(str(tmp_path / "model"), quantized=True)
    with pytest.raises(UnfitModel, match="only engine vllm runs"):
        check_model_folder(str(tmp_path / "model"))


def test_pickled_weights_are_read_only_if_the_recipe_says_so_and_never_from_elsewhere(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders / "encoder", folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    load = LOADERS["encoder"]
    assert "classifier.pickled_weights: true takes pickled ones, if you trust them" in refused(load, folder)
    trusted = ClassifierRecipe(model=str(folder), pickled_weights=True)
    check_encoder(trusted, ["negative", "positive"])
    (folder / "pytorch_model.bin").rename(tmp_path / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "../pytorch_model.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"only \*\.bin files of the folder itself are read"):
        check_encoder(trusted, ["negative", "positive"])
