"""Licences: every locked package has one that an Apache-2.0 project may depend on; what is unknown is refused."""

from email.message import Message

import pytest
import supply


def test_every_locked_package_here_has_an_allowed_licence(capsys):
    assert supply.check_licences() == 0, capsys.readouterr().out


@pytest.mark.parametrize("expression", ["MIT", "Apache-2.0 OR GPL-3.0-only", "Apache-2.0 WITH LLVM-exception AND MIT"])
def test_what_can_be_met_by_allowed_licences_passes(expression):
    assert supply.is_allowed(expression)


@pytest.mark.parametrize(
    "expression", ["GPL-3.0-only", "MIT AND GPL-3.0-only", "", "Proprietary", "MIT (", "__import__"]
)
def test_what_cannot_is_refused(expression):
    assert not supply.is_allowed(expression)


def test_a_package_under_another_licence_fails_the_check(monkeypatch, capsys):
    stranger = Message()
    stranger["License"] = "AGPL-3.0"
    monkeypatch.setattr(supply, "installed", lambda: ["stranger"])
    monkeypatch.setattr(supply.metadata, "metadata", lambda name: stranger)
    assert supply.check_licences() == 1
    assert "not allowed: stranger is under unknown: 'AGPL-3.0'" in capsys.readouterr().out


def test_an_audit_without_a_network_says_that_nothing_was_done(monkeypatch, capsys):
    monkeypatch.setattr(supply, "ADVISORIES", "http://127.0.0.1:9/")
    assert supply.audit() == 0
    assert "NOT DONE" in capsys.readouterr().out
