"""Feeds one target for as long as libFuzzer's options say: `python -m scripts.lib.fuzz.one PROGRAM TARGET OPTION...`.

PROGRAM is what libFuzzer runs again to merge: it does the same as this with the options that it is given.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["protocol", "orchestrator"]):
    from tests.support.fuzzing import TARGETS

__all__: list[str] = []

if __name__ == "__main__":
    program, target, *options = sys.argv[1:]
    atheris.Setup([program, *options], TARGETS[target])
    atheris.Fuzz()
