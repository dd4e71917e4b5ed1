"""Series in time: windows of their steps, and the next values of some channels.

A part of the data is a stretch of time. The windows of a later part may read on from
the one before it, but no value that one part is to predict is predicted in another, and
nothing is learned from later ones, neither scales nor the season.
Shapes: T steps of a series, C channels, N windows, W steps read, H predicted.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from train.data import long, scales
from train.data.builtin import SERIES
from train.data.columns import Column, Columns
from train.data.formats import numbers
from train.data.load import load
from train.data.prepare import Dates, listed
from train.data.schema import (
    Arrays,
    Data,
    Schema,
    Split,
    restore_target,
    standardize,
)
from train.data.targets import check_targets
from zoo.base import UsageError, check_int

if TYPE_CHECKING:
    from pandas import Series


def load_series(
    request: Split,
    *,
    target: str | None = None,
    group: str | None = None,
    time: str | None = None,
    window: int | None = None,
    horizon: int | None = None,
    season: int | None = None,
    dates: Dates | None = None,
    holdout: float | None = None,
) -> Data:
    """The windows of a series by its name in SERIES, or of a .csv; a `Data` as it is.

    `time` orders the lines, `target` is the column to predict, or "a,b" those, from
    itself and all others; `group` tells several series apart. Uneven times are taken as
    steps, with a warning. See `from_series` for the rest. Raises UsageError.
    """
    if isinstance(request.source, Data):
        return _given(request.source, request)
    name = str(request.source)
    if name in SERIES:
        known = SERIES[name]
        frame, time, target = known.read(), time or known.time, target or known.target
        window = known.window if window is None else window
        horizon = known.horizon if horizon is None else horizon
    else:
        frame = long.table(name, group)
    for flag, given in {"--target": target, "--time": time, "--window": window}.items():
        if given is None:
            raise UsageError(f"expected {flag} to forecast {name}, found none")
    assert target is not None and time is not None and window is not None
    wanted, columns = _columns(frame, target, time, group, name)
    form, said = long.written(frame, time, dates)
    found = list(long.groups(frame, group or "", time, name, form))
    paces = [pace(steps[time]) for _, steps in found]
    if None in paces:
        warnings.warn(
            f'the times "{time}" of {name} are not evenly spaced: each line is a step',
            stacklevel=2,
        )
    data = from_series(
        [long.encode(steps, columns, name) for _, steps in found],
        window=window,
        horizon=1 if horizon is None else horizon,
        season=season,
        holdout=holdout,
        watched=request.watched,
        name=name,
        targets=wanted if len(wanted) > 1 else (),
        groups=[each for each, _ in found],
    )
    clock = str(found[0][1][time].iloc[0]), str(paces[0] or "")
    made = data.schema._replace(target_name=target, group=group or "", clock=clock)
    made = made._replace(columns=columns, form=form, time=time, notes=said + made.notes)
    return data._replace(schema=made)


def _columns(frame, target, time, group, name) -> tuple[list[str], Columns]:
    """The targets, and all columns that are read, with these as the last."""
    many = target not in frame.columns and "," in target
    wanted = listed(target, list(frame.columns), "--target") if many else [target]
    for one in wanted:
        roles = {"--time": time, "--target": one}
        long.check_names(frame, roles | ({"--group": group} if group else {}), name)
    others, last = (group, time, *wanted), tuple(map(Column, wanted))
    if set(frame.columns) <= set(others):
        return wanted, last
    return wanted, (*long.features(frame, others, name), *last)


def from_series(
    series: Sequence[Any],
    *,
    window: int,
    horizon: int = 1,
    season: int | None = None,
    holdout: float | None = None,
    watched: float = 0.0,
    name: str = "series",
    targets: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> Data:
    """Arrays [T, C] or [T] -> windows x [N, W, C], and y [N, H] of the last channel.

    `targets` are the names of several, the last channels: y [N, H T], all of a step
    side by side, as all that is [N, H] here. Of each series the last `holdout` (0.2 for
    None) is for testing, and of what is left the last `watched` for watching. Rows have
    "seasonal" [N, H], what was there one `season` of steps before (or two, ...), which
    is looked for where none is given; in the targets' units, "unit" [N, T], the mean
    change over a season in training; "first" [N], the step of y's first value, and
    which "series" [N] it is of. Raises UsageError.
    """
    check_int("window", window, 1)
    check_int("horizon", horizon, 1)
    share = 0.2 if holdout is None else holdout
    if not 0 <= share < 1:
        raise UsageError(f"expected a holdout of at least 0, below 1, found {share}")
    arrays = [numbers(np.reshape(one, (len(one), -1)), name) for one in series]
    cuts = [_cuts(len(a), window, horizon, share, watched, name) for a in arrays]
    past = [a[: cut[0]] for a, cut in zip(arrays, cuts, strict=True)]
    count = len(check_targets(targets, name)) or 1
    if season is None:
        season = find_season([a[:, -i] for a in past for i in range(1, count + 1)])
    check_int("season", season, 1, min(map(len, past)) - 1)
    schema = _described(name, past, groups, targets, window, horizon, season)
    each = scales.known(schema)
    parts: list[list[Arrays]] = [[], [], []]
    for i, (array, cut) in enumerate(zip(arrays, cuts, strict=True)):
        y = array[: cut[0], -count:].astype(np.float64)
        unit = np.abs(y[season:] - y[:-season]).mean(0)
        center, width = scales.of(each, groups[i] if groups else str(i), array)
        alike = (array - center) / width
        scaled = standardize(schema._replace(shape=array.shape[1:]), alike)
        for part, low, high in zip(parts, (window, *cut), cut, strict=False):
            first = np.arange(low, high - horizon + 1, dtype=np.int32)
            rows = _windows(scaled, first, schema)
            own = {"unit": np.full((len(first), count), unit, "f4"), "first": first}
            if each:
                own |= scales.beside(center[-count:], width[-count:], len(first))
            part.append(rows | own | {"series": np.full_like(first, i)})
    train, watch, test = (
        {key: np.concatenate([rows[key] for rows in part]) for key in part[0]}
        for part in parts
    )
    return Data(
        schema._replace(rows=len(train["x"])),
        train,
        test if len(test["x"]) else None,
        watch if watched else None,
    )


def _described(name, past, groups, targets, window, horizon, season):
    """The schema of series, of which `past` is to train on."""
    count = len(targets) or 1
    mean, scale, own = scales.learn(past, groups)
    target: Any = (mean[-count:] * horizon, scale[-count:] * horizon)
    return Schema(
        *(name, (window, len(mean)), (), mean, scale),
        target if targets else (mean[-1], scale[-1]),
        target_shape=(horizon * count,),
        season=season,
        targets=tuple(targets),
        scales=own,
        notes=("series are scaled each by its own, as they differ far",) * bool(own),
    )


def _cuts(steps, window, horizon, share, watched, name):
    """Where training ends, and what is watched, and the series. Raises UsageError."""
    end = steps - round(share * steps)
    start = end - (max(horizon, round(watched * end)) if watched else 0)
    if start < window + horizon:
        raise UsageError(
            f"expected {window + horizon} steps or more to train on in each series of "
            f"{name}, for a window of {window} and a horizon of {horizon}, found "
            f"{start} of {steps}"
        )
    if 0 < steps - end < horizon or (share and steps == end):
        raise UsageError(
            f"expected {horizon} steps or more to test on in each series of {name}, as "
            f"the horizon has, found {steps - end} of {steps}: name a larger --holdout"
        )
    return start, end, steps


def _windows(scaled, first, schema):
    ahead, season = np.arange(schema.horizon), schema.season
    before = first[:, None] + ahead - season * (ahead // season + 1)
    before = np.where(before < 0, first[:, None] - 1, before)  # none yet: the last
    count = max(1, len(schema.targets))
    y, seasonal = (scaled[at, -count:] for at in (first[:, None] + ahead, before))
    return {
        "x": scaled[first[:, None] + np.arange(-schema.shape[0], 0)],
        "y": y.reshape(len(first), count * len(ahead)),
        "seasonal": seasonal.reshape(len(first), count * len(ahead)),
    }


def restored(schema: Schema, y: Any, rows: Arrays) -> np.ndarray:
    """Standardised y [N, H T] of some rows -> [N, H, T] in the units of each target."""
    values = restore_target(schema, y).reshape(len(y), schema.horizon, -1)
    if "width" not in rows:
        return values
    return values * rows["width"][:, None] + rows["center"][:, None]


def _given(data: Data, wanted: Split) -> Data:
    """Windows at hand; watched are the last, and none trained on reaches into them."""
    if not wanted.watched or data.watched is not None or not data.schema.forecast:
        return load(Split(data, wanted.watched, wanted.seed))
    rows, horizon = data.train, data.schema.horizon
    first, late = rows["first"], np.zeros(len(rows["x"]), bool)
    early = late.copy()
    for i in np.unique(rows["series"]):
        mine = rows["series"] == i
        cut = np.quantile(first[mine], 1 - wanted.watched, method="lower")
        late |= mine & (first >= cut)
        early |= mine & (first + horizon <= cut)
    if not early.any():
        raise UsageError(
            f"expected windows to train on before those watched, found {len(first)} in "
            f"all with a horizon of {horizon}"
        )
    train, watch = ({k: v[at] for k, v in rows.items()} for at in (early, late))
    schema = data.schema._replace(rows=len(train["x"]))
    return data._replace(schema=schema, train=train, watched=watch)


def find_season(series: Sequence[np.ndarray]) -> int:
    """The lag at which series [T] are most like themselves; 1 where none stands out.

    The first peak of their mean autocorrelation, without their linear trends, that is
    above what noise has at its highest lag, and 0.8 of the highest or more; at lags up
    to a third of the shortest.
    """
    size = min(map(len, series))
    lags = size // 3
    if lags < 3:
        return 1
    found = np.zeros(lags + 1)
    for values in series:
        t = np.arange(len(values))
        rest = values - np.polyval(np.polyfit(t, values, 1), t)
        power = np.abs(np.fft.rfft(rest, 2 * len(rest))) ** 2
        found += np.fft.irfft(power)[: lags + 1] / max(power.mean(), 1e-300)
    found /= max(found[0], 1e-300)
    inner = found[1:-1]
    peak = (inner > found[:-2]) & (inner > found[2:])
    noise = (1 + np.sqrt(2 * np.log(lags))) / np.sqrt(sum(map(len, series)))
    high = np.where(peak & (inner > noise), inner, 0)
    return int((high >= 0.8 * high.max()).argmax()) + 1 if high.any() else 1


# Times --------------------------------------------------------------------------------


def pace(times: "Series") -> str | float | None:
    """From one time to the next: a number, or pandas' name; None where it varies."""
    if times.dtype.kind in "iuf":
        gaps = np.diff(times.to_numpy(np.float64))
        even = np.allclose(gaps, gaps.mean(), rtol=1e-3, atol=0)
        return float(gaps.mean()) if even else None
    import pandas as pd

    if len(times) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 4 has an object for the name
        found = pd.infer_freq(pd.DatetimeIndex(times))
    return getattr(found, "freqstr", found)


def after(times: "Series", count: int) -> list[str]:
    """The next `count` times; "+1", "+2", ... where they are uneven."""
    step, last = pace(times), times.iloc[-1]
    if step is None:
        return [f"+{i + 1}" for i in range(count)]
    if isinstance(step, float):
        return [f"{last + step * (i + 1):.10g}" for i in range(count)]
    import pandas as pd

    days = pd.date_range(last, periods=count + 1, freq=step)[1:]
    whole = bool((days == days.normalize()).all())
    return [str(day.date()) if whole else day.isoformat() for day in days]


# To predict ---------------------------------------------------------------------------


def examples(schema: Schema, given: Any) -> Arrays:
    """The last window of each series of tables, in the order of their groups: {"x"}.

    Raises UsageError for a series that is shorter than the window.
    """
    size, rows, beside = schema.shape[0], [], []
    each, count = scales.known(schema), max(1, len(schema.targets))
    for what, frame in long.sources(given, schema.group):
        for name, steps in long.groups(
            frame, schema.group, schema.time, what, schema.form
        ):
            if len(steps) < size:
                at = f' where "{schema.group}" is {name}' if name else ""
                raise UsageError(
                    f"expected {size} steps or more in {what}, as the window has, "
                    f"found {len(steps)}{at}"
                )
            x = long.encode(steps, schema.columns, what)
            center, unit = scales.of(each, name, x)
            rows.append((x[-size:] - center) / unit)
            beside.append(scales.beside(center[-count:], unit[-count:], 1))
    found = {"x": standardize(schema, np.stack(rows))}
    if each:
        found |= {k: np.concatenate([b[k] for b in beside]) for k in beside[0]}
    return found


def lines(schema: Schema, given: Any, predictions: np.ndarray) -> list[list[str]]:
    """Forecasts [N, H, T] of `examples` as a long table: group, time, targets."""
    names = schema.targets or (schema.target_name,)
    heads = [schema.group] * bool(schema.group) + [schema.time, *names]
    predictions = predictions.reshape(len(predictions), schema.horizon, len(names))
    found, each = [heads], iter(predictions)
    for what, frame in long.sources(given, schema.group):
        for name, steps in long.groups(
            frame, schema.group, schema.time, what, schema.form
        ):
            values = next(each)
            times = after(steps[schema.time], len(values))
            for time, cells in zip(times, values, strict=True):
                row = [time, *(f"{value:.7g}" for value in cells)]
                found.append([name] * bool(schema.group) + row)
    return found
