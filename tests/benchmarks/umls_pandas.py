"""The paper's selection of UMLS concepts as its reference does it: whole files by ``read_csv``, filtered in pandas.

Kinder than the reference in two ways: synonyms are grouped once instead of searched for in all rows once a concept,
and rows it would stumble over (quotes, "NA", broken ones) are read as they are meant.
"""

import csv

import pandas as pd

from llambert.corpora.rrf import FIELDS
from llambert.corpus_recipe import UmlsRecipe


def read_table(folder: str, name: str) -> pd.DataFrame:
    """A whole table, every column as strings; rows with too many fields are skipped."""
    return pd.read_csv(
        f"{folder}/{name}.RRF",
        sep="|",
        names=[*FIELDS[name], "after the last bar"],
        dtype="string",
        index_col=False,
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
        encoding_errors="replace",
        on_bad_lines="skip",
    )


def concept_texts(folder: str) -> dict[str, str]:
    """CUI -> text by the rules of the paper."""
    rules = UmlsRecipe()
    terms = read_table(folder, "MRCONSO")
    terms = terms[terms["LAT"].isin(rules.languages)]
    types = read_table(folder, "MRSTY")
    types = types[types["CUI"].isin(terms["CUI"].unique()) & types["TUI"].isin(rules.semantic_types)]
    typed = types["CUI"].unique()
    relations = read_table(folder, "MRREL")
    relations = relations[relations["CUI1"].isin(typed) & relations["CUI2"].isin(typed)]
    relations = relations[relations["REL"].isin(rules.relations) & (relations["CUI1"] != relations["CUI2"])]
    kept = {*relations["CUI1"], *relations["CUI2"]}

    terms = terms[terms["CUI"].isin(kept) & ~terms["TTY"].isin(rules.excluded_term_types)]
    terms = terms[(terms["STR"] != "") & ~terms["STR"].str.contains("\ufffd")]
    synonyms = terms["STR"].str.lower().str.replace("&#x7c;", "|")
    texts = synonyms.groupby(terms["CUI"]).agg(lambda own: "; ".join(sorted(sorted(set(own)), key=len)))
    return {**dict.fromkeys(kept, ""), **texts.to_dict()}
