"""`python -m tools.traffic record --seed N --out DIR` makes a trace; `show` sums one up."""

import argparse
import gzip
import json
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "agent" / "data" / "traffic"
SHIPPED_SEED = 2026


def show(folder: Path) -> None:
    """Prints, per junction, the traffic in a trace."""
    print("junction  standing mean/max per approach      new stopped /s  phase changes /min")
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    for path in sorted(folder.glob("*.jsonl.gz")):
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        columns = list(zip(*(row["standing"] for row in rows), strict=True))
        standing = "  ".join(f"{sum(c) / len(c):4.1f}/{max(c):2d}" for c in columns)
        before: set[str] = set()
        fresh = changes = 0
        for row, previous in zip(rows[1:], rows, strict=False):
            stopped = {entry[0] for entry in row["stopped"]}
            fresh += len(stopped - before)
            before = stopped
            changes += row["phase"] != previous["phase"]
        minutes = len(rows) / 60
        name = path.name.removesuffix(".jsonl.gz")
        print(f"{name:8}  {standing}  {fresh / len(rows):14.2f}  {changes / minutes:18.1f}")
    print(f"{size_bytes:,} bytes in {folder.name}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.traffic", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="simulate one city and write its trace")
    recording.add_argument("--seed", type=int, default=SHIPPED_SEED)
    recording.add_argument("--seconds", type=int, default=2400)
    recording.add_argument("--out", type=Path, default=SHIPPED)
    showing = commands.add_parser("show", help="sum up a trace")
    showing.add_argument("folder", type=Path, nargs="?", default=SHIPPED)
    arguments = parser.parse_args()
    if arguments.command == "record":
        from tools.traffic.record import record  # noqa: PLC0415 - needs SUMO; `show` does not

        record(arguments.seed, arguments.seconds, arguments.out)
        show(arguments.out)
    else:
        show(arguments.folder)


if __name__ == "__main__":
    main()
