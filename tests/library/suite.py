"""Import the tests that transformers ships, with stand-ins for the modules next to them that it does not ship."""

import importlib
import sys
import types
from typing import Any

import pytest

from tests.library.fetch_suite import PACKAGE, suite_folder


STAND_INS: dict[str, dict[str, Any]] = {
    # These are in the library's repository but not in its source distribution. Our own tests check the same things:
    # test_generation.py, test_generation_modes.py and test_compile.py in tests/modeling_cosmo. For the results of a
    # run of the mixins themselves, see test_model_mixins.py.
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},  # not used on composite configs
}


def suite_module(name: str) -> Any:
    """Import a module of the suite; without the suite, skip the caller's whole module."""
    folder = suite_folder()
    if not (folder / PACKAGE).is_dir():
        pytest.skip(f"no {folder.name} test suite of transformers here: make library", allow_module_level=True)
    pytest.importorskip("parameterized", reason="transformers' own tests need parameterized")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    for module, content in STAND_INS.items():
        _stand_in(f"{PACKAGE}.{module}", content)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _stand_in(name: str, content: dict[str, Any]) -> None:
    """Put an empty package and a module with this content where the suite has none."""
    package = name.rpartition(".")[0]
    for path, attributes in ((package, {}), (name, content)):
        if path not in sys.modules:
            sys.modules[path] = module = types.ModuleType(path)
            module.__dict__.update(attributes)
    sys.modules[package].__path__ = []
