//! A session's end of the traces: [`Tap`]. Before its user is known it keeps what little was said, in case its user is looked
//! at; afterwards its lines go to those who look, or nowhere. While nobody looks at anybody it costs one load of a number now
//! and then.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tracing::info;

use super::{Sink, Traces};
use crate::imap::{Spoken, UserName, Voice};

/// Lines kept of a session whose user is not known yet.
const EARLY: usize = 64;

/// A session's. Small: there is one in every relay.
#[derive(Default)]
pub struct Tap {
    /// The turn of the traces of which this knows.
    seen: u64,
    who: Box<Who>,
}

/// Whose it is, and who looks.
#[derive(Default)]
struct Who {
    traces: Arc<Traces>,
    session: Arc<str>,
    user: Option<UserName>,
    /// There while lines are wanted.
    wanted: Option<Box<Wanted>>,
}

#[derive(Default)]
struct Wanted {
    sinks: Vec<Arc<Sink>>,
    early: VecDeque<(SystemTime, Spoken)>,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("session", &self.who.session).finish_non_exhaustive()
    }
}

impl Tap {
    /// One of a session whose user is not known.
    pub fn new(traces: &Arc<Traces>, session: &Arc<str>) -> Self {
        let who = Who { traces: Arc::clone(traces), session: Arc::clone(session), user: None, wanted: None };
        Self { seen: 0, who: Box::new(who) }
    }

    /// Whether lines are wanted, if that may have changed since this was asked last. To be asked before anything is heard.
    pub fn turn(&mut self) -> Option<bool> {
        // What is missed for a moment is seen a moment later: the lock of the list orders all that matters.
        let turn = self.who.traces.turn.load(Ordering::Relaxed);
        if turn == self.seen {
            return None;
        }
        self.seen = turn;
        let was_wanted = self.is_wanted();
        self.who.look();
        (was_wanted != self.is_wanted()).then_some(self.is_wanted())
    }

    /// Whether lines are wanted, as far as is known.
    pub fn is_wanted(&self) -> bool {
        self.who.wanted.is_some()
    }

    /// Its user is this one, or another one than before.
    pub fn known_as(&mut self, user: &UserName) {
        if self.who.user.as_ref().is_some_and(|known| known.normalised() == user.normalised()) {
            return;
        }
        self.who.part();
        self.who.user = Some(user.clone());
        self.look();
    }

    /// A login has failed: if nobody looks at that user, the next one is another question. False: somebody does.
    pub fn is_nobodys_again(&mut self) -> bool {
        if self.is_wanted() {
            return false;
        }
        self.who.user = None;
        self.look();
        true
    }

    /// These lines were said. Never waits.
    pub fn hear(&mut self, spoken: Vec<Spoken>) {
        if !spoken.is_empty() {
            self.who.hear(spoken);
        }
    }

    /// A word about the session.
    pub fn note(&mut self, words: fmt::Arguments<'_>) {
        if self.is_wanted() {
            self.hear(vec![Spoken::new(Voice::Note, words.to_string().as_bytes())]);
        }
    }

    fn look(&mut self) {
        // Nobody ever looked at anybody: then there is no list to go through either.
        if self.who.traces.turn.load(Ordering::Relaxed) > 0 {
            self.who.look();
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.who.part();
    }
}

impl Who {
    fn hear(&mut self, spoken: Vec<Spoken>) {
        let Some(wanted) = &mut self.wanted else { return };
        let now = SystemTime::now();
        if self.user.is_some() {
            for spoken in spoken {
                wanted.show(&self.session, now, &spoken);
            }
            return;
        }
        wanted.early.extend(spoken.into_iter().map(|spoken| (now, spoken)));
        let too_many = wanted.early.len().saturating_sub(EARLY);
        wanted.early.drain(..too_many);
    }

    /// Asks who looks.
    fn look(&mut self) {
        let Some(user) = &self.user else {
            if self.traces.open().is_empty() {
                self.wanted = None;
            } else {
                self.wanted.get_or_insert_default();
            }
            return;
        };
        let sinks = self.traces.of(user);
        let was_shown = self.wanted.as_ref().is_some_and(|wanted| !wanted.sinks.is_empty());
        if sinks.is_empty() {
            self.wanted = None;
            if was_shown {
                info!(session = &*self.session, %user, "audit: the session is not traced any more");
            }
            return;
        }
        let wanted = self.wanted.get_or_insert_default();
        wanted.sinks = sinks;
        if !was_shown {
            info!(session = &*self.session, %user, "audit: the session is traced");
            for (at, spoken) in std::mem::take(&mut wanted.early) {
                wanted.show(&self.session, at, &spoken);
            }
        }
    }

    /// Says the last word to those who look.
    fn part(&mut self) {
        // What was said before the user is known may be for whoever looks at that one.
        let Some(user) = &self.user else { return };
        let Some(wanted) = self.wanted.take() else { return };
        wanted.show(&self.session, SystemTime::now(), &Spoken::new(Voice::Note, b"no more of this session"));
        info!(session = &*self.session, %user, "audit: the session is not traced any more");
    }
}

impl Wanted {
    fn show(&self, session: &str, at: SystemTime, spoken: &Spoken) {
        if self.sinks.iter().all(|sink| sink.is_full()) {
            return self.sinks.iter().for_each(|sink| sink.lose(1));
        }
        let who = match spoken.voice {
            Voice::Client => "client→",
            Voice::Backend => "←backend",
            Voice::Mailmux => "←mailmux",
            Voice::Note => "—",
        };
        let line = format!("{} {session} {who} {}\n", humantime::format_rfc3339_millis(at), spoken.text);
        self.sinks.iter().for_each(|sink| sink.take(&line));
    }
}
