"""Export of review samples, and import of people's answers: CSV, Label Studio, Argilla.

| file | opened by |
|---|---|
| ``review.csv`` | any spreadsheet: one item a line, the answer goes into column ``answer`` |
| ``label_studio_tasks.json``, ``label_studio_config.xml`` | Label Studio: import, and labelling interface |
| ``argilla_records.json``, ``argilla_settings.json`` | Argilla 2: ``records.from_json``, ``Settings.from_json`` |

Texts are untrusted: a cell that a spreadsheet would evaluate as a formula is prefixed with an apostrophe (OWASP, CSV
injection). Only item numbers and answers are read back.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from llambert.errors import InputError
from llambert.review.disagreements import ITEM, Sample
from llambert.section import read_text
from llambert.storage.atomic import write_atomically
from llambert.storage.locations import open_filesystem

ANSWER = "answer"
PERSON = "annotator"
COLUMNS = (ITEM, "text", "choices", ANSWER, "comment", PERSON)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write(sample: Sample, folder: str) -> list[str]:
    """Write the sample in every format into ``folder``, local or on an object store; the names of the files."""
    filesystem, path = open_filesystem(folder)
    files = {
        "review.csv": to_csv(sample),
        "label_studio_tasks.json": _to_json(
            [{"data": {ITEM: item, "text": text}} for item, text in zip(sample.items, sample.texts, strict=True)]
        ),
        "label_studio_config.xml": label_studio_config(sample),
        "argilla_records.json": _to_json(argilla_records(sample)),
        "argilla_settings.json": _to_json(argilla_settings(sample)),
    }
    for name, content in files.items():
        write_atomically(filesystem, f"{path}/{name}", content.encode())
    return list(files)


def to_csv(sample: Sample) -> str:
    """One item a line, with a byte order mark: without it Excel does not recognize UTF-8."""
    sink = io.StringIO(newline="")
    rows = csv.writer(sink, quoting=csv.QUOTE_ALL)
    rows.writerow(COLUMNS)
    choices = " | ".join(sample.answers)
    for item, text in zip(sample.items, sample.texts, strict=True):
        rows.writerow([item, _cell(text), _cell(choices), "", "", ""])
    return "\ufeff" + sink.getvalue()


def label_studio_config(sample: Sample) -> str:
    """Label Studio's labelling interface: the question, the text, one choice."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value=sample.question)
    ElementTree.SubElement(view, "Text", name="text", value="$text", valueType="text")
    choices = ElementTree.SubElement(view, "Choices", name=ANSWER, toName="text", choice="single", required="true")
    for answer in sample.answers:
        ElementTree.SubElement(choices, "Choice", value=answer)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def argilla_records(sample: Sample) -> list[dict[str, Any]]:
    """Records as Argilla's ``to_json`` writes them."""
    empty: dict[str, Any] = {"metadata": {}, "suggestions": {}, "responses": {}, "vectors": {}}
    return [
        {"id": item, "fields": {"text": text}, **empty} for item, text in zip(sample.items, sample.texts, strict=True)
    ]


def argilla_settings(sample: Sample) -> dict[str, Any]:
    """The data set's settings: one text, one question."""
    options = [{"value": answer, "text": answer, "description": None} for answer in sample.answers]
    question = {
        "name": ANSWER,
        "title": sample.question,
        "description": None,
        "required": True,
        "settings": {"type": "label_selection", "options": options, "visible_options": None},
    }
    text = {"name": "text", "title": "text", "required": True, "settings": {"type": "text", "use_markdown": False}}
    return {
        "guidelines": f"{sample.question} Answer with one of: {', '.join(sample.answers)}.",
        "questions": [question],
        "fields": [text],
        "vectors": [],
        "metadata": [],
        "allow_extra_metadata": False,
    }


def read(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Person -> item -> answer, of files in any of the three formats; items without an answer are left out.

    In a CSV the person is column ``annotator`` or, where that is empty, the file's name. ``InputError``: a file that is
    none of these, or a person who gave one item two answers.
    """
    found: dict[str, dict[str, str]] = {}
    for path in paths:
        text = read_text(path).removeprefix("\ufeff")
        is_json = text.lstrip()[:1] in ("[", "{")
        for person, item, answer in _from_json(text, path) if is_json else _from_csv(text, path):
            of = found.setdefault(person, {})
            if of.setdefault(item, answer) != answer:
                raise InputError(f"{path}: {person} answered item {item} twice: {of[item]!r} and {answer!r}")
    return found


def _from_csv(text: str, path: str) -> Iterator[tuple[str, str, str]]:
    try:
        delimiter = csv.Sniffer().sniff(text.splitlines()[0] if text else "", delimiters=",;\t").delimiter
    except csv.Error:
        delimiter = ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if missing := {ITEM, ANSWER} - set(rows.fieldnames or ()):
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}; is it an exported review, answered?")
    for row in rows:
        if answer := (row[ANSWER] or "").strip():
            yield (row.get(PERSON) or "").strip() or Path(path).stem, row[ITEM].strip(), answer


def _from_json(text: str, path: str) -> Iterator[tuple[str, str, str]]:
    try:
        values = json.loads(text)
        for record in values if isinstance(values, list) else [values]:
            if "annotations" in record:
                yield from _from_label_studio(record)
            elif "responses" in record:
                yield from _from_argilla(record)
            elif ANSWER in record:  # Label Studio's JSON-MIN
                yield str(record.get(PERSON, Path(path).stem)), record[ITEM], record[ANSWER]
            elif ITEM not in record:
                raise KeyError(ITEM)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: neither an export of Label Studio (JSON, JSON-MIN) nor of Argilla: {error!r}"
        ) from error


def _from_label_studio(task: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        person = annotation.get("completed_by")
        if isinstance(person, dict):
            person = person.get("email") or person["id"]
        name = f"annotator {person}" if isinstance(person, int) else str(person)
        for result in annotation["result"]:
            if result["from_name"] == ANSWER:
                yield (name, task["data"][ITEM], *result["value"]["choices"])


def _from_argilla(record: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for response in record["responses"].get(ANSWER, []):
        if response.get("status", "submitted") == "submitted":
            yield str(response["user_id"]), record["id"], response["value"]


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _cell(text: str) -> str:
    """A text that a spreadsheet never evaluates as a formula."""
    visible = text.replace("\x00", "\ufffd")
    return f"'{visible}" if visible.startswith(_FORMULA) or visible.lstrip().startswith(_FORMULA) else visible
