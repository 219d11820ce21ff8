"""What a manifest says adds up."""

import pytest

from tests.storage.test_run_directory import manifest


def test_a_manifest_that_loses_a_record_cannot_be_made():
    assert manifest(num_in=3, num_kept=1, num_rejected={"empty": 2}).num_in == 3
    with pytest.raises(Exception, match="3 in, but 1 kept and 1 rejected"):
        manifest(num_in=3, num_kept=1, num_rejected={"empty": 1})


def test_the_seal_of_a_manifest_is_of_all_that_it_says():
    sealed = manifest(num_in=1, num_kept=1, measures={"rate": 2}, recipe={"seed": 7}).sealed()
    read = type(sealed).model_validate_json(sealed.model_dump_json(indent=1))
    assert read == read.sealed()
    for changed in ({"recipe": {"seed": 6}}, {"measures": {"rate": 3.0}}, {"upstream": {"corpus": "0"}}):
        assert read.model_copy(update=changed).sealed().seal != read.seal
