"""A part, window by window, without a cluster."""

import pyarrow as pa

from llambert.classifier import labelling
from llambert.classifier.labelling import read_windows
from tests.fixtures.label_runs import make_run


def test_windows_of_a_part_are_bounded_and_hold_every_row_in_order(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    corpus = run.table("corpus")
    texts = ["x" * (n % 50) for n in range(5000)]
    table = pa.table(
        {"record_id": [str(n) for n in range(5000)], "text": texts, "split": ["all"] * 5000, "gold_label": texts}
    )
    corpus.commit_part("part-0.parquet", table)
    monkeypatch.setattr(labelling, "WINDOW_RECORDS", 2048)
    windows = list(read_windows(corpus, "part-0.parquet", ["record_id", "text"]))
    assert [window.num_rows for window in windows] == [2048, 2048, 904]
    assert pa.concat_tables(windows)["text"].to_pylist() == texts
    assert windows[0].column_names == ["record_id", "text"]
    monkeypatch.setattr(labelling, "WINDOW_BYTES", 30_000)
    assert max(window.num_rows for window in read_windows(corpus, "part-0.parquet", ["record_id", "text"])) == 1024
