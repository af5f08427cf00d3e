"""Figures as Markdown, line by line."""

from lines import mean_slope, median


def table(head, rows):
    """The first column is words, the others are figures."""
    rule = f"|---{'|---:' * (len(head) - 1)}|"
    return "\n".join([line(head), rule, *map(line, rows)])


def line(cells):
    return f"| {' | '.join(cells)} |"


def of(figures, key):
    """The median of one key of some measurements; with a dot, of one further down."""
    first, _, rest = key.partition(".")
    if rest:
        return of([one[first] for one in figures], rest)
    return median(figures, first)


def milliseconds(latency):
    return f"{latency['p50'] / 1000:.1f} / {latency['p99'] / 1000:.1f}"


def held(figures):
    beside, alone = figures["beside"], figures["alone"]
    rows = [
        ["login p50 / p99, ms", milliseconds(beside["latency"])],
        ["the same logins with nobody else there, ms", milliseconds(alone["latency"])],
        ["CPU of mailmux with these logins, cores", f"{beside['cores']:.3f}"],
        ["the same with nobody else there, cores", f"{alone['cores']:.3f}"],
        ["CPU of mailmux without logins, cores", f"{figures['silent_cores']:.4f}"],
        ["memory per session, kB", f"{figures['session_kb']:.1f}"],
        ["memory in all, MB", megabytes(figures["memory_kb"])],
        ["sessions lost", "0"],
        ["seconds until all were there", f"{figures['seconds_to_begin']:.1f}"],
    ]
    return table([f"{figures['sessions']:,} sessions in IDLE, {figures['per_second']} logins a second beside them", ""], rows)


def start(figures):
    names = {
        "neither": "neither",
        "pairs": f"{figures['pairs']:,} certificates",
        "users": f"{figures['users']:,} lines of map",
        "both": "both",
    }
    starts = figures["starts"]
    columns = {
        "from exec to the first login, s": ("seconds", "{:.2f}", 1),
        "CPU, s": ("cpu_s", "{:.2f}", 1),
        "memory then, MB": ("memory_kb", "{:,.1f}", 1024),
        "memory at most, MB": ("peak_kb", "{:,.1f}", 1024),
    }
    rows = []
    for title, (key, form, scale) in columns.items():
        rows.append([title, *(form.format(of(starts[name], key) / scale) for name in names)])
    return table(["start", *names.values()], rows)


def reload(figures):
    def seconds(times):
        return f"{sorted(times)[len(times) // 2]:.2f}"

    quiet, meanwhile = figures["quiet"]["latency"], figures["meanwhile"]["latency"]
    rows = [
        ["a reload of what is the same, s", seconds(figures["same_s"])],
        ["one certificate and one line of the map are new, s", seconds(figures["changed_s"])],
        [f"login p50 / p99 / worst, {figures['per_second']} a second, ms", f"{milliseconds(quiet)} / {quiet['max'] / 1000:.1f}"],
        [f"the same among {len(figures['meanwhile_s'])} reloads, one after the other, ms", f"{milliseconds(meanwhile)} / {meanwhile['max'] / 1000:.1f}"],
        [f"memory before and after all {figures['reloads']} reloads, MB", f"{megabytes(figures['before_kb'])} / {megabytes(figures['after_kb'])}"],
    ]
    return table([f"reload, with {figures['pairs']:,} certificates and {figures['users']:,} lines of map", ""], rows)


def floor(figures):
    logins, held, kicks, step, batch = (figures[key] for key in ("logins_kb", "held_kb", "kicks_kb", "step", "batch"))
    after_logins, kicked = step * (len(logins) - 1), batch * len(kicks)
    mean, last_half = (logins[-1] - logins[0]) * 1024 / after_logins, mean_slope(logins[len(logins) // 2 :]) * 1024 / step
    rows = [
        ["after the first logins", megabytes(figures["begun_kb"]), ""],
        [f"after {step:,} more, so that their users are known", megabytes(logins[0]), ""],
        [f"after {after_logins:,} more of the same users", megabytes(logins[-1]), f"{mean:+.1f} bytes per login, {last_half:+.1f} in the last half"],
        [f"with {batch:,} sessions in IDLE, the first time", megabytes(held[0]), f"{(held[0] - logins[-1]) / batch:.1f} kB per session"],
        [f"the same, the {len(held)}th time", megabytes(held[-1]), f"{mean_slope(held[1:]) * 1024 / batch:+.1f} bytes per session that was kicked, from the 2nd time on"],
        [f"when all {kicked:,} had been kicked", megabytes(kicks[-1]), ""],
        [f"{figures['pause_s']} s later", megabytes(figures["end_kb"]), f"{(figures['end_kb'] - logins[-1]) / 1024:+.1f} MB above what it was before them"],
    ]
    return table(["memory", "MB", "growth"], rows)


def sessions(figures):
    rows, none = [], figures[0]
    for one in figures:
        size, each = one["sessions"], ["-", "-"]
        if size:
            work = max(0.0, one["cores"] - none["cores"]) * 60e6 / size
            each = [f"{(one['memory_kb'] - none['memory_kb']) / size:.2f}", f"{work:.0f}"]
        latency = {part: of(one["logins"], f"latency.{part}") for part in ("p50", "p99")}
        rows.append([f"{size:,}", megabytes(one["memory_kb"]), *each, f"{of(one['logins'], 'cpu_us'):.0f}", milliseconds(latency)])
    head = ["sessions in IDLE", "memory, MB", "per session, kB", "CPU per session and minute, µs", "CPU per login beside them, µs", "login p50 / p99, ms"]
    return table(head, rows)


def users(figures):
    none = figures[0]
    rows = []
    for one in figures:
        memory, count = middle(one["memory_kb"]), one["users"]
        each = f"{(memory - middle(none['memory_kb'])) * 1024 / count:.0f}" if count >= 10_000 else "-"
        latency = {part: of(one["logins"], f"latency.{part}") for part in ("p50", "p99")}
        rows.append([f"{count:,}", megabytes(memory), each, f"{of(one['logins'], 'cpu_us'):.0f}", milliseconds(latency)])
    return table(["lines of the map file", "memory, MB", "per line, bytes", "CPU per login, µs", "login p50 / p99, ms"], rows)


def middle(values):
    return sorted(values)[len(values) // 2]


def megabytes(kilobytes):
    return f"{kilobytes / 1024:,.1f}"
