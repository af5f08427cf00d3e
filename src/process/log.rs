//! Where log lines go: standard error, as text or as JSON, by a thread of its own. Whoever logs never waits: a full disk, a
//! pipe that nobody reads or a slow journal cost lines, which are counted, and nothing else.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::dispatcher::{Dispatch, SetGlobalDefaultError, set_global_default};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt, registry, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// The most lines that wait to be written. A line is some 400 bytes and seldom more than a thousand, so that a full queue
/// holds two to four MiB; the busiest moment of a large server fits into it.
const QUEUE: usize = 4096;
/// How often the end of the process looks for room in a full queue, and how long it waits each time: a second in all. The
/// library waits one second more for what is in the queue.
const LAST_TRIES: u32 = 100;
const LAST_PAUSE: Duration = Duration::from_millis(10);

/// What can be done to the log while it runs.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<LevelFilter, Registry>,
    chosen: watch::Sender<Chosen>,
    /// Lines that found no room in the queue ...
    unqueued: ErrorCounter,
    /// ... and those that could not be written.
    unwritten: Arc<AtomicU64>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    level: LogLevel,
    /// For so long; `None`: until another one is chosen.
    until: Option<Instant>,
}

/// Its end: what waits is written when this is dropped, as far as that does not take long.
#[derive(Debug)]
#[must_use = "the log ends when this is dropped"]
pub struct LogEnd {
    queue: NonBlocking,
    thread: Option<WorkerGuard>,
}

/// Starts the log of this process. There must be no privileges left to be dropped by then, since it starts a thread.
///
/// # Errors
/// A log was started before.
pub fn start_log(log: &Log) -> Result<(LogHandle, LogEnd), SetGlobalDefaultError> {
    let colours = log.format == LogFormat::Text && io::stderr().is_terminal();
    let (dispatch, handle, end) = build(log, colours, io::stderr());
    set_global_default(dispatch)?;
    Ok((handle, end))
}

fn build(log: &Log, colours: bool, to: impl Write + Send + 'static) -> (Dispatch, LogHandle, LogEnd) {
    let unwritten = Arc::new(AtomicU64::new(0));
    let sink = Sink { to, unwritten: Arc::clone(&unwritten), is_torn: false };
    let (queue, thread) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log").finish(sink);
    let (layer, filter) = reload::Layer::new(filter_of(log.level));
    // A line that cannot be written is lost. Complaining of it to standard error, as is the default, panics when that is
    // what cannot be written to, and takes the session with it.
    let lines = fmt::layer().with_writer(queue.clone()).log_internal_errors(false);
    let dispatch = match log.format {
        LogFormat::Text => registry().with(layer).with(lines.with_ansi(colours).with_target(false)).into(),
        LogFormat::Json => registry().with(layer).with(lines.json().flatten_event(true)).into(),
    };
    let chosen = watch::Sender::new(Chosen { level: log.level, until: None });
    let handle = LogHandle { filter, chosen, unqueued: queue.error_counter(), unwritten };
    (dispatch, handle, LogEnd { queue, thread: Some(thread) })
}

impl LogHandle {
    /// From now on so much is logged: until then, if a moment is given, and then as [`LogHandle::end_of_time`] says.
    pub fn set_level(&self, level: LogLevel, until: Option<Instant>) {
        self.chosen.send_modify(|chosen| {
            *chosen = Chosen { level, until };
            self.apply(level);
        });
    }

    /// How much is logged.
    pub fn level(&self) -> LogLevel {
        self.chosen.borrow().level
    }

    /// Waits until the time is over for which a level was chosen, whenever one is.
    pub async fn time_is_over(&self) {
        let mut chosen = self.chosen.subscribe();
        loop {
            let until = chosen.borrow_and_update().until;
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                // It cannot fail: this here could be told.
                _ = chosen.changed() => {}
            }
        }
    }

    /// If the time is over for which a level was chosen, this one counts from now on; false: it is not.
    pub fn end_of_time(&self, level: LogLevel) -> bool {
        self.chosen.send_if_modified(|chosen| {
            let is_over = chosen.until.is_some_and(|until| until <= Instant::now());
            if is_over {
                *chosen = Chosen { level, until: None };
                self.apply(level);
            }
            is_over
        })
    }

    fn apply(&self, level: LogLevel) {
        if let Err(error) = self.filter.reload(filter_of(level)) {
            tracing::error!(%error, "the log's level cannot be changed");
        }
    }

    /// So many lines were lost since the start.
    pub fn lines_dropped(&self) -> u64 {
        let unqueued = u64::try_from(self.unqueued.dropped_lines()).unwrap_or(u64::MAX);
        unqueued.saturating_add(self.unwritten.load(Ordering::Relaxed))
    }
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

impl Drop for LogEnd {
    /// The thread's own guard says on standard output that the queue is full, and panics if it cannot. So there has to be
    /// room for its last message first; an empty line finds out. Without room nobody reads, and nothing is lost by leaving.
    fn drop(&mut self) {
        let counter = self.queue.error_counter();
        for _ in 0..LAST_TRIES {
            let before = counter.dropped_lines();
            if self.queue.write_all(b"").is_ok() && counter.dropped_lines() == before {
                drop(self.thread.take());
                return;
            }
            thread::sleep(LAST_PAUSE);
        }
        std::mem::forget(self.thread.take());
    }
}

/// Counts what cannot be written, and says that it was: the library does not count it, and where the last flush fails its
/// thread panics.
struct Sink<W> {
    to: W,
    unwritten: Arc<AtomicU64>,
    /// What was written last is half a line: the disk was full in the middle of it.
    is_torn: bool,
}

impl<W: Write> Sink<W> {
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.to.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.is_torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for Sink<W> {
    /// Called with whole lines only.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.put(line).is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What is not written by then was counted line by line.
        let _ = self.to.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use tracing::dispatcher::with_default;
    use tracing::{debug, info};

    use super::*;

    const TEXT: Log = Log { format: LogFormat::Text, level: LogLevel::Info };

    /// What it is written to; blocked for as long as somebody holds the lock.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
            self.0.lock().expect("not poisoned")
        }

        fn text(&self) -> String {
            String::from_utf8(self.lock().clone()).expect("UTF-8")
        }
    }

    impl Write for Paper {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.lock().extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A full disk.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn the_level_can_be_changed_while_it_runs_and_the_end_writes_what_waits() {
        let paper = Paper::default();
        let (dispatch, handle, end) = build(&TEXT, false, paper.clone());
        with_default(&dispatch, || {
            debug!("one");
            handle.set_level(LogLevel::Debug, None);
            debug!("two");
            handle.set_level(LogLevel::Error, None);
            info!("three");
            handle.set_level(LogLevel::Info, None);
            info!("four");
        });
        drop(end);
        let text = paper.text();
        let shown = ["one", "two", "three", "four"].map(|word| text.contains(word));
        assert_eq!(shown, [false, true, false, true], "{text}");
        assert_eq!((text.lines().count(), handle.lines_dropped()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_was_chosen_for_a_time_ends_with_it_unless_another_is_chosen() {
        let (_dispatch, handle, _end) = build(&TEXT, false, Paper::default());
        let minute = Duration::from_mins(1);
        let over = async |handle: &LogHandle| tokio::time::timeout(minute * 60, handle.time_is_over()).await.is_ok();
        assert!(!over(&handle).await, "nobody has chosen one for a time");
        let begun = Instant::now();
        handle.set_level(LogLevel::Debug, Some(begun + minute));
        assert_eq!((handle.level(), handle.end_of_time(LogLevel::Warn)), (LogLevel::Debug, false));
        assert!(over(&handle).await && begun.elapsed() == minute, "{:?}", begun.elapsed());
        assert_eq!((handle.end_of_time(LogLevel::Warn), handle.level()), (true, LogLevel::Warn));
        assert!(!handle.end_of_time(LogLevel::Info), "once");

        // Chosen while somebody waits already; and then another one, for good.
        let begun = Instant::now();
        let choose = async {
            tokio::time::sleep(minute).await;
            handle.set_level(LogLevel::Trace, Some(Instant::now() + minute));
        };
        let (was_over, ()) = tokio::join!(over(&handle), choose);
        assert!(was_over && begun.elapsed() == minute * 2, "{:?}", begun.elapsed());
        handle.set_level(LogLevel::Error, None);
        assert_eq!((handle.end_of_time(LogLevel::Warn), handle.level()), (false, LogLevel::Error));
        assert!(!over(&handle).await);
    }

    #[test]
    fn lines_are_machine_readable_where_that_is_wanted() {
        let paper = Paper::default();
        let (dispatch, _, end) = build(&Log { format: LogFormat::Json, ..TEXT }, false, paper.clone());
        with_default(&dispatch, || info!(answer = 42, "hello"));
        drop(end);
        let text = paper.text();
        assert!(text.starts_with('{') && text.contains("\"message\":\"hello\",\"answer\":42"), "{text}");
    }

    #[test]
    fn nobody_waits_for_what_is_blocked_and_what_finds_no_room_is_counted() {
        let paper = Paper::default();
        let (dispatch, handle, end) = build(&TEXT, false, paper.clone());
        let blocked = paper.lock();
        let lines = QUEUE + 100;
        with_default(&dispatch, || (0..lines).for_each(|line| info!(line)));
        // One may be in the thread's hand.
        assert!((99..=100).contains(&handle.lines_dropped()), "{}", handle.lines_dropped());
        let begun = Instant::now();
        let dropped = thread::spawn(move || drop(end));
        dropped.join().expect("no panic");
        assert!(begun.elapsed() < LAST_PAUSE * LAST_TRIES * 5, "{:?}", begun.elapsed());
        drop(blocked);
    }

    /// A disk with room for so many bytes, and more whenever it is told.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let (bytes, room) = &mut *self.0.lock().expect("not poisoned");
            let written = line.len().min(*room);
            if written == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= written;
            bytes.extend(&line[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn behind_half_a_line_the_next_one_begins_below_it() {
        let disk = Disk::default();
        let mut sink = Sink { to: disk.clone(), unwritten: Arc::default(), is_torn: false };
        let mut write = |line: &[u8], room: usize| {
            disk.0.lock().expect("not poisoned").1 = room;
            sink.write_all(line).expect("always");
        };
        write(b"first line\n", 100);
        write(b"second line\n", 6);
        write(b"third line\n", 0);
        write(b"fourth line\n", 1);
        write(b"fifth line\n", 100);
        let text = String::from_utf8(disk.0.lock().expect("not poisoned").0.clone()).expect("UTF-8");
        assert_eq!(text, "first line\nsecond\nfifth line\n");
        assert_eq!(sink.unwritten.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_thread_lives_on() {
        let (dispatch, handle, end) = build(&TEXT, false, Full);
        with_default(&dispatch, || (0..10).for_each(|line| info!(line)));
        drop(end);
        assert!((10..=11).contains(&handle.lines_dropped()), "{}", handle.lines_dropped());
    }
}
