//! A slow model of what a session leaves behind, written without a look at the tracker: it is given all that was said, in
//! the order in which it was said, reads it from the start with every command and response held whole, and says what a
//! backend that keeps to the RFCs would have left behind: [`read`]. It imports nothing, since the fuzz target `tracker`
//! includes it by its path. RFC 9051 and what `tracker.rs` names. Not here: what it is compared with (`proof.rs`).

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Client,
    Backend,
}
use By::{Backend, Client};

/// What has to be undone. None of [`read`]: it cannot be known, or cannot be undone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) done: bool,
    pub(super) unselect: bool,
    pub(super) marked: bool,
}

/// One command, whole.
#[derive(Debug, Default)]
struct Command {
    /// Lines and literals in turn; a line has its end.
    parts: Vec<Vec<u8>>,
    stage: Stage,
    /// One of its literals did not wait for leave.
    unasked: bool,
    /// The backend has said `+` to this IDLE.
    granted: bool,
    /// The client has said DONE to this IDLE.
    done: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Line,
    /// A literal is to come once there is leave.
    Waits(usize),
    /// So much of a literal is to come, and then a line.
    Literal(usize),
    Whole,
    Answered,
}

impl Command {
    fn text(&self) -> String {
        let bytes = self.parts.iter().flatten().filter(|byte| !b"\"\\".contains(byte));
        bytes.map(|byte| char::from(*byte).to_ascii_uppercase()).collect()
    }

    fn tag(&self) -> String {
        let line: String = self.parts[0].iter().map(|byte| char::from(*byte)).collect();
        line.split(' ').next().unwrap_or_default().to_owned()
    }

    /// In capitals; with UID.
    fn name(&self) -> String {
        let text = self.text();
        let line = text.split("\r\n").next().unwrap_or_default();
        let (_, line) = line.split_once(' ').unwrap_or_default();
        let mut words = line.split(' ');
        let first = words.next().unwrap_or_default();
        if first == "UID" { format!("UID {}", words.next().unwrap_or_default()) } else { first.to_owned() }
    }

    fn is_idle(&self) -> bool {
        self.name() == "IDLE"
    }

    fn is_whole(&self) -> bool {
        matches!(self.stage, Stage::Whole | Stage::Answered)
    }

    fn in_flight(&self) -> bool {
        self.stage != Stage::Answered
    }

    fn waits(&self) -> bool {
        matches!(self.stage, Stage::Waits(_))
    }

    /// It is an IDLE that the backend may give leave to.
    fn asks(&self) -> bool {
        self.stage == Stage::Whole && self.is_idle() && !self.granted
    }

    /// It switches something on that lasts.
    fn marks(&self) -> bool {
        let minds = is_in(MINDING_WORDS, self.name().trim_start_matches("UID "));
        minds && self.text().split(|c: char| !c.is_ascii_alphanumeric()).any(|word| is_in(ENABLING, word))
    }

    /// It is a search that goes on after its answer. RFC 5267.
    fn goes_on(&self) -> bool {
        let text = self.text();
        let mut returns = text.match_indices("RETURN").filter(|(at, _)| !text[..*at].ends_with(char::is_alphanumeric));
        let goes_on = |behind: &str| {
            let options = behind.trim_start_matches([' ', '\r', '\n']).strip_prefix('(').unwrap_or_default();
            let options = options.split(')').next().unwrap_or_default();
            options.split([' ', '(', '\r', '\n']).any(|word| is_in("UPDATE CONTEXT", word))
        };
        is_in("SEARCH SORT THREAD", self.name().trim_start_matches("UID "))
            && returns.any(|(at, word)| goes_on(&text[at + word.len()..]))
    }
}

const NOTHING_LEFT: &str = "CAPABILITY NOOP CHECK NAMESPACE EXPUNGE IDLE ID LSUB XLIST CREATE DELETE RENAME SUBSCRIBE \
    UNSUBSCRIBE APPEND COPY MOVE GETQUOTA GETQUOTAROOT SETQUOTA GETACL SETACL DELETEACL LISTRIGHTS MYRIGHTS GETMETADATA \
    SETMETADATA SELECT EXAMINE CLOSE UNSELECT ENABLE STATUS LIST FETCH STORE SEARCH SORT THREAD";
const WITH_UID: &str = "EXPUNGE COPY MOVE FETCH STORE SEARCH SORT THREAD";
const WITHOUT_LITERALS: &str = "CAPABILITY NOOP CHECK NAMESPACE EXPUNGE IDLE CLOSE UNSELECT ENABLE";
const MINDING_WORDS: &str = "SELECT EXAMINE STATUS LIST FETCH STORE SEARCH SORT THREAD";
/// RFC 7162 section 3.1.
const ENABLING: &str = "CONDSTORE QRESYNC MODSEQ HIGHESTMODSEQ CHANGEDSINCE UNCHANGEDSINCE VANISHED";

fn is_in(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace().any(|word| word == name)
}

/// `{12}` or `{12+}` at the end of a line, without its line end.
fn announced(line: &[u8]) -> Option<(usize, bool)> {
    let line: String = line.iter().map(|byte| char::from(*byte)).collect();
    let (_, count) = line.strip_suffix('}')?.rsplit_once('{')?;
    Some((count.trim_end_matches('+').parse().ok()?, count.ends_with('+')))
}

#[derive(Default)]
struct Reading {
    commands: Vec<Command>,
    /// What of the line behind an IDLE has come.
    done: Vec<u8>,
    /// What of a response has come, and so much of its literal is to come.
    response: Vec<Vec<u8>>,
    literal: usize,
    within_literal: bool,
    selected: bool,
    marked: bool,
}

/// What it has come to, if that can be known and undone.
pub(super) fn read(heard: &[(By, Vec<u8>)]) -> Option<Needs> {
    let mut reading = Reading::default();
    for (by, bytes) in heard {
        for byte in bytes {
            match by {
                Client => reading.client(*byte)?,
                Backend => reading.backend(*byte)?,
            }
        }
    }
    reading.end()
}

impl Reading {
    fn client(&mut self, byte: u8) -> Option<()> {
        if let Some(idle) =
            self.commands.last_mut().filter(|last| last.stage == Stage::Whole && last.is_idle() && !last.done)
        {
            self.done.push(byte);
            if byte != b'\n' {
                return Some(());
            }
            idle.done = std::mem::take(&mut self.done).eq_ignore_ascii_case(b"DONE\r\n");
            return idle.done.then_some(());
        }
        if self.commands.last().is_none_or(Command::is_whole) {
            // An IDLE that was answered while its DONE was on the way: the backend takes it for a command's beginning.
            let parts = vec![std::mem::take(&mut self.done)];
            self.commands.push(Command { parts, ..Command::default() });
        }
        let command = self.commands.last_mut()?;
        match command.stage {
            Stage::Literal(left @ 1..) => {
                command.parts.last_mut()?.push(byte);
                command.stage = Stage::Literal(left - 1);
                return Some(());
            }
            Stage::Literal(0) => {
                command.parts.push(Vec::new());
                command.stage = Stage::Line;
            }
            Stage::Line => {}
            Stage::Waits(_) | Stage::Whole | Stage::Answered => return None,
        }
        command.parts.last_mut()?.push(byte);
        match byte {
            0 => None,
            b'\n' => self.line_of_command(),
            _ => Some(()),
        }
    }

    /// The last command's last line has ended.
    fn line_of_command(&mut self) -> Option<()> {
        let (command, before) = self.commands.split_last_mut()?;
        let line = command.parts.last()?.strip_suffix(b"\r\n")?;
        if line.iter().any(|byte| b"\r\n".contains(byte)) {
            return None;
        }
        let first = command.parts.len() == 1;
        if first {
            let (tag, name) = (command.tag(), command.name());
            let in_flight = before.iter().filter(|other| other.in_flight()).count();
            let used = before.iter().any(|other| other.in_flight() && other.tag() == tag);
            let known = match name.strip_prefix("UID ") {
                Some(name) => is_in(WITH_UID, name),
                None => is_in(NOTHING_LEFT, &name),
            };
            let is_tag = !tag.is_empty()
                && tag.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !b"(){%*\"\\+".contains(&byte));
            if !known || !is_tag || tag.len() > 32 || used || in_flight >= 32 {
                return None;
            }
        }
        let Some((size, unasked)) = announced(line) else {
            command.stage = Stage::Whole;
            return Some(());
        };
        if is_in(WITHOUT_LITERALS, command.name().trim_start_matches("UID ")) {
            return None;
        }
        command.stage = if unasked { Stage::Literal(size) } else { Stage::Waits(size) };
        command.unasked |= unasked;
        command.parts.push(Vec::new());
        Some(())
    }

    fn backend(&mut self, byte: u8) -> Option<()> {
        if self.within_literal && self.literal > 0 {
            self.literal -= 1;
            return Some(());
        }
        if self.within_literal || self.response.is_empty() {
            self.within_literal = false;
            self.response.push(Vec::new());
        }
        let line = self.response.last_mut()?;
        line.push(byte);
        if byte != b'\n' {
            return Some(());
        }
        let line = line.strip_suffix(b"\r\n")?;
        if let Some((size, _)) = announced(line) {
            (self.literal, self.within_literal) = (size, true);
            // The text of a status is for people and cannot hold one.
            let first: String = self.response[0].iter().map(|byte| char::from(*byte)).collect();
            let second = first.split(' ').nth(1).unwrap_or_default().trim_end().to_ascii_uppercase();
            let is_data = first.starts_with("* ") && !is_in("OK NO BAD BYE PREAUTH", &second);
            return is_data.then_some(());
        }
        let response = std::mem::take(&mut self.response);
        let line: String = response[0].iter().map(|byte| char::from(*byte)).collect();
        self.response(line.trim_end_matches("\r\n"))
    }

    fn response(&mut self, line: &str) -> Option<()> {
        if line.starts_with('+') {
            let command = self.commands.iter_mut().rfind(|command| command.waits() || command.asks())?;
            match command.stage {
                Stage::Waits(size) => command.stage = Stage::Literal(size),
                _ => command.granted = true,
            }
            return Some(());
        }
        let upper = line.to_ascii_uppercase();
        let mut words = upper.split(' ');
        let (tag, status) = (line.split(' ').next()?, words.nth(1).unwrap_or_default());
        if tag == "*" {
            self.marked |= status == "ENABLED" && words.any(|word| !word.is_empty());
            return (!is_in("BAD BYE PREAUTH", status) && line.starts_with("* ")).then_some(());
        }
        if !is_in("OK NO BAD", status) {
            return None;
        }
        let said = |command: &&mut Command| command.in_flight() && command.parts[0].ends_with(b"\n");
        let command = self.commands.iter_mut().filter(said).find(|command| command.tag() == tag)?;
        let refused = status != "OK";
        let as_should_be = if command.is_idle() {
            if command.granted { !refused } else { refused && !command.done }
        } else {
            // A literal may be refused; nothing else is answered before it is said.
            (command.stage == Stage::Whole || command.waits() && refused) && !(command.unasked && refused)
        };
        if !as_should_be {
            return None;
        }
        match command.name().as_str() {
            "SELECT" | "EXAMINE" if !refused => self.selected = true,
            // Of one that was not said to its end it is not known what was tried.
            "SELECT" | "EXAMINE" if status == "NO" && !command.waits() => self.selected = false,
            "CLOSE" | "UNSELECT" if !refused => self.selected = false,
            "ENABLE" => self.marked |= !refused,
            _ => {}
        }
        command.stage = Stage::Answered;
        Some(())
    }

    fn end(self) -> Option<Needs> {
        let between = self.response.is_empty() && self.done.is_empty();
        if !between || !self.commands.last().is_none_or(Command::is_whole) || self.commands.iter().any(Command::goes_on)
        {
            return None;
        }
        let in_flight: Vec<&Command> = self.commands.iter().filter(|command| command.in_flight()).collect();
        let done = match in_flight.as_slice() {
            [] => false,
            [idle] if idle.is_idle() && idle.granted && !idle.done => true,
            _ => return None,
        };
        let marked = self.marked || self.commands.iter().any(Command::marks);
        Some(Needs { done, unselect: self.selected, marked })
    }
}
