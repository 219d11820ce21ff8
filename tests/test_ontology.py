from dataclasses import replace

import networkx as nx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert import schema
from llambert.cli import app
from llambert.errors import InputError
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.ontology import ontology
from llambert.run import Run, open_run, record_recipe
from tests.fixtures import umls_sample as sample

LABELS = {"C0000001": "yes", "C0000002": "yes", "C0000003": "no", "C0000008": "yes", "C0000009": "yes"}


def labelled_run(tmp_path, texts=sample.TEXTS, corpus="format: umls", mrrel=sample.MRREL) -> Run:
    """A run on the sample release whose corpus and labels are complete."""
    sample.write(tmp_path / "META", mrrel=mrrel)
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: sample
task: umls_regions
storage: {tmp_path}/run
corpus: {{path: {tmp_path}/META, {corpus}, columns: {{record_id: record_id}}}}
annotator: {{model: package:llambert/tasks, num_records: 2}}
classifier: {{model: package:llambert/tasks}}
"""
    )
    run = open_run(str(tmp_path / "recipe.yaml"))
    record_recipe(run)
    ids = list(LABELS)
    records = [ids, [texts[concept] for concept in ids], ["all"] * len(ids), [None] * len(ids)]
    labels = [ids, list(LABELS.values()), [0.75] * len(ids)]
    for name, columns, table_schema in (("corpus", records, schema.CORPUS), ("labels", labels, schema.LABELS)):
        table = run.table(name)
        table.complete(name, [table.commit_part("part-00000.parquet", pa.table(columns, schema=table_schema))])
    return run


def test_the_concepts_of_a_category_and_the_child_relations_between_them(tmp_path):
    found = ontology(labelled_run(tmp_path), "yes")
    kept = {concept for concept, label in LABELS.items() if label == "yes"}
    assert found.nodes.to_pylist() == [
        {"record_id": concept, "text": sample.TEXTS[concept], "score": 0.75} for concept in sorted(kept)
    ]
    edges = {(parent, child) for parent, child in sample.EDGES if {parent, child} <= kept}
    assert edges == {("C0000001", "C0000002"), ("C0000009", "C0000001")}
    assert {(edge["parent"], edge["child"]) for edge in found.edges.to_pylist()} == edges


def test_of_a_run_with_a_guarantee_the_final_labels_count(tmp_path):
    run = labelled_run(tmp_path)
    guaranteed = replace(run, recipe=run.recipe.model_copy(update={"guarantee": GuaranteeRecipe(target=0.9)}))
    assert ontology(guaranteed, "yes").nodes.equals(ontology(run, "yes").nodes)  # not decided yet
    final = ["no", "yes", "yes", "no", "no"]
    columns = [list(LABELS), final, [0.75] * 5, ["annotator"] * 5, list(LABELS.values())]
    table = guaranteed.table("decisions")
    part = table.commit_part("part-0.parquet", pa.table(columns, schema=schema.DECISIONS))
    table.complete("escalate", [part])
    assert ontology(guaranteed, "yes").nodes["record_id"].to_pylist() == ["C0000002", "C0000003"]


def test_an_edge_that_several_sources_state_is_one_edge_with_their_number(tmp_path):
    twice = [*sample.MRREL, sample.relation("C0000001", "CHD", "C0000002"), "C0000001|broken"]
    found = ontology(labelled_run(tmp_path, mrrel=twice), "yes")
    assert {"parent": "C0000001", "child": "C0000002", "num_rows": 2} in found.edges.to_pylist()


def test_the_written_files_hold_the_same_graph(tmp_path):
    texts = sample.TEXTS | {"C0000008": 'spine\x07 & "<back>"; spinal\tcolumn'}
    found = ontology(labelled_run(tmp_path, texts), "yes")
    found.write(str(tmp_path / "out"))
    assert pq.read_table(tmp_path / "out" / "nodes.parquet").equals(found.nodes)
    assert pq.read_table(tmp_path / "out" / "edges.parquet").equals(found.edges)
    for graph in (nx.read_graphml(tmp_path / "out/ontology.graphml"), nx.read_gexf(tmp_path / "out/ontology.gexf")):
        assert graph.is_directed()
        assert set(graph.nodes) == set(found.nodes["record_id"].to_pylist())
        assert set(graph.edges) == {("C0000001", "C0000002"), ("C0000009", "C0000001")}
        assert graph.nodes["C0000002"]["label"] == "élan"
        assert graph.nodes["C0000008"]["text"] == 'spine\ufffd & "<back>"; spinal\tcolumn'
        assert graph.nodes["C0000009"]["score"] == 0.75
        assert graph.edges["C0000001", "C0000002"]["num_rows"] == 1


def test_a_category_without_concepts_gives_an_empty_graph(tmp_path, monkeypatch):
    monkeypatch.setitem(LABELS, "C0000003", "yes")
    found = ontology(labelled_run(tmp_path), "no")
    assert (found.nodes.num_rows, found.edges.num_rows) == (0, 0)
    found.write(str(tmp_path / "out"))
    assert len(nx.read_graphml(tmp_path / "out" / "ontology.graphml")) == 0


@pytest.mark.parametrize("which", ["recipe.yaml", "run"])
def test_the_command_takes_a_recipe_or_a_run_directory(tmp_path, capsys, which):
    labelled_run(tmp_path)
    arguments = ["ontology", str(tmp_path / which), "--category", "yes", "--out", str(tmp_path / "out")]
    app(arguments, standalone_mode=False)
    assert "4 concepts and 2 edges" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "edges.parquet",
        "nodes.parquet",
        "ontology.gexf",
        "ontology.graphml",
    ]


def test_what_cannot_be_an_ontology_is_refused(tmp_path):
    run = labelled_run(tmp_path)
    with pytest.raises(InputError, match="--category maybe: the task's categories are yes, no"):
        ontology(run, "maybe")
    (tmp_path / "META" / "MRREL.RRF").write_text("changed")
    with pytest.raises(InputError, match="is not complete"):
        ontology(open_run(str(tmp_path / "recipe.yaml")), "yes")


def test_a_run_on_another_corpus_is_refused(tmp_path):
    with pytest.raises(InputError, match="only a umls corpus"):
        ontology(labelled_run(tmp_path, corpus="format: text"), "yes")
