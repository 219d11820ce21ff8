import pytest

from llambert.errors import InputError
from llambert.reference import content_identity, find_files, local_copy, resolve


def test_a_file_inside_an_installed_package_is_found_without_importing_it():
    resolved = resolve("package:llambert/tasks/reviews.yaml")
    assert resolved.kind == "local"
    assert resolved.location.endswith("llambert/tasks/reviews.yaml")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("package:no_such_package/x", "'no_such_package' is not installed"),
        ("package:llambert/nothing.bin", "has no 'nothing.bin'"),
        ("package:", "is not installed"),
        ("./nowhere", "no such file or folder"),
        ("/nowhere/at all", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(reference, message):
    with pytest.raises(InputError, match=message):
        resolve(reference)


def test_a_bare_name_is_a_hub_name_unless_a_local_path_has_it(tmp_path, monkeypatch):
    assert resolve("meta-llama/Llama-2-70b-chat-hf").kind == "hub"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert resolve("org/model").kind == "local"


def test_identity_follows_content_and_not_place(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"1" * 10)
    assert content_identity(str(tmp_path / "a")) == content_identity(str(tmp_path / "b"))
    (tmp_path / "b" / "weights").write_bytes(b"1" * 9 + b"2")
    assert content_identity(str(tmp_path / "a")) != content_identity(str(tmp_path / "b"))


def test_a_link_to_a_file_is_that_file_and_one_to_a_folder_is_refused(tmp_path):
    (tmp_path / "blob").write_text("x")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "x.csv").symlink_to("../blob")
    assert list(find_files(str(tmp_path / "corpus"))[1]) == [str(tmp_path / "corpus" / "x.csv")]
    assert list(find_files(str(tmp_path / "corpus" / "x.csv"))[1]) == [str(tmp_path / "corpus" / "x.csv")]
    (tmp_path / "corpus" / "loop").symlink_to("..")
    with pytest.raises(InputError, match="loop is a link to a folder"):
        find_files(str(tmp_path / "corpus"))


def test_a_glob_counts_its_files(tmp_path):
    for name in ["a.csv", "b.csv", "c.txt"]:
        (tmp_path / name).write_text(name)
    before = content_identity(f"{tmp_path}/*.csv")
    (tmp_path / "c.txt").write_text("other")
    assert content_identity(f"{tmp_path}/*.csv") == before
    (tmp_path / "b.csv").write_text("other")
    assert content_identity(f"{tmp_path}/*.csv") != before


def test_identity_of_a_hub_name_is_its_revision():
    assert content_identity("org/model", "abc") != content_identity("org/model", "def")


def test_a_remote_folder_is_copied_once_and_whole(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe({"/models/tiny/config.json": b"{}", "/models/tiny/sub/w.bin": b"123"})
    first = local_copy("memory://models/tiny")
    assert local_copy("memory://models/tiny") == first
    with open(f"{first}/sub/w.bin", "rb") as stream:
        assert stream.read() == b"123"
    with pytest.raises(InputError, match="no file is there"):
        local_copy("memory://models/other")
