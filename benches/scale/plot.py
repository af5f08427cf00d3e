"""How cost grows, as a plot: an SVG by hand, which brings its own ground and can be read on light and dark pages."""

import math
import statistics

WIDTH, HEIGHT = 900, 350
# Of each panel's field, within it.
LEFT, RIGHT, TOP, BOTTOM = 62, 40, 76, 56

STYLE = """\
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #4b5563 }
.title { font-size: 14px; font-weight: 600; fill: #111827 }
.ground { fill: #ffffff; stroke: #d1d5db }
.grid { stroke: #e5e7eb }
.axis { stroke: #9ca3af }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.one { stroke: #1d4ed8 } .two { stroke: #c2410c }
circle.one { fill: #1d4ed8; stroke: none } circle.two { fill: #c2410c; stroke: none }
text.one { fill: #1d4ed8; stroke: none } text.two { fill: #c2410c; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #b6beca }
  .title { fill: #f3f4f6 }
  .ground { fill: #12161d; stroke: #343b46 }
  .grid { stroke: #262c36 }
  .axis { stroke: #6b7280 }
  .one { stroke: #7cb0ff } .two { stroke: #ff9d5c }
  circle.one { fill: #7cb0ff } circle.two { fill: #ff9d5c }
  text.one { fill: #7cb0ff } text.two { fill: #ff9d5c }
}
"""


def growth(measured):
    """Of the figures of `sessions` and `users`."""
    sessions, users = measured["lines"]["sessions"], measured["lines"]["users"]
    half = WIDTH / 2

    memory = [(one["sessions"], one["memory_kb"] / 1024) for one in sessions]
    none, most = sessions[0], sessions[-1]
    each = f"{(most['memory_kb'] - none['memory_kb']) / most['sessions']:.1f} kB per session"
    left = Panel(0, half, "Memory (PSS), MB", "sessions in IDLE", Linear(0, memory[-1][0]), Linear(0, max(y for _, y in memory)))
    left.series(memory, "one", each)

    beside = [(one["sessions"], cpu(one)) for one in sessions if one["sessions"]]
    mapped = [(one["users"], cpu(one)) for one in users if one["users"]]
    across = Logarithmic(min(beside[0][0], mapped[0][0]), max(beside[-1][0], mapped[-1][0]))
    up = Linear(0, 1.1 * max(y for _, y in beside + mapped))
    right = Panel(half, half, "CPU per login, µs", "how many, each step ten times as many", across, up)
    right.series(beside, "one", "sessions in IDLE beside it")
    right.series(mapped, "two", "users in the map file")

    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    title = "<title>How mailmux' memory and its CPU time per login grow with sessions and users</title>"
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>'
    return "\n".join([head, title, f"<style>\n{STYLE}</style>", ground, *left.parts, *right.parts, "</svg>", ""])


def cpu(one):
    return statistics.median(login["cpu_us"] for login in one["logins"])


class Linear:
    """From 0 in steps of 1, 2 or 5."""

    def __init__(self, low, high):
        rough = (high - low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        count = math.ceil(high / step - 1e-9)
        self.ticks = [number * step for number in range(count + 1)]

    def share(self, value):
        return value / self.ticks[-1]


class Logarithmic:
    """From one power of ten to another."""

    def __init__(self, low, high):
        self.low, self.high = math.floor(math.log10(low)), math.ceil(math.log10(high))
        self.ticks = [10**power for power in range(self.low, self.high + 1)]

    def share(self, value):
        return (math.log10(value) - self.low) / (self.high - self.low)


class Panel:
    def __init__(self, left, width, title, below, across, up):
        self.left, self.right = left + LEFT, left + width - RIGHT
        self.top, self.bottom = TOP, HEIGHT - BOTTOM
        self.across, self.up, self.named = across, up, 0
        self.parts = [text(self.left - 40, 28, title, "title")]
        for tick in up.ticks:
            y = self.y(tick)
            self.parts.append(line(self.left, y, self.right, y, "grid" if tick else "axis"))
            self.parts.append(text(self.left - 8, y + 4, f"{tick:,.10g}", anchor="end"))
        for tick in across.ticks:
            x = self.x(tick)
            self.parts.append(line(x, self.bottom, x, self.bottom + 5, "axis"))
            self.parts.append(text(x, self.bottom + 19, f"{tick:,.10g}", anchor="middle"))
        self.parts.append(text((self.left + self.right) / 2, HEIGHT - 14, below, anchor="middle"))

    def x(self, value):
        return self.left + self.across.share(value) * (self.right - self.left)

    def y(self, value):
        return self.bottom - self.up.share(value) * (self.bottom - self.top)

    def series(self, points, kind, name):
        places = [(self.x(x), self.y(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self.parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        self.parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
        # Their names stand above the field, one beside the other.
        x = self.left - 40 + 200 * self.named
        self.named += 1
        self.parts.append(f'<circle class="{kind}" cx="{x + 4:.1f}" cy="48" r="4"/>')
        self.parts.append(text(x + 14, 52, name, kind))


def text(x, y, words, kind="", anchor="start"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
