"""What a manifest says adds up."""

import pytest

from tests.storage.test_run_directory import manifest


def test_a_manifest_that_loses_a_record_cannot_be_made():
    assert manifest(num_in=3, num_kept=1, num_rejected={"empty": 2}).num_in == 3
    with pytest.raises(Exception, match="3 in, but 1 kept and 1 rejected"):
        manifest(num_in=3, num_kept=1, num_rejected={"empty": 1})
