//! What the bytes of one command tell without knowing its grammar: [`Words`]. Byte by byte, so that it makes no difference
//! in what pieces they come. It errs on one side only: where it sees nothing, there is nothing. RFC 7162 section 3.1 (the
//! words that enable CONDSTORE), RFC 4731 and RFC 5267 (what may stand behind RETURN), RFC 9051 section 9. Not here: which
//! command minds them.

use std::mem;

/// Words that enable CONDSTORE or QRESYNC, and words that end in them: HIGHESTMODSEQ, UNCHANGEDSINCE.
const ENABLING: [Word; 5] = [
    Word::new(b"CONDSTORE"),
    Word::new(b"QRESYNC"),
    Word::new(b"MODSEQ"),
    Word::new(b"CHANGEDSINCE"),
    Word::new(b"VANISHED"),
];
/// The shortest of them.
const SHORTEST: usize = b"MODSEQ".len();

/// The options of a search that leave nothing, or what goes with the mailbox (SAVE, RFC 5182). RFC 4731, 6203, 9394.
const OPTIONS: [Word; 7] = [
    Word::new(b"MIN"),
    Word::new(b"MAX"),
    Word::new(b"ALL"),
    Word::new(b"COUNT"),
    Word::new(b"SAVE"),
    Word::new(b"PARTIAL"),
    Word::new(b"RELEVANCY"),
];
/// What they stand behind.
const RETURN: Word = Word::new(b"RETURN");

/// Of each byte the letter or digit that it is, in capitals; 0: it is none.
const CAPITALS: [u8; 256] = capitals();

/// Of one command: its lines and its literals.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The word that is being read.
    word: Word,
    /// The last byte of a line, and the last one that is neither blank nor line end.
    before: u8,
    last: u8,
    quoted: Quoted,
    argument: Argument,
    enable: bool,
    returns: Returns,
    odd_options: bool,
}

/// Where the line stands as to what may be a literal's announcement.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Argument {
    #[default]
    Inside,
    /// One may begin here.
    Begins,
    /// It has, and so far it is `{n}`.
    Literal,
}

/// Inside a quoted string, and there behind a backslash.
#[derive(Debug, Default, PartialEq, Eq)]
enum Quoted {
    #[default]
    No,
    Yes,
    Escaped,
}

/// Behind the word RETURN, and then inside its parentheses.
#[derive(Debug, Default, PartialEq, Eq)]
enum Returns {
    #[default]
    No,
    Word,
    Options,
}

impl Words {
    /// Takes a byte of a line. False: there are servers that would cut it elsewhere than we do.
    pub(super) fn hear(&mut self, byte: u8) -> bool {
        let before = mem::replace(&mut self.before, byte);
        let capital = CAPITALS[usize::from(byte)];
        if capital > 0 {
            // The same as below, for most of what is said.
            self.last = byte;
            if self.argument != Argument::Literal || !byte.is_ascii_digit() {
                self.argument = Argument::Inside;
            }
            if self.quoted == Quoted::Escaped {
                self.quoted = Quoted::Yes;
            }
            self.word.push(capital);
            return before != b'\r';
        }
        let ends = byte == b'\n';
        let is_whole = byte != 0 && (before == b'\r') == ends;
        if !matches!(byte, b' ' | b'\r' | b'\n') {
            self.last = byte;
        }
        self.argument = match (self.argument, byte) {
            (_, b' ' | b'(') | (Argument::Begins, b'~') => Argument::Begins,
            (Argument::Begins, b'{') | (Argument::Literal, b'+' | b'}' | b'\r' | b'\n') => Argument::Literal,
            _ => Argument::Inside,
        };
        self.quoted = match (&self.quoted, byte) {
            (Quoted::No, b'"') => Quoted::Yes,
            (Quoted::No, _) | (Quoted::Yes, b'"') => Quoted::No,
            (Quoted::Yes, b'\\') => Quoted::Escaped,
            (Quoted::Yes | Quoted::Escaped, _) => Quoted::Yes,
        };
        self.read_other(byte);
        is_whole && !(ends && self.quoted != Quoted::No)
    }

    /// Takes a byte of a literal.
    pub(super) fn hear_literal(&mut self, byte: u8) {
        match CAPITALS[usize::from(byte)] {
            0 => self.read_other(byte),
            capital => self.word.push(capital),
        }
    }

    /// A word was among them that enables something.
    pub(super) fn enable(&self) -> bool {
        self.enable
    }

    /// The line ends as no mailbox name ends but a quoted one.
    pub(super) fn has_parameters(&self) -> bool {
        self.last == b')'
    }

    /// Behind RETURN stood an option that is not known to leave nothing.
    pub(super) fn has_odd_options(&self) -> bool {
        self.odd_options
    }

    /// The literal that the line announced at its end is an argument of its own, not the end of a longer one.
    pub(super) fn literal_stands(&self) -> bool {
        self.argument == Argument::Literal
    }

    /// Neither a letter nor a digit.
    fn read_other(&mut self, byte: u8) {
        // Some servers take strings for words, and see through backslashes.
        if matches!(byte, b'"' | b'\\') {
            return;
        }
        if !self.word.is_empty() {
            self.end_word();
        }
        match byte {
            b'(' if self.returns == Returns::Word => self.returns = Returns::Options,
            b')' => self.returns = Returns::No,
            b' ' | b'\r' | b'\n' => {}
            _ if self.returns == Returns::Word => self.returns = Returns::No,
            _ => {}
        }
    }

    fn end_word(&mut self) {
        let word = mem::take(&mut self.word);
        self.enable |= word.is_as_long_as(SHORTEST) && ENABLING.iter().any(|end| word.ends_with(*end));
        match self.returns {
            Returns::Options => self.odd_options |= !OPTIONS.contains(&word) && !word.is_number(),
            Returns::Word | Returns::No if word == RETURN => self.returns = Returns::Word,
            Returns::Word | Returns::No => self.returns = Returns::No,
        }
    }
}

/// The last 16 letters and digits of a word, in capitals, zeros before them.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Word(u128);

impl Word {
    const fn new(capitals: &[u8]) -> Self {
        let (mut word, mut rest) = (0, capitals);
        while let [capital, behind @ ..] = rest {
            (word, rest) = (word << 8 | *capital as u128, behind);
        }
        Self(word)
    }

    fn push(&mut self, capital: u8) {
        self.0 = self.0 << 8 | u128::from(capital);
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// It has so many letters and digits, or more.
    fn is_as_long_as(self, length: usize) -> bool {
        self.0 >> (8 * (length - 1)) > 0
    }

    fn ends_with(self, end: Self) -> bool {
        let bits_before = end.0.leading_zeros() / 8 * 8;
        (self.0 ^ end.0) << bits_before == 0
    }

    fn is_number(self) -> bool {
        self.0.to_be_bytes().iter().all(|byte| *byte == 0 || byte.is_ascii_digit())
    }
}

const fn capitals() -> [u8; 256] {
    let (mut capitals, mut byte) = ([0; 256], 0_u8);
    loop {
        if byte.is_ascii_alphanumeric() {
            capitals[byte as usize] = byte.to_ascii_uppercase();
        }
        let Some(next) = byte.checked_add(1) else { return capitals };
        byte = next;
    }
}
