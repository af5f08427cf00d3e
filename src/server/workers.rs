//! The threads on which sessions live: each has a runtime of its own, and a session stays where it was born, so that what
//! moves between a client and its backend wakes one thread and crosses none. All accept; who has far more sessions than
//! another gives what it accepts to that one. Not here: what a session does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{io, iter, thread};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// So many accept at most: a connection wakes all of them.
const ACCEPTORS: usize = 8;
/// So many sessions more than the least busy one, and an eighth, a worker has without giving any away.
const SLACK: usize = 8;
/// A worker that sleeps has set its alarm for its next timer. One that is due even earlier makes tokio write to the worker's own
/// wake-up descriptor, for each of a login's timers. None of them is due earlier than this.
const TICK: Duration = Duration::from_secs(1);

/// All workers.
#[derive(Debug, Clone)]
pub struct Workers {
    first: Arc<Worker>,
    others: Arc<[Arc<Worker>]>,
}

/// One.
#[derive(Debug)]
pub(super) struct Worker {
    runtime: Handle,
    sessions: AtomicUsize,
}

/// A session is counted as its worker's until this is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<Worker>);

/// Their threads, which end when this is dropped.
#[derive(Debug)]
pub struct Threads(#[expect(dead_code, reason = "held for their Drop")] Vec<oneshot::Sender<()>>);

impl Workers {
    /// Starts so many threads; one at least.
    ///
    /// # Errors
    /// The system has no more threads or descriptors.
    pub fn start(number: usize) -> io::Result<(Self, Threads)> {
        let mut threads = Vec::new();
        let first = Worker::start(0, &mut threads)?;
        let others = (1..number).map(|number| Worker::start(number, &mut threads)).collect::<io::Result<_>>()?;
        Ok((Self { first, others }, Threads(threads)))
    }

    /// One, whose thread is this one. To be called within a runtime.
    pub fn here() -> Self {
        Self { first: Worker::on(Handle::current()), others: Arc::default() }
    }

    /// Those who accept.
    pub(super) fn acceptors(&self) -> (&Arc<Worker>, &[Arc<Worker>]) {
        (&self.first, self.others.get(..ACCEPTORS - 1).unwrap_or(&self.others))
    }

    /// A seat for a session that `here` has accepted: there, unless somebody else has far fewer.
    pub(super) fn seat(&self, here: &Arc<Worker>) -> Seat {
        let all = iter::once(&self.first).chain(&*self.others);
        let least = all.min_by_key(|worker| worker.count()).unwrap_or(here);
        let most = least.count() + least.count() / 8 + SLACK;
        let worker = if here.count() > most { least } else { here };
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(worker))
    }
}

impl Worker {
    fn start(number: usize, threads: &mut Vec<oneshot::Sender<()>>) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let worker = Self::on(runtime.handle().clone());
        let (ending, mut ended) = oneshot::channel();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            runtime.block_on(async {
                // An error: the sender is gone, and it is over.
                while timeout(TICK, &mut ended).await.is_err() {}
            });
            runtime.shutdown_background();
        })?;
        threads.push(ending);
        Ok(worker)
    }

    fn on(runtime: Handle) -> Arc<Self> {
        Arc::new(Self { runtime, sessions: AtomicUsize::new(0) })
    }

    fn count(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Lives there.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        self.runtime.spawn(task);
    }
}

impl Seat {
    /// A connection that `here` has accepted becomes a session of this one's worker, and is counted for as long.
    pub(super) fn take<F>(
        self,
        here: &Arc<Worker>,
        tcp: TcpStream,
        session: impl FnOnce(TcpStream, Self) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let worker = Arc::clone(&self.0);
        if Arc::ptr_eq(&worker, here) {
            return worker.spawn(session(tcp, self));
        }
        // Its readiness is told to the thread where it was accepted until then.
        let Ok(tcp) = tcp.into_std() else { return };
        Arc::clone(&worker).spawn(async move {
            if let Ok(tcp) = TcpStream::from_std(tcp) {
                worker.spawn(session(tcp, self));
            }
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn whoever_accepts_keeps_its_sessions_until_another_has_fewer() {
        let (workers, _threads) = Workers::start(3).expect("threads");
        let (first, others) = workers.acceptors();
        assert_eq!(others.len(), 2);
        let mut seats: Vec<_> = (0..300).map(|_| workers.seat(first)).collect();
        let counts = || iter::once(first).chain(others).map(|worker| worker.count()).collect::<Vec<_>>();
        let (least, most) = (counts().into_iter().min().expect("three"), first.count());
        assert!(most > least && most <= least + least / 8 + SLACK + 1, "{:?}", counts());
        let is_first = |seat: &Seat| Arc::ptr_eq(&seat.0, first);
        assert!(seats.iter().take(SLACK).all(is_first) && !seats.iter().all(is_first));
        seats.clear();
        assert_eq!(counts(), [0, 0, 0]);
    }

    #[test]
    fn only_a_few_accept() {
        let (workers, _threads) = Workers::start(ACCEPTORS + 3).expect("threads");
        assert_eq!(workers.acceptors().1.len(), ACCEPTORS - 1);
        // Those who do not accept are given what the others have too much of.
        let seats: Vec<_> = (0..1000).map(|_| workers.seat(&workers.first)).collect();
        assert!(workers.others.iter().all(|worker| worker.count() > 0));
        drop(seats);
    }

    #[tokio::test]
    async fn a_connection_lives_on_the_thread_that_it_is_given_to() {
        let (workers, _threads) = Workers::start(2).expect("threads");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (told, mut names) = mpsc::unbounded_channel();
        for (worker, there) in [(&workers.others[0], "worker-1"), (&workers.first, "worker-0")] {
            let mut far = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listening");
            let (near, _) = listener.accept().await.expect("connected");
            let told = told.clone();
            worker.sessions.fetch_add(1, Ordering::Relaxed);
            // This thread is no worker: what it accepts is told to it until somebody has it.
            Seat(Arc::clone(worker)).take(&Worker::on(Handle::current()), near, move |mut tcp, seat| async move {
                let name = thread::current().name().unwrap_or_default().to_owned();
                told.send(name).expect("heard");
                let mut byte = [0];
                tcp.read_exact(&mut byte).await.expect("comes");
                tcp.write_all(&byte).await.expect("taken");
                drop(seat);
            });
            far.write_all(b"x").await.expect("taken");
            assert_eq!(far.read_u8().await.expect("comes back"), b'x');
            assert_eq!(names.recv().await.as_deref(), Some(there));
        }
    }
}
