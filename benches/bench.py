"""What the commands of the benches have in common: options, words, what is built, and where they run."""

import argparse
import os
import pathlib
import platform
import resource
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What is shared among the benches and with the tests.
sys.path[1:1] = [str(ROOT / folder) for folder in ("benches/peers", "benches/webmail", "tests/real")]
# The tests' world wants to know it, but does not use it here.
os.environ.setdefault("MAILMUX", "")


def some_of(known):
    def parse(text):
        for word in text.split(","):
            if word not in known:
                raise argparse.ArgumentTypeError(f"there is no {word!r}; there are {', '.join(known)}")
        return [word for word in known if word in text.split(",")]

    return parse


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def build(*what):
    if subprocess.run(["cargo", "build", "--release", "--locked", *what], cwd=ROOT).returncode:
        raise SystemExit("this does not build: cargo build --release " + " ".join(what))


def release():
    """The folder that all is built into."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def open_many_files():
    """Whoever is started from here may open as many files as there may be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def machine():
    with open("/proc/cpuinfo") as text:
        models = [line.split(": ", 1)[1].strip() for line in text if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {models[0] if models else platform.machine()}, Linux {platform.release()}"
