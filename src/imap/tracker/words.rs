//! What the bytes of one command tell without knowing its grammar: [`Words`]. Byte by byte, so that it makes no difference
//! in what pieces they come. It errs on one side only: where it sees nothing, there is nothing. RFC 7162 section 3.1 (the
//! words that enable CONDSTORE), RFC 4731 and RFC 5267 (what may stand behind RETURN), RFC 9051 section 9. Not here: which
//! command minds them.

/// Words that enable CONDSTORE or QRESYNC, and words that end in them: HIGHESTMODSEQ, UNCHANGEDSINCE.
const ENABLING: [&[u8]; 5] = [b"CONDSTORE", b"QRESYNC", b"MODSEQ", b"CHANGEDSINCE", b"VANISHED"];

/// The options of a search that leave nothing, or what goes with the mailbox (SAVE, RFC 5182). RFC 4731, 6203, 9394.
const OPTIONS: [&[u8]; 7] = [b"MIN", b"MAX", b"ALL", b"COUNT", b"SAVE", b"PARTIAL", b"RELEVANCY"];

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
        let ends = byte == b'\n';
        let is_whole = byte != 0 && (self.before == b'\r') == ends;
        self.before = byte;
        if !matches!(byte, b' ' | b'\r' | b'\n') {
            self.last = byte;
        }
        self.argument = match (self.argument, byte) {
            (_, b' ' | b'(') | (Argument::Begins, b'~') => Argument::Begins,
            (Argument::Begins, b'{') | (Argument::Literal, b'0'..=b'9' | b'+' | b'}' | b'\r' | b'\n') => {
                Argument::Literal
            }
            _ => Argument::Inside,
        };
        self.quoted = match (&self.quoted, byte) {
            (Quoted::No, b'"') => Quoted::Yes,
            (Quoted::No, _) | (Quoted::Yes, b'"') => Quoted::No,
            (Quoted::Yes, b'\\') => Quoted::Escaped,
            (Quoted::Yes | Quoted::Escaped, _) => Quoted::Yes,
        };
        self.read(byte);
        is_whole && !(ends && self.quoted != Quoted::No)
    }

    /// Takes a byte of a literal.
    pub(super) fn hear_literal(&mut self, byte: u8) {
        self.read(byte);
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

    fn read(&mut self, byte: u8) {
        match byte {
            // Some servers take strings for words, and see through backslashes.
            b'"' | b'\\' => return,
            _ if byte.is_ascii_alphanumeric() => return self.word.push(byte),
            _ => {}
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
        let word = std::mem::take(&mut self.word);
        self.enable |= ENABLING.iter().any(|end| word.ends_with(end));
        match self.returns {
            Returns::Options => self.odd_options |= !word.is_number() && !OPTIONS.iter().any(|option| word.is(option)),
            Returns::Word | Returns::No if word.is(b"RETURN") => self.returns = Returns::Word,
            Returns::Word | Returns::No => self.returns = Returns::No,
        }
    }
}

/// The last 16 letters and digits of a word, in capitals, zeros before them.
#[derive(Debug, Default)]
struct Word(u128);

impl Word {
    fn push(&mut self, byte: u8) {
        self.0 = self.0 << 8 | u128::from(byte.to_ascii_uppercase());
    }

    fn is_empty(&self) -> bool {
        self.0 == 0
    }

    fn ends_with(&self, end: &[u8]) -> bool {
        self.0.to_be_bytes().ends_with(end)
    }

    fn is(&self, word: &[u8]) -> bool {
        self.0.to_be_bytes().strip_suffix(word).is_some_and(|before| before.iter().all(|byte| *byte == 0))
    }

    fn is_number(&self) -> bool {
        self.0.to_be_bytes().iter().all(|byte| *byte == 0 || byte.is_ascii_digit())
    }
}
