import io

import llambert.execution.progress
from llambert.execution.progress import Progress


def test_without_a_terminal_it_prints_plain_lines_with_count_rate_and_eta(capsys, monkeypatch):
    monkeypatch.setattr(llambert.execution.progress, "LINE_EVERY_S", 0.0)
    with Progress("label", total=2000, done=500) as progress:
        progress.advance(250)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("label: 750/2,000 records, ")
    assert lines[0].endswith(" left")
    assert "/s" in lines[0]


def test_what_was_done_before_counts_as_done_but_not_in_the_rate(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(llambert.execution.progress.time, "monotonic", lambda: next(clock))
    progress = Progress("label", total=1100, done=1000)
    progress.done += 50
    assert progress.rate_and_eta == "5.0/s, 0:10 left"


def test_a_stage_that_fails_does_not_print_a_last_line_as_if_it_had_ended(capsys):
    try:
        with Progress("label", total=10) as progress:
            progress.advance()
            raise RuntimeError
    except RuntimeError:
        pass
    assert capsys.readouterr().err == ""


def test_in_a_terminal_it_draws_a_bar_with_the_same_figures(monkeypatch):
    screen = io.StringIO()
    real = llambert.execution.progress.Console
    monkeypatch.setattr(
        llambert.execution.progress, "Console", lambda **_: real(file=screen, force_terminal=True, width=120)
    )
    with Progress("label", total=4) as progress:
        progress.advance(4)
    drawn = screen.getvalue()
    assert "label" in drawn
    assert "4/4" in drawn
    assert "/s" in drawn
