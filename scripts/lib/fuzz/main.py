"""Feeds the codec, a session and a hub arbitrary bytes for a while, guided by what code they reach."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.fuzzing import TARGETS, read_corpus, seeds, words, write_corpus

__all__ = ["main"]

SECONDS = 600
INPUT_BYTES_MAX = 4096
INPUT_S_MAX = 10
"""An input that takes longer is a hang."""
MEMORY_MIB_MAX = 1024
SLACK_S = 120


def main() -> int:
    """Run it. Returns 1 where a target broke; the input is left in the current directory then."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all without")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for each target; {SECONDS} without")
    parser.add_argument("--keep", action="store_true", help="keep the inputs that reach most in tests/property/corpus")
    options = parser.parse_args()
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"there is no target {min(unknown)!r}; there are {', '.join(TARGETS)}")
    broken = [name for name in options.targets or TARGETS if not _fuzz(name, options.seconds, keep=options.keep)]
    if broken:
        print(f"broken: {', '.join(broken)}; the input is in a file crash-, timeout- or oom-… here", file=sys.stderr)
    return 1 if broken else 0


def _fuzz(name: str, seconds: int, *, keep: bool) -> bool:
    with tempfile.TemporaryDirectory(prefix="fleetline-fuzz-") as folder:
        found, least, told = Path(folder, "found"), Path(folder, "least"), Path(folder, "words")
        found.mkdir()
        least.mkdir()
        for number, data in enumerate((*seeds(name), *read_corpus(name))):
            (found / f"{number:05}").write_bytes(data)
        told.write_text("".join(f'"{word}"\n' for word in words()))
        program = Path(folder, name)
        again = (sys.executable, "-m", "scripts.lib.fuzz.one", str(program), name)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(again)} "$@"\n')
        program.chmod(0o700)
        limits = (f"-max_total_time={seconds}", f"-timeout={INPUT_S_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}")
        if not _run(program, seconds, *limits, f"-max_len={INPUT_BYTES_MAX}", f"-dict={told}", str(found)):
            return False
        if keep:
            if not _run(program, seconds, "-merge=1", str(least), str(found)):
                return False
            write_corpus(name, [path.read_bytes() for path in least.iterdir()])
    return True


def _run(program: Path, seconds: int, *options: str) -> bool:
    return subprocess.run((program, *options), check=False, timeout=seconds + SLACK_S).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
