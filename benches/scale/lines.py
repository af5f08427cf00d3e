"""What is measured, line by line: each takes the bench and gives figures, as they stand in the JSON.

Memory is PSS in kB, CPU time is mailmux' own (user and system), latencies are in µs, from connect to the answer to LOGIN.
"""

import shutil
import ssl
import statistics
import threading
import time

from bench import say
from measures import Failed
from stand import HOST

# So many logins have come before memory is read for the first time: what is set up once is there then.
WARM_UP = 64
# At most, of certificates and a map, among logins.
CHANGES = 150


def held(bench):
    """Many sessions in IDLE, and logins beside them."""
    options, size = bench.options, bench.options.most
    with bench.stand() as stand:
        figures = {"sessions": size, "per_second": options.per_second, "alone": stand.pace(options.alone_seconds)}
        with stand.load("idle", size) as idle:
            idle.phase("ready")
            stand.settle()
            floor = stand.memory()
            began = time.monotonic()
            stand.hold(idle, size)
            figures["seconds_to_begin"] = time.monotonic() - began
            figures["session_kb"] = (stand.memory() - floor) / size
            figures["silent_cores"] = stand.cores(idle, options.watch_seconds)
            figures["beside"] = stand.pace(options.pace_seconds)
            stand.all_there(size)
            figures["memory_kb"] = stand.memory()
            idle.go()
            idle.phase("gone")
            stand.settle()
            idle.go()
            lost = idle.line()["ended"]
            if lost:
                raise Failed(f"{lost} of {size} sessions were lost")
        return figures


def start(bench):
    """From exec to the first login, with certificates and with a map, with both and with neither."""
    options = bench.options
    pairs, users = bench.pairs("pairs", options.pairs), bench.map(options.users)
    variants = {"neither": {}, "pairs": {"pairs": pairs}, "users": {"users": users}, "both": {"pairs": pairs, "users": users}}
    figures = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, settings in variants.items():
            with bench.stand(**settings) as stand:
                mailmux = stand.mailmux
                is_shown(stand, options.pairs - 1 if "pairs" in settings else None, pairs, f"user{options.users - 1}")
                seconds, cpu = time.monotonic() - mailmux.began, mailmux.cpu()
                if "users" in settings and not mailmux.log_in("localhost", "stranger")[1].startswith("a NO"):
                    raise Failed("who is not in the map was let in")
                figures[name].append({"seconds": seconds, "cpu_s": cpu, "memory_kb": stand.memory(), "peak_kb": mailmux.peak()})
    return {"pairs": options.pairs, "users": options.users, "starts": figures}


def is_shown(stand, number, folder, user):
    """The user can log in, and is shown the certificate for the name that it asks for."""
    name = "localhost" if number is None else HOST.format(number)
    shown, answer = stand.mailmux.log_in(name, user)
    path = stand.mailmux.folder / "mail.pem" if number is None else folder / f"{number:05}.pem"
    first = path.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
    if shown != ssl.PEM_cert_to_DER_cert(first):
        raise Failed(f"another certificate was shown to who asked for {name}")
    if not answer.startswith("a OK"):
        raise Failed(f"{user} could not log in: {answer}")


class Renewal:
    """Certificates and a map that change: one of the one and a line of the other each time."""

    def __init__(self, bench):
        self.own, self.spare = bench.pairs("pairs", bench.options.pairs), bench.pairs("spare-pairs", CHANGES)
        self.users, self.lines, self.done = bench.map(bench.options.users), bench.options.users, 0

    def change(self):
        if self.done == CHANGES:
            raise Failed(f"more than {CHANGES} reloads")
        for kind in ("key", "pem"):
            shutil.copy(self.spare / f"{self.done:05}.{kind}", self.own)
        with open(self.users, "a") as text:
            text.write(f"user{self.lines + self.done}\tmail\n")
        self.done += 1


def reload(bench):
    """How long a reload takes with both, and logins meanwhile."""
    options, renewal = bench.options, Renewal(bench)
    with bench.stand(pairs=renewal.own, users=renewal.users) as stand:
        stand.logins(WARM_UP)
        figures = {"pairs": options.pairs, "users": options.users, "per_second": options.per_second, "before_kb": stand.memory()}
        figures["same_s"] = [stand.mailmux.reload() for _ in range(options.rounds)]
        figures["changed_s"] = []
        for _ in range(options.rounds):
            renewal.change()
            figures["changed_s"].append(stand.mailmux.reload())
            is_shown(stand, renewal.done - 1, renewal.spare, f"user{renewal.lines + renewal.done - 1}")
        figures["quiet"] = stand.pace(options.reload_seconds)
        with Reloads(stand, renewal) as reloads:
            figures["meanwhile"] = stand.pace(options.reload_seconds)
        figures["meanwhile_s"] = reloads.seconds
        figures["reloads"] = 2 * options.rounds + len(reloads.seconds)
        stand.settle()
        figures["after_kb"] = stand.memory()
        return figures


class Reloads:
    """One after the other, each of something new, as long as this is entered."""

    def __init__(self, stand, renewal):
        self.stand, self.renewal, self.seconds, self.failed = stand, renewal, [], None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.reload)

    def reload(self):
        try:
            while not self.over.is_set():
                self.renewal.change()
                self.seconds.append(self.stand.mailmux.reload())
                self.over.wait(0.2)
        except (Failed, OSError) as failed:
            self.failed = failed

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        if self.failed:
            raise Failed(f"a reload among logins: {self.failed}")


def floor(bench):
    """Memory after many logins, and after many sessions that were told to leave."""
    options = bench.options
    step = options.login_step
    with bench.stand() as stand:
        stand.logins(WARM_UP)
        stand.settle()
        figures = {"step": step, "batch": options.batch, "pause_s": options.pause_seconds, "begun_kb": stand.memory()}
        figures |= {"logins_kb": [], "held_kb": [], "kicks_kb": [], "kick_s": []}
        # Each of the users that there are has come once then.
        for number in range(options.login_steps + 1):
            stand.logins(step)
            stand.settle()
            figures["logins_kb"].append(stand.memory())
            say(f"  {step * (number + 1):,} logins: {figures['logins_kb'][-1]:,} kB")
        for number in range(options.batches):
            with stand.load("idle", options.batch) as idle:
                idle.phase("ready")
                stand.hold(idle, options.batch)
                figures["held_kb"].append(stand.memory())
                began = time.monotonic()
                stand.mailmux.kick_all()
                stand.settle()
                figures["kick_s"].append(time.monotonic() - began)
                idle.go()
                idle.phase("gone")
                idle.go()
                ended = idle.line()["ended"]
                if ended != options.batch:
                    raise Failed(f"of {options.batch} sessions that were kicked {ended} were ended")
            # Allocators give back with a delay, if at all.
            time.sleep(options.pause_seconds / 5)
            figures["kicks_kb"].append(stand.memory())
            say(f"  {options.batch * (number + 1):,} kicked: {figures['kicks_kb'][-1]:,} kB; {figures['held_kb'][-1]:,} while they were there")
        time.sleep(options.pause_seconds)
        figures["end_kb"] = stand.memory()
        return figures


def sessions(bench):
    """Memory, CPU at rest, and CPU of logins, at growing numbers of sessions in IDLE."""
    options = bench.options
    with bench.stand() as stand, stand.load("idle", *options.sizes) as idle:
        idle.phase("ready")
        stand.settle()
        figures = []
        for size in [0, *options.sizes]:
            if size:
                stand.hold(idle, size)
            else:
                # What is set up once, and what is remembered of users, is there before anybody stays.
                stand.logins(options.logins)
                stand.settle()
            memory = stand.memory()
            cores = stand.cores(idle, options.watch_seconds)
            logins = [stand.logins(options.logins) for _ in range(options.rounds)]
            stand.all_there(size)
            figures.append({"sessions": size, "memory_kb": memory, "cores": cores, "logins": logins})
            say(f"  {size:,} sessions: {memory:,} kB, {cores:.4f} cores, {median(logins, 'cpu_us'):.0f} µs for a login")
        return figures


def users(bench):
    """Memory, and CPU of logins, with growing map files."""
    options = bench.options
    maps = {0: None} | {lines: bench.map(lines, everybody=True) for lines in options.maps}
    figures = {lines: {"users": lines, "memory_kb": [], "logins": []} for lines in maps}
    for _ in range(options.rounds):
        for lines, path in maps.items():
            with bench.stand(users=path) as stand:
                # The first logins of all are read apart: they set up what later ones find.
                stand.logins(WARM_UP)
                figures[lines]["memory_kb"].append(stand.memory())
                figures[lines]["logins"].append(stand.logins(options.logins))
    for lines in maps:
        say(f"  {lines:,} users: {statistics.median(figures[lines]['memory_kb']):,.0f} kB, {median(figures[lines]['logins'], 'cpu_us'):.0f} µs for a login")
    return list(figures.values())


def median(figures, key):
    return statistics.median(one[key] for one in figures)


def mean_slope(values):
    """By how much each is larger than the one before, as a straight line through them says."""
    count = len(values)
    middle = (count - 1) / 2
    spread = sum((at - middle) ** 2 for at in range(count))
    return sum((at - middle) * value for at, value in enumerate(values)) / spread if spread else 0.0
