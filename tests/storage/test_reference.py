import os

import pytest

from llambert.errors import InputError
from llambert.storage.reference import content_identity, find_files, local_copy, path_without_wildcards, resolve


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


def test_identity_of_a_hub_name_is_its_commit():
    one, other = "1" * 40, "2" * 40
    assert content_identity("org/model", one) != content_identity("org/model", other)
    assert content_identity("org/model", one) == content_identity(f"org/model@{one}")


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


def write_all(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def found(folder, reference, **options) -> list[str]:
    return [name.removeprefix(f"{folder}/") for name in find_files(reference, **options).files]


HIDDEN = [
    ".git/config",
    ".ipynb_checkpoints/a-checkpoint.csv",
    "_temporary/0/part.csv",
    "_delta_log/0.json",
    "_SUCCESS",
    ".b.csv",
    "sub/.cache/deep/c.csv",
]


def test_hidden_files_and_those_in_hidden_folders_are_left_out_and_counted(tmp_path):
    write_all(tmp_path, "a.csv", "sub/b.csv", "label=_x/c.csv", "_year=2024/d.csv", *HIDDEN)
    visible = ["_year=2024/d.csv", "a.csv", "label=_x/c.csv", "sub/b.csv"]
    assert found(tmp_path, str(tmp_path)) == visible
    assert find_files(str(tmp_path)).num_hidden == len(HIDDEN)
    assert len(find_files(str(tmp_path), hidden=True).files) == len(HIDDEN) + len(visible)


def test_levels_are_counted_below_what_the_user_named(tmp_path):
    root = tmp_path / ".cache" / "_data"
    write_all(root, "a.csv", "_x.csv", "sub/b.csv")
    assert found(root, str(root)) == found(root, f"{root}/**") == ["a.csv", "sub/b.csv"]
    assert found(root, f"{root}/_x.csv") == ["_x.csv"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.csv", ["a.csv"]),
        ("**/*.csv", ["a.csv", "sub/b.csv"]),
        ("_*.csv", ["_x.csv"]),
        (".cache/*.csv", [".cache/c.csv"]),
        ("*/*.csv", ["sub/b.csv"]),
        ("**/_drafts/*.csv", ["sub/_drafts/d.csv"]),
    ],
)
def test_a_glob_finds_hidden_files_only_if_it_asks_for_them(tmp_path, pattern, names):
    write_all(tmp_path, "a.csv", "_x.csv", ".cache/c.csv", "sub/b.csv", "sub/_drafts/d.csv")
    assert found(tmp_path, f"{tmp_path}/{pattern}") == names


def test_a_dead_link_in_a_hidden_folder_is_no_fault(tmp_path):
    write_all(tmp_path, "a.csv", ".trash/b.csv")
    (tmp_path / ".trash" / "gone").symlink_to("nowhere")
    assert found(tmp_path, str(tmp_path)) == ["a.csv"]


@pytest.mark.parametrize("name", ["reviews [final].csv", "a*b.csv", "what?.csv", "{a,b}.csv", "[.csv", "[!a].csv"])
def test_a_path_that_exists_wins_over_a_pattern(tmp_path, name):
    folder = tmp_path / "x [1]"
    write_all(folder, name, "reviews f.csv", "aXb.csv", "whatX.csv", "a.csv", "b.csv")
    assert found(folder, str(folder / name)) == [name]
    assert found(folder, f"file://{folder / name}") == [name]
    content_identity(str(folder / name))


def test_a_pattern_below_a_folder_with_brackets_is_a_pattern_there_alone(tmp_path, monkeypatch):
    folder = tmp_path / "x [1]*" / "[ab]"
    write_all(folder, "1.csv", "2.csv", "sub/3.csv")
    write_all(tmp_path, "x 1/[ab]/4.csv", "x [1]*/a/5.csv")
    assert found(folder, f"{folder}/*.csv") == ["1.csv", "2.csv"]
    assert found(folder, f"{folder}/**/[3].csv") == ["sub/3.csv"]
    monkeypatch.chdir(folder)
    assert found(folder, "*.csv") == ["1.csv", "2.csv"]


def test_on_an_object_store_too_a_path_wins_and_hidden_files_are_left_out():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    names = ["/d/x [1].csv", "/d/x 1.csv", "/d/_tmp/y.csv", "/d/[z]/a.csv", "/d/[z]/.b.csv", "/d/z/a.csv"]
    memory.pipe(dict.fromkeys(names, b"text"))
    assert list(find_files("memory://d/x [1].csv").files) == ["/d/x [1].csv"]
    assert list(find_files("memory://d/[z]/*.csv").files) == ["/d/[z]/a.csv"]
    assert list(find_files("memory://d/x*.csv").files) == ["/d/x 1.csv", "/d/x [1].csv"]
    whole = find_files("memory://d")
    assert whole.num_hidden == 2
    assert list(whole.files) == ["/d/[z]/a.csv", "/d/x 1.csv", "/d/x [1].csv", "/d/z/a.csv"]
    memory.store.clear()


def test_a_glob_follows_links_to_folders_but_not_in_a_circle(tmp_path):
    write_all(tmp_path, "runs/a/x.csv", "elsewhere/y.csv")
    (tmp_path / "runs" / "b").symlink_to("../elsewhere")
    assert found(tmp_path, f"{tmp_path}/runs/*/*.csv") == ["runs/a/x.csv", "runs/b/y.csv"]
    (tmp_path / "runs" / "c").symlink_to("..")
    with pytest.raises(InputError, match="c is a link to a folder that it is in"):
        find_files(f"{tmp_path}/runs/**/*.csv")


def test_hidden_files_count_in_the_identity_of_a_model_and_not_of_a_corpus(tmp_path):
    write_all(tmp_path, "a.py", "__init__.py")
    before = [content_identity(str(tmp_path), hidden=hidden) for hidden in (True, False)]
    (tmp_path / "__init__.py").write_text("other")
    after = [content_identity(str(tmp_path), hidden=hidden) for hidden in (True, False)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]


def test_a_store_that_says_nothing_of_a_files_content_is_read(monkeypatch):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    find = type(memory).find

    def sizes_alone(*given, **named):
        return {name: {key: info[key] for key in ("size", "type")} for name, info in find(*given, **named).items()}

    monkeypatch.setattr(type(memory), "find", sizes_alone)
    memory.pipe({"/d/x.csv": b"text"})
    before = content_identity("memory://d")
    memory.pipe({"/d/x.csv": b"Text"})
    assert content_identity("memory://d") != before
    memory.store.clear()


def test_names_that_are_not_utf_8_have_an_identity(tmp_path):
    import os

    for name in [b"a\xe9", b"a\xea"]:
        with open(os.fsencode(tmp_path) + b"/" + name, "w") as stream:
            stream.write("x")
    both = content_identity(str(tmp_path))
    os.remove(os.fsencode(tmp_path) + b"/a\xe9")
    assert content_identity(str(tmp_path)) != both


def test_a_path_for_libraries_that_glob_is_a_link_without_wildcards(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path / "cache"))
    write_all(tmp_path, "models [7b]/config.json")
    plain = path_without_wildcards(str(tmp_path / "models [7b]"))
    assert plain == path_without_wildcards(str(tmp_path / "models [7b]"))
    assert "[" not in plain.removeprefix(str(tmp_path))
    with open(f"{plain}/config.json") as stream:
        assert stream.read() == "models [7b]/config.json"
    assert path_without_wildcards(str(tmp_path)) == str(tmp_path)
    assert path_without_wildcards("org/model") == "org/model"


def test_a_tilde_is_a_home_unless_a_path_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"~nobody-here/x\.csv: no such file or folder"):
        resolve("~nobody-here/x.csv")
    (tmp_path / "~nobody-here").mkdir()
    (tmp_path / "~nobody-here" / "x.csv").touch()
    assert resolve("~nobody-here/x.csv").location == str(tmp_path / "~nobody-here" / "x.csv")
    monkeypatch.setenv("HOME", str(tmp_path / "~nobody-here"))
    assert resolve("~/x.csv").location == str(tmp_path / "~nobody-here" / "x.csv")


def test_what_is_neither_a_file_nor_a_folder_is_refused(tmp_path):
    (tmp_path / "a.csv").touch()
    os.mkfifo(tmp_path / "b.csv")
    with pytest.raises(InputError, match=r"b\.csv is neither a file nor a folder"):
        find_files(str(tmp_path))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that leaves a mark when it is imported, and a file beside it."""
    folder = tmp_path / "site" / "strange_models"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "model" / "config.json").write_text("{}")
    (tmp_path / "site" / "secret.txt").write_text("x")
    (tmp_path / "site" / "folder_alone").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


@pytest.mark.parametrize(
    "inside", ["../secret.txt", "model/../../secret.txt", "/etc/passwd", "..", "model/..", "model\\..\\x", "a\0b"]
)
def test_a_package_reference_stays_in_its_package(package, inside):
    assert resolve("package:strange_models/model").location == str(package / "model")
    with pytest.raises(InputError, match="leaves the package 'strange_models'"):
        resolve(f"package:strange_models/{inside}")
    assert not (package.parent.parent / "ran").exists()


@pytest.mark.parametrize("link", ["link", "model/link"])
def test_a_link_that_leaves_its_package_is_refused(package, link):
    (package / link).symlink_to(package.parent / "secret.txt")
    for inside in {link, link.partition("/")[0]}:
        with pytest.raises(InputError, match="is a link that leaves the package"):
            resolve(f"package:strange_models/{inside}")


@pytest.mark.parametrize("name", ["folder_alone", "strange_models.model", "__main__", "json/../..", "a b", ""])
def test_what_is_no_installed_package_is_refused(package, name):
    with pytest.raises(InputError, match=r"is not installed here|leaves the package"):
        resolve(f"package:{name}/config.json")
