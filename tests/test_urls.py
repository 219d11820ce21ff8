import pytest

from llambert.errors import InputError, described, one_line
from llambert.recipe import load_recipe
from llambert.storage.locations import open_filesystem
from llambert.storage.reference import find_files
from llambert.urls import holds_secret, without_secrets

SECRET = "c4n4ry"
SECRETS = [
    f"https://user:{SECRET}@host/x.csv",
    f"https://{SECRET}@host/x.csv",
    f"s3://key:{SECRET}/w@bucket/x",
    f"sftp://user:{SECRET}@host:22/x",
    f"simplecache::http://u:{SECRET}@host/x",
    f"https://host/x.csv?X-Amz-Signature={SECRET}&y=1",
    f"https://host/x.csv?sv=1&sig={SECRET}",
    f"https://host/x.csv?access_token={SECRET}",
    f"https://host/x.csv?api%5Fkey={SECRET}",
    f"https://host/x.csv#token={SECRET}",
    f"https://host/x.csv?AWSAccessKeyId={SECRET}",
]
PLAIN = ["https://host:8000/x@y.csv?page=2", "hf://datasets/org/name@0abc/x", "s3://bucket/a:b", "sftp://user@host/x"]
RECIPE = """
name: secrets
task: reviews
corpus: {path: x.csv}
annotator: {model: m, num_records: 2}
classifier: {model: m}
"""


@pytest.mark.parametrize("url", SECRETS)
def test_a_secret_is_found_and_never_said(url):
    assert holds_secret(url)
    shown = [
        without_secrets(f"GET '{url}': 403"),
        str(InputError(url)),
        one_line(OSError(url)),
        described(OSError(url)),
    ]
    assert all(SECRET not in text and "…" in text for text in shown)


@pytest.mark.parametrize("url", PLAIN)
def test_a_url_without_a_secret_stays_as_it_is(url):
    assert without_secrets(url) == url


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("key", ["corpus.path", "storage", "annotator.base_url", "annotator.model", "classifier.model"])
def test_a_recipe_with_a_secret_in_a_url_is_refused_without_repeating_it(tmp_path, url, key):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(InputError) as caught:
        load_recipe(tmp_path / "recipe.yaml", [f"{key}={url}"])
    assert SECRET not in str(caught.value)
    assert f"{key}: a URL with a user, password, key or signature in it" in str(caught.value)


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("use", [open_filesystem, find_files])
def test_a_location_with_a_secret_is_not_opened(use, url):
    with pytest.raises(InputError) as caught:
        use(url)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
