"""Export of review samples, and import of people's answers: CSV, Label Studio, Argilla, doccano.

| file | opened by |
|---|---|
| ``review.csv`` | any spreadsheet: one item a line, the answer goes into column ``answer`` |
| ``label_studio_tasks.json``, ``label_studio_config.xml`` | Label Studio: import, and labelling interface |
| ``argilla_records.json``, ``argilla_settings.json`` | Argilla 2: ``records.from_json``, ``Settings.from_json`` |

Texts are untrusted: a cell that a spreadsheet would evaluate as a formula is prefixed with an apostrophe (OWASP, CSV
injection). Only item numbers and answers are read back.
"""

import contextlib
import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from llambert.corpora.rows import shortened
from llambert.errors import InputError, described
from llambert.review.items import ITEM, Sample
from llambert.section import read_text
from llambert.storage.atomic import write_atomically
from llambert.storage.locations import open_filesystem
from llambert.untrusted import parse_json

_MAX_BYTES = 256 << 20  # of an answered file, which holds texts
_CSV = "review.csv"
ANSWER = "answer"
PERSON = "annotator"
COLUMNS = (ITEM, "text", "choices", ANSWER, "comment", PERSON)
_CONTROLS = ("\t", "\r", "\n")
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters by their category, of which nothing is seen
_MAX_FIELD_CHARS = 16 << 20


def write(sample: Sample, folder: str) -> list[str]:
    """Write the sample in every format into ``folder``, local or on an object store; the names of the files.

    ``InputError`` if the table there has answers: they would be lost.
    """
    filesystem, path = open_filesystem(folder)
    written = f"{folder.rstrip('/')}/{_CSV}"
    with contextlib.suppress(FileNotFoundError):
        before = filesystem.cat_file(f"{path}/{_CSV}").decode(errors="replace")
        if num := sum(not isinstance(entry, str) for entry in _entries(before, written)):
            raise InputError(f"{written} has {num:,} answers, which this would replace; choose another --output")
    files = {
        _CSV: to_csv(sample),
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


class Answers(NamedTuple):
    """``given``: person -> item -> answer. ``left_out``: how many of the files' entries are no answer, by reason."""

    given: dict[str, dict[str, str]]
    left_out: Counter[str]


def read(paths: Iterable[str]) -> Answers:
    """The answers of files that a spreadsheet, Label Studio, Argilla or doccano wrote.

    The person is the file's annotator or, where it names none, the file's name. ``InputError``: a file that is none of
    these, or a person who gave one item two answers.
    """
    found, left_out = dict[str, dict[str, str]](), Counter[str]()
    for path in paths:
        for entry in _entries(read_text(path, _MAX_BYTES), path):
            if isinstance(entry, str):
                left_out[entry] += 1
                continue
            person, item, answer = entry
            of = found.setdefault(person, {})
            if of.setdefault(item, answer) != answer:
                raise InputError(
                    f"{path}: {person} answered item {item} twice: {shortened(of[item], 80)!r} and "
                    f"{shortened(answer, 80)!r}"
                )
    return Answers(found, left_out)


Entry = tuple[str, str, str] | str
"""Person, item and answer; or why it is no answer."""


def _entries(text: str, path: str) -> Iterator[Entry]:
    """Those of a file's ``text``."""
    text = text.removeprefix("\ufeff")
    return _from_json(text, path) if text.lstrip()[:1] in ("[", "{") else _from_csv(text, path)


def _entry(path: str, person: Any, item: Any, value: Any) -> Entry:
    """``value``: an answer, a list of them, or Label Studio's ``{"choices": [...]}``, as JSON or text."""
    if isinstance(value, str) and value.strip().startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            value = parse_json(value)
    if isinstance(value, dict):
        value = value["choices"]
    values = dict.fromkeys(
        _unguarded(str(one).strip()) for one in (value if isinstance(value, list) else [value or ""])
    )
    answers = [one for one in values if one]
    if not answers:
        return "no answer"
    if len(answers) > 1:
        return "several answers to one question"
    if not (name := str("" if item is None else item).strip()):
        return "no item number"
    who = str("" if person is None else person).strip()
    return (f"annotator {who}" if who.isdecimal() else who) or Path(path).stem, name, answers[0]


def _from_csv(text: str, path: str) -> Iterator[Entry]:
    try:
        delimiter = csv.Sniffer().sniff(text.splitlines()[0] if text else "", delimiters=",;\t").delimiter
    except csv.Error:
        delimiter = ","
    csv.field_size_limit(_MAX_FIELD_CHARS)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if missing := {ITEM, ANSWER} - set(rows.fieldnames or ()):
            raise InputError(f"{path}: no column {', '.join(sorted(missing))}; is it an exported review, answered?")
        for row in rows:
            yield _entry(path, row.get(PERSON), row[ITEM], row[ANSWER])
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: cannot be read as a table: {error}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}:{rows.line_num}: column {ANSWER} is neither an answer nor choices") from error


def _from_json(text: str, path: str) -> Iterator[Entry]:
    try:
        for record in _json_records(text):
            if "annotations" in record:
                yield from _from_label_studio(record, path)
            elif "responses" in record:
                yield from _from_argilla(record, path)
            elif "label" in record:  # doccano
                meta = record.get("meta") or record.get("metadata") or {}
                yield _entry(path, record.get(PERSON), record.get(ITEM, meta.get(ITEM)), record["label"])
            elif ITEM in record:  # Label Studio's JSON-MIN
                yield _entry(path, record.get(PERSON), record[ITEM], record.get(ANSWER))
            else:
                raise KeyError(ITEM)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: is no export of Label Studio (JSON, JSON-MIN, CSV, TSV), Argilla or doccano: {described(error)}"
        ) from error


def _json_records(text: str) -> list[Any]:
    """The records of a JSON file, or of JSON Lines."""
    try:
        values = parse_json(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        values = [parse_json(line) for line in lines]
    return values if isinstance(values, list) else [values]


def _from_label_studio(task: dict[str, Any], path: str) -> Iterator[Entry]:
    annotations = task["annotations"] or []
    if not annotations:
        yield "no answer"
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            yield "skipped by the annotator"
            continue
        person = annotation.get("completed_by")
        if isinstance(person, dict):
            person = person.get("email") or person["id"]
        chosen = [one["value"]["choices"] for one in annotation["result"] or [] if one.get("from_name") == ANSWER]
        yield _entry(path, person, task["data"][ITEM], [choice for choices in chosen for choice in choices])


def _from_argilla(record: dict[str, Any], path: str) -> Iterator[Entry]:
    responses = record["responses"] or {}
    if isinstance(responses, list):  # version 1: the values of each response by question
        answers = [{**one, "value": ((one.get("values") or {}).get(ANSWER) or {}).get("value")} for one in responses]
    else:
        answers = responses.get(ANSWER) or []
    if not answers:
        yield "no answer"
    for answer in answers:
        status = getattr(answer.get("status"), "value", answer.get("status")) or "submitted"
        is_answer = status == "submitted"
        yield _entry(path, answer["user_id"], record["id"], answer["value"]) if is_answer else f"response is {status}"


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _cell(text: str) -> str:
    """A text that a spreadsheet never evaluates as a formula; ``_unguarded`` gives it back."""
    shown = text.replace("\x00", "\ufffd")
    return f"'{shown}" if _is_formula(shown.lstrip("'")) else shown


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    """Whether a program that skips what cannot be seen, or reads full-width signs as ASCII, might evaluate it."""
    if text.startswith(_CONTROLS):
        return True
    first = next((one for one in text if unicodedata.category(one)[0] not in "CZM" and one not in _BLANKS), "")
    return unicodedata.normalize("NFKC", first)[:1] in ("=", "+", "-", "@", "\u2212")
