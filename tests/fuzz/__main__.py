"""`bash run.sh fuzz [--minutes N] [PARSER ...]`: tries mutated files on every reader of what comes from outside.

Prints, parser by parser, how many inputs were tried, how many were refused in words, and what failed; exits 1 where one did.
"""

import argparse
import secrets
import sys
from dataclasses import replace
from pathlib import Path

from shared.cli import run_entry
from shared.errors import UserError
from tests.fuzz.parsers import PARSERS, Parser, video_inputs
from tests.fuzz.session import CORPUS, Tally, fuzz, keep
from tests.fuzz.worker import Worker


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh fuzz", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=f"which of {', '.join(PARSERS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each parser (default: 1)")
    parser.add_argument("--seed", type=int, help="of the inputs (default: drawn)")
    parser.add_argument(
        "--videos", type=Path, help="a folder of videos to mutate, in the place of drawn ones; wants --out"
    )
    parser.add_argument(
        "--out", type=Path, default=CORPUS, help="where inputs that fail go (default: tests/fuzz/corpus)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="that an input may take (default: 20)")
    options = parser.parse_args(argv)
    chosen = chosen_parsers(options.parsers, options.videos, options.out)
    first_seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(
        f"seed {first_seed}\n{'parser':<14}{'minutes':>8}{'inputs':>10}{'per s':>8}{'refused':>9}{'slowest':>9}{'failures':>10}",
        flush=True,
    )
    n_failures = 0
    with Worker(options.seconds) as worker:
        for parser in chosen:
            tally = fuzz(parser, worker, seconds=60 * options.minutes, first_seed=first_seed)
            print(row_of(parser.name, tally), flush=True)
            for verdict, files in tally.failures.values():
                place = keep(files, verdict, options.out / parser.name)
                print(
                    f"  {verdict.signature}: {place}\n    {(verdict.text.strip().splitlines() or [''])[-1]:.300}",
                    flush=True,
                )
            n_failures += len(tally.failures)
    sys.exit(1 if n_failures else 0)


def chosen_parsers(names: list[str], videos: Path | None, out: Path) -> list[Parser]:
    """The parsers of these names, all for none. Raises UserError for an unknown one, and where `videos` does not serve."""
    if unknown := sorted(set(names) - PARSERS.keys()):
        raise UserError(f"fuzz: no parser {unknown[0]!r}; expected some of {', '.join(PARSERS)}.")
    chosen = [PARSERS[name] for name in names] or list(PARSERS.values())
    if videos is None:
        return chosen
    if out == CORPUS:
        raise UserError(
            "--videos: name a folder for what fails with --out: the project keeps no pieces of other people's videos."
        )
    files = sorted(
        path for path in videos.rglob("*") if path.is_file() and path.suffix.lower() not in (".json", ".md", ".txt")
    )
    if not files:
        raise UserError(f"--videos: {videos}: no file there. Name a folder of videos.")
    seeds = tuple((path.name, path.read_bytes()) for path in files)
    return [
        replace(parser, inputs=lambda: video_inputs(seeds)) if parser.name == "videos" else parser for parser in chosen
    ]


def row_of(name: str, tally: Tally) -> str:
    rate = tally.tried / max(tally.seconds, 1e-9)
    return f"{name:<14}{tally.seconds / 60:>8.2f}{tally.tried:>10}{rate:>8.1f}{tally.refused:>9}{tally.slowest:>8.2f}s{len(tally.failures):>10}"


if __name__ == "__main__":
    run_entry(main)
