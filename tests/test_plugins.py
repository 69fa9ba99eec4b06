"""What holds for every file of every plugin folder."""

import inspect

import pytest

from compress_cli import identity, plugin
from compress_cli.plugin import find

PLUGINS = [(name, path.stem) for name, folder in plugin.folders().items() for path in sorted(folder.glob("[a-z]*.py"))]
CHOICE = {"drop_layers", "factorise", "file", "load", "prune", "sparsify"}  # one of several fields has to be given


def test_every_folder_of_the_design_is_there():
    assert {"stages", "losses", "teachers", "criteria", "edits", "quantizers", "exporters", "models", "datasets", "tasks"} <= {
        folder for folder, _ in PLUGINS
    }


@pytest.mark.parametrize(("folder", "name"), PLUGINS)
def test_a_file_holds_one_documented_class_that_survives_dump_and_load(folder, name):
    contract = plugin.contract(folder)
    cls = find(contract, name)
    assert plugin.name_of(cls) == name
    assert plugin.contract_of(cls) is contract
    assert inspect.getdoc(cls) != inspect.getdoc(contract)
    assert all(info.description for info in cls.model_fields.values()), "each field says what it is"
    if name in CHOICE or any(info.is_required() for info in cls.model_fields.values()):
        return
    made = contract.model_validate(name)
    again = contract.model_validate(made.model_dump(mode="json"))
    assert again == made
    assert identity.identity(again) == identity.identity(made)
    assert identity.identity(made)["version"] == cls.version
