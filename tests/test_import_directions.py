import os

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_each_layer_imports_only_what_is_below_it_and_the_core_neither_ray_nor_vllm(capsys, request):
    os.chdir(request.config.rootpath)
    status = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out
