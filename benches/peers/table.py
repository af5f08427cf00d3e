"""The table: medians of the rounds, what mailmux is to HAProxy, what it is to be, and what the cells cannot say themselves."""

import statistics

TITLES = {"haproxy": "HAProxy", "dovecot": "Dovecot", "pooling": "mailmux, pooling"}
# What is true of a row as a whole.
NOTES = {
    "stunnel": "stunnel has a thread for each connection, and no workers",
    "perdition": "perdition has a process for each connection, and no workers; it exchanges keys on P-256, having no X25519",
    "imapproxy": "imapproxy has a thread for each connection, and no workers; it speaks no TLS towards clients, so that its whole column is in "
    "clear; its queue of new connections is so short that 4 log in at a time, not 16",
}
# Rows that cannot do something, or need not, and why.
SOLO = "direct: nobody is there whose memory could be measured, and without TLS nothing is resumed"
POOLING = 'mailmux, pooling: the same with pool = "reuse", for what that costs while bytes move; what it saves, benches/webmail/run shows'
CANNOT = {
    ("direct", "idle"): SOLO,
    ("direct", "resumed"): SOLO,
    ("imapproxy", "resumed"): "imapproxy: without TLS nothing is resumed",
    **{("pooling", part): POOLING for part in ("idle", "logins", "resumed", "beside")},
}


class Line:
    """A line of the table: a figure, or two, and what its ratio of mailmux to HAProxy is to be at most."""

    def __init__(self, title, *keys, part, target=None, form="{:.1f}", scale=1, ratio=True):
        self.title, self.keys, self.part, self.target = title, keys, part, target
        self.form, self.scale, self.ratio = form, scale, ratio


def lines(options):
    found = []
    for size in options.sizes:
        if size != options.watched_size or options.quick:
            found.append(Line(f"memory per idle session, {size:,} of them, kB", f"idle{size}.kb", part="idle", target=[0.35]))
    found += [
        Line("memory left a second after all have gone, kB per session", "idle.left_kb", part="idle", ratio=False),
        Line(f"CPU while {options.watched_size:,} idle in silence, cores", "idle.silent_cores", part="idle", form="{:.4f}", ratio=False),
        Line(f"CPU while each of them is told a line every {options.watch_seconds} s, cores", "idle.told_cores", part="idle", target=[0.3], form="{:.4f}"),
        Line("CPU per login, full handshake, µs", "logins.cpu_us", part="logins", target=[0.45], form="{:.0f}"),
        Line("logins/s, 16 at a time", "logins.rate", part="logins", form="{:,.0f}"),
        Line("login p50 / p99, ms", "logins.latency.p50", "logins.latency.p99", part="logins", target=[0.75, 0.35], scale=1e-3),
        Line("CPU per login, resumed, µs", "resumed.cpu_us", part="resumed", target=[0.45], form="{:.0f}"),
        Line("logins/s, resumed, 16 at a time", "resumed.rate", part="resumed", form="{:,.0f}"),
        Line("login p50 / p99, resumed, ms", "resumed.latency.p50", "resumed.latency.p99", part="resumed", scale=1e-3),
        Line(f"login p99 beside {options.beside:,} that hang on, ms", "beside.latency.p99", part="beside", scale=1e-3),
        Line("the same, to the quiet one", "beside.to_quiet", part="beside", form="{:.2f}", ratio=False),
        Line("CPU per GiB down, 1 / 8 sessions, s", "down1.cpu_s", "down8.cpu_s", part="down", target=[0.6, 0.6], form="{:.2f}"),
        Line("GiB/s down, 1 / 8 sessions", "down1.rate", "down8.rate", part="down", form="{:.2f}"),
        Line("CPU per GiB up, 1 / 8 sessions, s", "up1.cpu_s", "up8.cpu_s", part="up", target=[0.6, 0.6], form="{:.2f}"),
        Line("GiB/s up, 1 / 8 sessions", "up1.rate", "up8.rate", part="up", form="{:.2f}"),
        Line("CPU per NOOP, 1 / 8 sessions, µs", "noop1.cpu_us", "noop8.cpu_us", part="noop", target=[0.7, 0.7]),
        Line("NOOP p50 / p99, 1 session, µs", "noop1.latency.p50", "noop1.latency.p99", part="noop", target=[0.85, 0.85], form="{:.0f}"),
        Line("of that added to direct, µs", "noop1.added.p50", "noop1.added.p99", part="noop", form="{:.0f}", ratio=False),
        Line("NOOP p50 / p99, 8 sessions, µs", "noop8.latency.p50", "noop8.latency.p99", part="noop", form="{:.0f}"),
    ]
    return [line for line in found if line.part in options.lines]


class Table:
    def __init__(self, options, measured, failed, most_idle):
        self.options, self.measured, self.failed, self.most_idle = options, measured, failed, most_idle

    def median(self, row, key):
        values = [figures[key] for figures in self.measured.get(row, []) if key in figures]
        return statistics.median(values) if values else None

    def value(self, row, key):
        """A median, or what is made of two."""
        if row == "direct" and "cpu" in key:
            return None
        if key == "beside.to_quiet":
            return divided(self.median(row, "beside.latency.p99"), self.median(row, "logins.latency.p99"))
        if ".added." in key:
            own, direct = (self.median(which, key.replace("added", "latency")) for which in (row, "direct"))
            return None if None in (own, direct) or row == "direct" else own - direct
        return self.median(row, key)

    def cell(self, row, line):
        if (row, line.part) in self.failed:
            return "failed"
        values = [self.value(row, key) for key in line.keys]
        shown = ["-" if value is None else line.form.format(value * line.scale) for value in values]
        return "-" if set(shown) == {"-"} else " / ".join(shown)

    def ratio(self, line):
        """mailmux to HAProxy, and what it is to be at most."""
        if not line.ratio:
            return ["", ""]
        values = [divided(self.value("mailmux", key), self.value("haproxy", key)) for key in line.keys]
        target = " / ".join(f"{value:.2f}" for value in line.target) if line.target else ""
        return ["-" if None in values else " / ".join(f"{value:.2f}" for value in values), target]

    def print(self):
        rows = self.options.rows
        compared = {"mailmux", "haproxy"} <= set(rows)
        heads = [TITLES.get(row, row) for row in rows] + (["mailmux / HAProxy", "at most"] if compared else [])
        print(f"| | {' | '.join(heads)} |")
        print(f"|---{'|---:' * len(heads)}|")
        for line in lines(self.options):
            cells = [self.cell(row, line) for row in rows] + (self.ratio(line) if compared else [])
            print(f"| {line.title} | {' | '.join(cells)} |")
        print()
        for note in self.notes():
            print(f"- {note}.")

    def notes(self):
        parts = self.options.lines
        for row in self.options.rows:
            for part in parts:
                if (row, part) in self.failed:
                    yield f"{row}, {part}: failed: {self.failed[row, part]}"
        for row in self.options.rows:
            if row in NOTES:
                yield NOTES[row]
            resumed = self.median(row, "resumed.resumed")
            if resumed is not None and resumed < 0.999:
                yield f"{TITLES.get(row, row)}: of the logins that were to resume a TLS session {resumed:.0%} did: its processes do not share their keys"
            most = self.most_idle.get(row)
            if "idle" in parts and most and most < self.options.sizes[-1]:
                yield f"{row}: {most:,} idle sessions and no more; it would take minutes to let the others in"
        yield from dict.fromkeys(why for (row, part), why in CANNOT.items() if row in self.options.rows and part in parts)
        yield from self.pooling()
        for name in ("load", "backend"):
            busy = [
                (value, key, row)
                for row, rounds in self.measured.items()
                for figures in rounds
                for key, value in figures.items()
                if key.endswith(f"busy.{name}")
            ]
            if busy:
                share, key, row = max(busy)
                yield f"the {name} was busy for {share:.0%} of a core at most ({row}, {key.split('.')[0]})"

    def pooling(self):
        keys = [f"{part}.cpu_s" for part in ("down1", "down8", "up1", "up8")]
        ratios = [divided(self.value("pooling", key), self.value("mailmux", key)) for key in keys]
        if None not in ratios:
            yield "pooling to not pooling, CPU per GiB: down {:.2f} / {:.2f}, up {:.2f} / {:.2f}; to be at most 1.10".format(*ratios)


def divided(above, below):
    return None if above is None or not below else above / below
