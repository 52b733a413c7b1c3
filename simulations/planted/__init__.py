"""Planted bugs: what the simulators and their checkers are worth shows in what they catch.

Each bug is a believable mistake in the product's own protocol code, kept as a patch (`<name>.patch`). It is applied to
a copy of the package, and the simulator runs on that copy, seed after seed, until a checker finds something or the
bug's number of seeds is used up. A seed counts only if it finds nothing without the patch.

- `bugs`: the patches and what each says of itself.
- `copies`: a copy of the package, with a patch applied.
- `seeds`: one seed after the other, within a copy.
- `hunt`: looks for a bug by it; `report`: the table.

    python -m keycluster.simulations.planted [--only NAME] [--seeds-max N] [--jobs N] [--json]

A bug is added by adding its patch: `git diff` of a change, under a head as in the others.
"""
