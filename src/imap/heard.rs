//! What a client has said before its login, counted: by the names of commands, and by what was wrong with them. Numbers alone,
//! so that nothing of what it said is kept. Not here: who counts over all clients.

use super::command::Name;

/// The counts of one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    commands: [u32; Name::ALL.len()],
    mistakes: [u32; Mistake::ALL.len()],
}

/// Why a command was answered BAD or NO before anybody was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// No tag, or one that is none.
    Tag,
    /// Not the arguments that the command has.
    Arguments,
    /// It needs a login.
    TooEarly,
    /// There is no such command, or not here.
    Unknown,
    /// A login without TLS.
    InClear,
    /// A literal that is longer than any we read.
    Literal,
    /// No mechanism that is offered.
    Mechanism,
    /// An exchange of messages that was broken off or is not as its mechanism has it.
    Exchange,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Tag,
        Self::Arguments,
        Self::TooEarly,
        Self::Unknown,
        Self::InClear,
        Self::Literal,
        Self::Mechanism,
        Self::Exchange,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tag => "bad_tag",
            Self::Arguments => "bad_arguments",
            Self::TooEarly => "not_logged_in",
            Self::Unknown => "unknown_command",
            Self::InClear => "in_clear",
            Self::Literal => "literal_too_long",
            Self::Mechanism => "unknown_mechanism",
            Self::Exchange => "bad_exchange",
        }
    }
}

impl Heard {
    /// How often it gave which command.
    pub fn commands(&self) -> impl Iterator<Item = (Name, u32)> {
        Name::ALL.into_iter().zip(self.commands)
    }

    /// How often what was wrong.
    pub fn mistakes(&self) -> impl Iterator<Item = (Mistake, u32)> {
        Mistake::ALL.into_iter().zip(self.mistakes)
    }

    pub(super) fn command(&mut self, name: Name) {
        let counts = Name::ALL.into_iter().zip(&mut self.commands);
        counts.filter(|(known, _)| *known == name).for_each(|(_, count)| *count += 1);
    }

    pub(super) fn mistake(&mut self, mistake: Mistake) {
        let counts = Mistake::ALL.into_iter().zip(&mut self.mistakes);
        counts.filter(|(known, _)| *known == mistake).for_each(|(_, count)| *count += 1);
    }
}
