//! What a session would leave behind on its link, and what undoes it: [`Tracker`], which the follower tells of every
//! command, answer and continuation. Whatever it does not know makes the link dirty, for good. RFC 9051 section 6, RFC 2177
//! (IDLE), RFC 3691 (UNSELECT), RFC 5161 (ENABLE), RFC 7162 (what enables CONDSTORE by the way), RFC 7888. Not here: where
//! lines and literals end (`follower.rs`), I/O, what a pool makes of the verdict.

mod commands;
mod words;

use super::response::Status;
use super::tag::Tag;
pub(super) use commands::Farewell;
use commands::Kind;
use words::Words;

/// More commands than that are not kept in mind. Clients that pipeline send a handful.
const MOST_IN_FLIGHT: usize = 32;

/// What the link is, should the session end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Nothing in flight, and nothing left behind that this does not undo.
    Clean(Reset),
    /// Nothing in flight, but something was switched on that lasts as long as the login: ENABLE, and what enables by the
    /// way. Only UNAUTHENTICATE (RFC 8437) undoes it.
    Marked(Reset),
    /// It cannot be used any more; why, in a word or two of a closed list, for log and metric.
    Dirty(&'static str),
}

/// What undoes the rest, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reset {
    /// An IDLE is to be ended with DONE, and its tagged answer awaited.
    pub done: bool,
    /// A mailbox is or may be selected. Where it only may be, UNSELECT can be answered BAD.
    pub unselect: bool,
    /// The client has said ID: what the backend knows of a client is what that one has said.
    pub identified: bool,
}

/// Why a link cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dirt {
    Untracked,
    /// The follower's.
    Doubt,
    Bye,
    HalfCommand,
    HalfResponse,
    InFlight,
    /// An empty line or a DONE where no IDLE is: the backend may answer it, and not by a tag of ours.
    StrayLine,
    /// A command line that another reader could cut or read otherwise.
    OddLine,
    UnknownCommand,
    TooMany,
    SameTag,
    UnknownTag,
    /// The backend has answered what was not sent to its end, or in a way that an answer cannot be.
    OddAnswer,
    /// A command failed whose literal had not waited for leave: what came after may have been taken for commands.
    LostLiteral,
    /// A search that goes on in the background (RFC 5267), or an option of one that is not known.
    Search,
}

impl Dirt {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Untracked => "untracked",
            Self::Doubt => "doubt",
            Self::Bye => "bye",
            Self::HalfCommand => "half a command",
            Self::HalfResponse => "half a response",
            Self::InFlight => "in flight",
            Self::StrayLine => "stray line",
            Self::OddLine => "odd line",
            Self::UnknownCommand => "command",
            Self::TooMany => "too many commands",
            Self::SameTag => "same tag",
            Self::UnknownTag => "unknown tag",
            Self::OddAnswer => "odd answer",
            Self::LostLiteral => "lost literal",
            Self::Search => "search options",
        }
    }
}

/// See the head of this file. Once dirty it listens no longer and holds nothing.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    /// In the order in which they were sent.
    in_flight: Vec<Sent>,
    /// Of the command that the client is sending.
    words: Words,
    selection: Selection,
    marked: bool,
    identified: bool,
    dirt: Option<Dirt>,
    /// Of the LOGOUT that was held back.
    logout: Option<Tag>,
    releases_logout: bool,
}

/// A command in flight.
#[derive(Debug)]
struct Sent {
    tag: Tag,
    kind: Kind,
    stage: Stage,
    /// No other command was in flight at any time while it was: the order in which they took effect is no question.
    alone: bool,
    /// One of its literals did not wait for leave.
    unasked: bool,
}

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More of it is to come.
    Sending,
    /// The same, but the client waits for leave to send a literal.
    Waiting,
    /// All of it was said.
    Whole,
    /// IDLE was said; no `+` yet and no DONE.
    Asked,
    /// It was granted.
    Idling,
    /// DONE came before the `+`.
    Hasty,
    /// It was granted and DONE was said.
    Ended,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Selection {
    #[default]
    None,
    Selected,
    /// A mailbox may be selected.
    Unclear,
}

impl Tracker {
    /// The client is at the start of a line that would be a command's first, and this is how it goes on. Perhaps that is
    /// a LOGOUT that must not be passed on.
    pub(super) fn begin(&mut self, bytes: &[u8]) -> Farewell {
        self.words = Words::default();
        if self.releases_logout || self.dirt.is_some() {
            return Farewell::No;
        }
        let (farewell, tag) = commands::farewell(bytes);
        if farewell == Farewell::Yes {
            self.logout = Tag::new(tag);
        }
        farewell
    }

    /// The client has sent this as part of a line, the line's end included.
    pub(super) fn hear_text(&mut self, text: &[u8]) {
        if self.dirt.is_none() && text.iter().any(|byte| !self.words.hear(*byte)) {
            self.soil(Dirt::OddLine);
        }
    }

    /// The client has sent this as part of a literal. There are servers that take literals for words.
    pub(super) fn hear_literal(&mut self, literal: &[u8]) {
        if self.in_flight.last().is_some_and(|sent| sent.kind.minds_words()) {
            for byte in literal {
                self.words.hear_literal(*byte);
            }
        }
    }

    /// The first line of a command has come to its end; `said` is what stands behind its tag, as far as it matters.
    pub(super) fn hear_command(&mut self, tag: Tag, said: &[u8]) {
        if self.dirt.is_some() {
            return;
        }
        if !commands::is_tag(tag.as_bytes()) {
            return self.soil(Dirt::OddLine);
        }
        let Some(kind) = commands::find(said) else { return self.soil(Dirt::UnknownCommand) };
        if self.in_flight.iter().any(|sent| tag.is(sent.tag.as_bytes())) {
            return self.soil(Dirt::SameTag);
        }
        if self.in_flight.len() >= MOST_IN_FLIGHT {
            return self.soil(Dirt::TooMany);
        }
        self.identified |= kind == Kind::Id;
        let alone = self.in_flight.is_empty();
        self.in_flight.iter_mut().for_each(|sent| sent.alone = false);
        if alone {
            // Most clients never have a second one, and some wait in IDLE for days.
            self.in_flight.reserve_exact(1);
        }
        self.in_flight.push(Sent { tag, kind, stage: Stage::Sending, alone, unasked: false });
    }

    /// A line of the client's has come to its end: the command's, or the DONE of its IDLE. It may have announced a
    /// literal, which waits for leave or does not.
    pub(super) fn hear_line(&mut self, done: bool, literal_waits: Option<bool>) {
        let Some(sent) = self.in_flight.last_mut() else { return };
        sent.stage = match (sent.stage, literal_waits) {
            (Stage::Asked, None) if done => Stage::Hasty,
            (Stage::Idling, None) if done => Stage::Ended,
            (_, None) if sent.kind == Kind::Idle => Stage::Asked,
            (_, None) => Stage::Whole,
            (_, Some(true)) => Stage::Waiting,
            (_, Some(false)) => Stage::Sending,
        };
        sent.unasked |= literal_waits == Some(false);
        let kind = sent.kind;
        self.marked |= kind.minds_words() && self.words.enable() || kind == Kind::Open && self.words.has_parameters();
        if kind == Kind::Search && self.words.has_odd_options() {
            self.soil(Dirt::Search);
        } else if literal_waits.is_some() && !(kind.takes_literals() && self.words.literal_stands()) {
            self.soil(Dirt::OddLine);
        }
    }

    /// The backend has given leave: for the literal that waits, or else for the IDLE.
    pub(super) fn hear_continuation(&mut self) {
        for sent in self.in_flight.iter_mut().rev() {
            sent.stage = match sent.stage {
                Stage::Waiting => Stage::Sending,
                Stage::Asked => Stage::Idling,
                Stage::Hasty => Stage::Ended,
                _ => continue,
            };
            return;
        }
    }

    /// The backend has answered a command.
    pub(super) fn hear_answer(&mut self, tag: &[u8], status: Status) {
        if self.dirt.is_some() {
            return;
        }
        let Some(at) = self.in_flight.iter().position(|sent| sent.tag.is(tag)) else {
            return self.soil(Dirt::UnknownTag);
        };
        let sent = self.in_flight.remove(at);
        if self.in_flight.len() <= 1 {
            self.in_flight.shrink_to(1);
        }
        let ok = status == Status::Ok;
        match sent.stage {
            Stage::Whole => {}
            // The literal that was asked for will not come, or IDLE is refused.
            Stage::Waiting | Stage::Asked if !ok => {}
            // As it should be, or without the client's DONE; that one is then a stray line, should it come.
            Stage::Idling | Stage::Ended if ok => {}
            // Whether its DONE was taken for a command, or what of it was, nobody knows.
            _ => return self.soil(Dirt::OddAnswer),
        }
        if sent.unasked && !ok {
            return self.soil(Dirt::LostLiteral);
        }
        self.marked |= ok && sent.kind == Kind::Enable;
        self.selection = match (sent.kind, status) {
            // It was refused before it was read to its end.
            (Kind::Open, _) if sent.stage != Stage::Whole => Selection::Unclear,
            (Kind::Open | Kind::Close, _) if !sent.alone => Selection::Unclear,
            (Kind::Open, Status::Ok) => Selection::Selected,
            // RFC 9051 section 6.3.2: when it fails none is selected, not even what was selected before.
            (Kind::Open, Status::No) | (Kind::Close, Status::Ok) => Selection::None,
            (Kind::Open, _) => Selection::Unclear,
            _ => self.selection,
        };
    }

    /// The backend has said `* OK` and the like.
    pub(super) fn hear_status(&mut self, status: Status) {
        // An untagged BAD answers a line in which the backend has found no tag: it reads otherwise than we do.
        if matches!(status, Status::Bad | Status::PreAuth) {
            self.soil(Dirt::OddAnswer);
        }
    }

    /// The backend has begun another untagged response like this.
    pub(super) fn hear_data(&mut self, head: &[u8]) {
        // RFC 5161 section 3.2: with nothing behind it nothing was enabled.
        let enabled = b"* ENABLED ";
        let begins = head.get(..enabled.len()).is_some_and(|head| head.eq_ignore_ascii_case(enabled));
        self.marked |= begins && head.len() > enabled.len();
    }

    /// The link cannot be used any more. The first reason counts.
    pub(super) fn soil(&mut self, dirt: Dirt) {
        self.dirt.get_or_insert(dirt);
        self.in_flight = Vec::new();
    }

    /// Why the link cannot be used any more, for good.
    pub(super) fn dirt(&self) -> Option<Dirt> {
        self.dirt
    }

    pub(super) fn in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// What the commands have left behind. That both sides are between lines and no BYE was said is another matter.
    pub(super) fn remains(&self) -> Remains {
        if let Some(dirt) = self.dirt {
            return Remains::Dirty(dirt.words());
        }
        let done = match self.in_flight.as_slice() {
            [] => false,
            [Sent { stage: Stage::Idling, .. }] => true,
            _ => return Remains::Dirty(Dirt::InFlight.words()),
        };
        let reset = Reset { done, unselect: self.selection != Selection::None, identified: self.identified };
        if self.marked { Remains::Marked(reset) } else { Remains::Clean(reset) }
    }

    pub(super) fn logout_tag(&self) -> Option<&[u8]> {
        self.logout.as_ref().map(Tag::as_bytes)
    }

    pub(super) fn release_logout(&mut self) {
        self.logout = None;
        self.releases_logout = true;
    }
}

#[cfg(test)]
mod tests;
