"""How a worker of fine-tuning stores files."""

from llambert.stages.finetune.worker import store_file
from llambert.storage.run_directory import TableDirectory
from llambert.training.card import TENSORBOARD_FILE


def test_of_two_trainings_at_once_the_curves_of_the_first_stay_and_both_name_them(tmp_path):
    table = TableDirectory(str(tmp_path / "checkpoint"))
    first, second = (store_file(table, TENSORBOARD_FILE, content) for content in (b"first", b"second one"))
    assert first == second
    assert table.filesystem.cat_file(table.path(TENSORBOARD_FILE)) == b"first"
    again = [store_file(table, "model.safetensors", content) for content in (b"weights", b"weights")]
    assert again[0] == again[1]
