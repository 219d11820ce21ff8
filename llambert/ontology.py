"""The sub-ontology of a labelled UMLS run: the concepts of one category and the child relations between them.

::

    FOLDER/nodes.parquet      record_id (the CUI), text, score (the classifier's, of its own label)
    FOLDER/edges.parquet      parent, child, num_rows (how many rows of MRREL say so)
    FOLDER/ontology.graphml   both, for graph tools; a node's label is the concept's shortest synonym
    FOLDER/ontology.gexf      the same, for Gephi

The labels are the final ones: those that certify and escalate decided, where the recipe has a guarantee. Holds the
category's concepts and their texts in memory, not the corpus.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llambert import schema
from llambert.corpora import rrf
from llambert.errors import InputError, one_line
from llambert.evaluation.final_table import final_table
from llambert.run import Run
from llambert.storage.atomic import write_atomically
from llambert.storage.locations import open_filesystem

NODES = pa.schema([(schema.RECORD_ID, pa.string()), (schema.TEXT, pa.string()), (schema.SCORE, pa.float32())])
EDGES = pa.schema([("parent", pa.string()), ("child", pa.string()), ("num_rows", pa.int64())])

_CHILD = "CHD"  # of MRREL: the second concept is a child of the first
_NUM_THREADS = 4
_INVALID_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True)
class Ontology:
    """Tables of the schemas ``NODES`` and ``EDGES``, in the order of their concepts."""

    nodes: pa.Table
    edges: pa.Table

    def graph(self) -> nx.DiGraph:
        """Parents point to children; nodes have label, text and score, edges num_rows."""
        graph = nx.DiGraph()
        for node in self.nodes.to_pylist():
            text = _INVALID_IN_XML.sub("\ufffd", node[schema.TEXT])
            label, _, _ = text.partition("; ")
            graph.add_node(node[schema.RECORD_ID], label=label, text=text, score=float(node[schema.SCORE]))
        graph.add_edges_from(
            (edge["parent"], edge["child"], {"num_rows": edge["num_rows"]}) for edge in self.edges.to_pylist()
        )
        return graph

    def write(self, folder: str) -> None:
        """Write the four files below a folder or URI, each whole; ``InputError`` if it cannot be written."""
        graph = self.graph()
        writers: dict[str, Callable[[io.BytesIO], None]] = {
            "nodes.parquet": lambda file: pq.write_table(self.nodes, file),
            "edges.parquet": lambda file: pq.write_table(self.edges, file),
            "ontology.graphml": lambda file: nx.write_graphml(graph, file),
            "ontology.gexf": lambda file: nx.write_gexf(graph, file),
        }
        filesystem, path = open_filesystem(folder)
        for name, write in writers.items():
            content = io.BytesIO()
            write(content)
            try:
                write_atomically(filesystem, f"{path}/{name}", content.getvalue())
            except Exception as error:  # each filesystem of fsspec has exceptions of its own
                raise InputError(f"--output: {folder} cannot be written: {one_line(error)}") from error


def ontology(run: Run, category: str) -> Ontology:
    """The concepts that ``run`` labelled with ``category``; ``InputError`` unless it is a finished UMLS run."""
    if run.recipe.corpus.format != "umls":
        raise InputError(f"corpus.format: {run.recipe.corpus.format}: only a umls corpus has relations of concepts")
    if category not in run.task.category_names:
        raise InputError(f"--category {category}: the task's categories are {', '.join(run.task.category_names)}")
    labels = pa.concat_tables(
        table.filter(pc.equal(table[schema.LABEL], category)).drop_columns([schema.LABEL])
        for table in run.table(final_table(run)).iter_tables([schema.RECORD_ID, schema.SCORE, schema.LABEL])
    )
    texts = pa.concat_tables(
        table.filter(pc.is_in(table[schema.RECORD_ID], labels[schema.RECORD_ID].combine_chunks()))
        for table in run.table("corpus").iter_tables([schema.RECORD_ID, schema.TEXT])
    )
    nodes = texts.join(labels, schema.RECORD_ID).sort_by(schema.RECORD_ID).select(NODES.names).cast(NODES)
    return Ontology(nodes, _edges(run.recipe.corpus.path, rrf.concept_codes(nodes[schema.RECORD_ID].to_pylist())))


def _edges(release: str, codes: np.ndarray) -> pa.Table:
    kept = np.zeros(rrf.NUM_CODES, bool)
    kept[codes] = True

    def pairs(block: rrf.Block) -> np.ndarray:
        rows = rrf.RrfRows(block, ["CUI1", "REL", "CUI2"])
        first, second = rows.concept_codes("CUI1"), rows.concept_codes("CUI2")
        # What is malformed was reported when the release was ingested.
        between = rows.valid & rows.is_in("REL", [_CHILD]) & kept[first] & kept[second] & (first != second)
        return first[between] * rrf.NUM_CODES + second[between]

    blocks = rrf.read_blocks(rrf.find_tables(release)["MRREL"])
    found = [np.empty(0, np.int64), *rrf.map_in_threads(pairs, blocks, _NUM_THREADS)]
    numbers, num_rows = np.unique(np.concatenate(found), return_counts=True)
    parents, children = np.divmod(numbers, rrf.NUM_CODES)
    return pa.table([rrf.concept_ids(parents), rrf.concept_ids(children), num_rows], schema=EDGES)
