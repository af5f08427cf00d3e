//! Writes the manual pages: one for each command, from the command line's own definition, and mailmux.toml(5) from
//! `config/reference.toml`. An example, and no part of the program: who runs mailmux has no need of what makes its manual.
//!
//! ```text
//! cargo run --example man -- FOLDER YYYY-MM-DD
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use mailmux::cli::Arguments;

const REFERENCE: &str = include_str!("../config/reference.toml");

/// What mailmux(1) says beyond what the command line knows of itself.
const RUNNING: &str = r"
.SH SIGNALS
.TP
\fBSIGTERM\fR, \fBSIGINT\fR
No new connections.
Sessions end by themselves or, spread over \fIserver.drain_timeout\fR,
at a moment where nothing is lost.
The second one ends everything at once.
.TP
\fBSIGHUP\fR
The configuration is read again, with everything it names.
A mistake in it changes nothing and stands in the log.
Sessions live on.
.TP
\fBSIGUSR2\fR
The program is started anew from the path it was started from,
and gets the listening sockets; no connection is refused meanwhile.
When it serves, the old process drains as after \fBSIGTERM\fR.
When it does not start, the old process serves on and the log says why.
Under systemd: \fBsystemctl kill \-s USR2 \-\-kill\-whom=main mailmux\fR
.SH ASKING A MAILMUX THAT RUNS
\fBserve\fR, \fBcheck\fR and \fBcompletions\fR do their work themselves, and so does \fBroute\fR unless told otherwise;
all other commands ask the mailmux that runs.
Where it is asked, the configuration says: over \fIadmin.socket\fR where there is one,
else at \fIadmin.address\fR with the token of \fIadmin.token_file\fR.
With \fB\-\-admin\fR and \fB\-\-token\-file\fR no configuration is read, so that a mailmux elsewhere can be asked.
The admin port speaks no TLS.
.PP
Lists are read page by page, up to \fB\-\-limit\fR items.
With \fB\-\-json\fR the answer is printed as it came; of a list, the items of all pages in one object.
What comes from clients is printed with control characters escaped.
Colours are left out where standard output is no terminal, and where \fBNO_COLOR\fR is set.
.SH FILES
.TP
\fI/etc/mailmux/mailmux.toml\fR
The configuration, where \fB\-\-config\fR names no other.
.SH EXIT STATUS
0 if all went well.
1 if something is wrong, which was said on standard error: also if a running
mailmux refuses, or if what was named is not there (a session to be kicked,
a user, a backend).
2 if the command line is not understood, or if a running mailmux was to be
asked and is not there.
";

/// The words before the reference in mailmux.toml(5).
const INTRODUCTION: &str = r"
.SH NAME
mailmux.toml \- configuration of mailmux
.SH SYNOPSIS
\fI/etc/mailmux/mailmux.toml\fR
.SH DESCRIPTION
The file is TOML.
It says where clients connect (\fBlistener\fR), with which certificates
(\fBtls\fR), which IMAP servers there are (\fBbackend\fR, \fBgroup\fR),
where users are looked up (\fBlookup\fR), and who goes where (\fBroute\fR);
the other sections have defaults that serve.
A key that mailmux does not know is a mistake.
.PP
\fBmailmux check\fR shows every mistake with file, line and column.
\fBmailmux route\fR \fIUSER\fR says where a user would go, and why.
.PP
After a change: \fBsystemctl reload mailmux\fR, or \fBSIGHUP\fR to the process.
.SH ALL KEYS
";

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, date] = arguments.as_slice() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "two arguments: FOLDER YYYY-MM-DD"));
    };
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder)?;
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    command(&program, &folder, date)?;
    for part in program.get_subcommands().filter(|part| !part.is_hide_set()) {
        command(part, &folder, date)?;
    }
    configuration(&folder.join("mailmux.toml.5"), date)
}

/// The page of one command. The one with commands below it is the program itself.
fn command(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    let man = Man::new(command.clone()).date(date).source(source()).manual("mailmux");
    let mut page = BufWriter::new(File::create(folder.join(man.get_filename()))?);
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_after_help().is_some() || command.get_after_long_help().is_some() {
        man.render_extra_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
        page.write_all(RUNNING.trim_start().as_bytes())?;
        see_also(&mut page, &["mailmux.toml(5)"])?;
    } else {
        see_also(&mut page, &["mailmux(1)", "mailmux.toml(5)"])?;
    }
    page.flush()
}

/// The reference, word for word.
fn configuration(file: &Path, date: &str) -> io::Result<()> {
    let mut page = BufWriter::new(File::create(file)?);
    writeln!(page, r#".TH mailmux.toml 5 {date} "{}" mailmux"#, source())?;
    page.write_all(INTRODUCTION.trim_start().as_bytes())?;
    // No filling and no hyphens: it is to look as it does in an editor.
    writeln!(page, ".nf")?;
    for line in REFERENCE.lines() {
        writeln!(page, "{}", verbatim(line))?;
    }
    writeln!(page, ".fi")?;
    see_also(&mut page, &["mailmux(1)", "mailmux-check(1)", "mailmux-route(1)"])?;
    page.flush()
}

fn see_also(page: &mut impl Write, others: &[&str]) -> io::Result<()> {
    let others: Vec<String> =
        others.iter().map(|name| format!(r"\fB{}\fR", verbatim(name).replace('(', r"\fR("))).collect();
    writeln!(page, ".SH SEE ALSO\n{}", others.join(", "))
}

fn source() -> String {
    format!("mailmux {}", env!("CARGO_PKG_VERSION"))
}

/// A line in which troff finds nothing to obey: a backslash is its escape, a dot or a quote at the start a request, and a
/// hyphen, a quote or an accent is set as a character that nobody can paste into a file.
fn verbatim(line: &str) -> String {
    let mut escaped = if line.starts_with(['.', '\'']) { String::from(r"\&") } else { String::new() };
    for character in line.chars() {
        match character {
            '\\' => escaped.push_str(r"\e"),
            '-' => escaped.push_str(r"\-"),
            '\'' => escaped.push_str(r"\(aq"),
            '`' => escaped.push_str(r"\(ga"),
            '^' => escaped.push_str(r"\(ha"),
            '~' => escaped.push_str(r"\(ti"),
            other => escaped.push(other),
        }
    }
    escaped
}
