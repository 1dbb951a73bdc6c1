"""How long `effvit --help` takes, next to a bare interpreter: `python tests/benchmarks/startup.py`.

The promise is 0.3 s. It is no test: other work on the machine only ever adds.
"""

from __future__ import annotations

import subprocess
import sys
import time

ROUNDS = 20
CONTENDERS = {
    "python": [sys.executable, "-c", "pass"],
    "effvit --help": [sys.executable, "-m", "effvit.cli.main", "--help"],
}


def main() -> None:
    """Print the best and the median of interleaved runs."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, command in CONTENDERS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        times.sort()
        print(f"{name}: best {times[0]:.3f} s, median {times[len(times) // 2]:.3f} s of {ROUNDS}")


if __name__ == "__main__":
    main()
