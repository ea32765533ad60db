"""Commands of the models: a simulated history, training."""

import argparse
import json
import sys
from typing import Any

from chat_app.commands.common import OK, PROBLEMS, WrongUse, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    made = add_command(
        commands, "simulate", simulate, "write a credible history of made-up people into the books"
    )
    made.add_argument("--users", type=int, default=400, help="how many sign up (default: 400)")
    made.add_argument("--months", type=int, default=12, help="up to now (default: 12)")
    made.add_argument("--seed", type=int, default=1, help="the same seed, the same history")
    made.add_argument("--fraud", action="store_true", help="one in six of them cheats")
    learnt = add_command(
        commands, "train", train, "train and register models; prints their metrics as JSON"
    )
    learnt.add_argument("kind", nargs="*", help="ltv, churn, forecast, fraud (default: all)")


def simulate(options: argparse.Namespace, settings: Settings) -> int:
    """Write a history of made-up people through the real ledger, and prove the books."""
    from tqdm import tqdm

    from chat_app import db as database
    from chat_app import secrets
    from chat_app.clock import Clock
    from chat_app.flows import books
    from chat_app.flows import simulate as simulation

    now = Clock().micros()
    key = secrets.load_or_create(settings.data_dir).audit_key
    db = database.Database(settings.database_url)
    try:
        database.migrate(db)
        with tqdm(leave=False, unit=" deeds", disable=not sys.stderr.isatty()) as line:

            def tell(done: int, total: int) -> None:
                line.total = total
                line.update(done - line.n)

            counts = simulation.run(
                db, settings, users=options.users, months=options.months, seed=options.seed,
                now=now, fraud=options.fraud, tell=tell,
            )  # fmt: skip
        simulation.seal(db, settings, key=key, now=now)
        found = books.prove(db, key=key, data_dir=settings.data_dir)
    finally:
        db.close()
    print(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()))
    print(f"{len(found)} discrepancies." if found else "The books are right: no discrepancy.")
    return PROBLEMS if found else OK


def train(options: argparse.Namespace, settings: Settings) -> int:
    """Train models on the books and print how they did beside the baselines."""
    from chat_app import secrets
    from chat_app.clock import Clock, rfc3339
    from chat_app.flows import learn, rollouts

    try:
        kinds = rollouts.check_kinds(options.kind)
    except rollouts.UnknownKind as error:
        raise WrongUse(str(error)) from error
    now = Clock().micros()
    with existing_database(settings) as db:
        models = rollouts.registry(
            settings.data_dir, secrets.load_or_create(settings.data_dir).link_key
        )
        runs = [learn.train(db, models, kind, now=now, actor="operator") for kind in kinds]
    rows = [
        {
            "kind": run.kind, "state": run.state, "version": run.version,
            "champion": run.champion, "is_demo": run.is_demo, "rows": run.rows, **run.report,
            "error": run.error,
        }
        for run in runs
    ]  # fmt: skip
    print(json.dumps({"as_of": rfc3339(now), "runs": rows}, indent=2))
    return PROBLEMS if any(run.error for run in runs) else OK
