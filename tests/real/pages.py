"""What README.md tells operators to type, and the configurations that it shows. Nothing is run here.

A command is a line of an indented block, or a line that begins with `$ ` in a fenced block called `console`; what follows there is
what it prints. A backslash at its end continues a line. Other fenced blocks hold text, but for `toml`, which holds configuration.
"""

import re

from world import ROOT

README = (ROOT / "README.md").read_text()


class Command:
    def __init__(self, number, line):
        self.number, self.line, self.prints = number, line, []

    @property
    def text(self):
        """Without the remark behind it."""
        return re.sub(r"\s{2,}#\s.*$", "", self.line, flags=re.M).strip()

    def __repr__(self):
        return f"README.md:{self.number}: {self.text}"


class Block:
    """A fenced block."""

    def __init__(self, number, language, section):
        self.number, self.language, self.section, self.lines = number, language, section, []

    @property
    def text(self):
        return "".join(line + "\n" for line in self.lines)


def read(text=README):
    """All commands and all fenced blocks, in their order."""
    commands, blocks = [], []
    block = section = None
    before_is_blank = indented = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.fullmatch(r"```(\w*)", line)
        if block:
            if fence:
                block = None
            elif block.language == "console" and line.startswith("$ "):
                commands.append(Command(number, line[2:]))
            else:
                block.lines.append(line)
                if block.language == "console":
                    commands[-1].prints.append(line)
            continue
        if fence:
            block = Block(number, fence[1], section)
            blocks.append(block)
        if line.startswith("#"):
            section = line.lstrip("# ")
        # An indented line is code only behind a blank one, or behind another.
        indented = line.startswith("    ") and (before_is_blank or indented)
        before_is_blank = not line
        # A line that is nothing but a remark goes on with the one before.
        if indented and not line.lstrip().startswith("#"):
            if commands and commands[-1].line.endswith("\\") and commands[-1].number >= number - 3:
                commands[-1].line += "\n" + line[4:]
            else:
                commands.append(Command(number, line[4:]))
    if block:
        raise AssertionError(f"README.md:{block.number}: a block without an end")
    return commands, blocks


def command(part):
    """The one command that holds these words."""
    found = [one.text for one in read()[0] if part in one.text]
    if len(found) != 1:
        raise AssertionError(f"README.md has {len(found)} commands with {part!r}")
    return found[0]
