# A package, because a second module named conftest would hide that of tests/.
