//! One process's life: what follows from its signals, from its first word to systemd to its end; and how one process makes
//! room for the next. Not here: what a reload or a drain is, how sockets are handed over.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::{error, info, warn};

use crate::process::{
    Heir, LogHandle, Notifier, Phase, Program, Role, Signal, Signals, Successor, UpgradeError, go_own_way,
    goes_its_way, hear, say_ready, tell,
};
use crate::steer::Steering;

/// How long a new process waits for the old one's word that systemd knows of it.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// Between attempts to start a new process in place of one that has died.
const AGAIN: Duration = Duration::from_secs(1);

/// What it takes to conduct a process.
pub struct Conductor {
    /// The running server.
    pub steering: Steering,
    /// The phase that it follows.
    pub phase: watch::Sender<Phase>,
    /// The way to systemd.
    pub notifier: Notifier,
    /// What this process was started as.
    pub program: Program,
    /// The log, where lines may be lost.
    pub log: LogHandle,
    /// Lines to the processes before this one that have sessions; the first is the one that has started it, if one has.
    pub elders: Vec<UnixStream>,
}

/// The processes before this one, and how many sessions each has.
#[derive(Default)]
struct Elders {
    known: Mutex<HashMap<usize, (OwnedFd, usize)>>,
    /// Told whenever one has said a number.
    heard: Notify,
    /// Told when it is another's business to hear them.
    handed_on: Notify,
}

/// How the time of running ends.
enum End {
    /// By a signal.
    Asked,
    /// Another process is there.
    Succeeded(Box<Succession>),
}

/// Another process is there.
struct Succession {
    heir: Heir,
    line: Arc<Mutex<Arc<net::UnixStream>>>,
    /// What it was given.
    sockets: Vec<(Role, OwnedFd)>,
}

impl Conductor {
    /// Follows the signals, for ever: the server has ended when the last session has, or soon after the phase is
    /// [`Phase::Stopped`].
    pub async fn conduct(mut self, mut signals: Signals) {
        let elders = Arc::default();
        let lines = std::mem::take(&mut self.elders);
        tokio::select! {
            () = self.look_after(&elders, lines) => {}
            () = self.live(&mut signals, &elders) => {}
        }
    }

    async fn live(&self, signals: &mut Signals, elders: &Elders) {
        // What was asked for while something else was being done.
        let mut next = None;
        let end = loop {
            let signal = match next.take() {
                Some(signal) => signal,
                None => signals.next().await,
            };
            match signal {
                Signal::Reload => next = self.reload(signals).await,
                Signal::Upgrade => {
                    let mut meanwhile = None;
                    match self.upgrade(signals, elders, &mut meanwhile).await {
                        Ok(Some(end)) => break end,
                        Ok(None) => {}
                        Err(why) => error!(%why, "not upgraded; this process serves on"),
                    }
                    next = meanwhile;
                }
                Signal::End => break End::Asked,
            }
        };
        elders.part();
        self.drain(signals, end).await;
        self.phase.send_replace(Phase::Stopped);
        std::future::pending::<()>().await;
    }

    /// Gives what was asked for meanwhile. An end is not waited for: what is read may lie on a disk that does not answer.
    async fn reload(&self, signals: &mut Signals) -> Option<Signal> {
        self.notifier.reloading();
        let mut reload = pin!(self.steering.reload());
        let mut meanwhile = None;
        // Log and metrics tell what came of it.
        let status = loop {
            tokio::select! {
                outcome = &mut reload => break match outcome {
                    Ok(_) => "serving",
                    Err(_) => "serving, with the configuration of before: the last reload was refused",
                },
                signal = signals.next() => match signal {
                    Signal::End => return Some(Signal::End),
                    // Which reads everything anew, too.
                    Signal::Upgrade => meanwhile = Some(Signal::Upgrade),
                    // The file may be another one than was read.
                    Signal::Reload => meanwhile = meanwhile.or(Some(Signal::Reload)),
                },
            }
        };
        self.notifier.ready(status);
        meanwhile
    }

    /// Starts the new process. `None`: nothing has changed. What was asked for besides is in `meanwhile` then.
    async fn upgrade(
        &self,
        signals: &mut Signals,
        elders: &Elders,
        meanwhile: &mut Option<Signal>,
    ) -> Result<Option<End>, UpgradeError> {
        if std::process::id() == 1 {
            warn!("this is the first process of a container, which ends with it: start a new container instead");
            return Ok(None);
        }
        let cannot = |error| UpgradeError::Start { path: "the listening sockets cannot be handed over".into(), error };
        let mut sockets = self.steering.share().await.map_err(cannot)?;
        sockets.extend(elders.lines().map_err(cannot)?);
        info!("upgrading: starting the new process");
        let mut successor = Successor::start(&self.program, &sockets)?;
        let pid = loop {
            tokio::select! {
                pid = successor.serves() => break pid?,
                signal = signals.next() => match signal {
                    Signal::End => return Ok(Some(End::Asked)),
                    Signal::Reload => *meanwhile = Some(Signal::Reload),
                    Signal::Upgrade => warn!("an upgrade is under way; this signal is not followed"),
                },
            }
        };
        info!(pid, "upgraded: the new process serves");
        self.notifier.main_pid(pid);
        if meanwhile.is_some() {
            successor.reload();
        }
        self.steering.close().await;
        elders.handed_on.notify_one();
        let (heir, line) = successor.let_go();
        Ok(Some(End::Succeeded(Box::new(Succession { heir, line: Arc::new(Mutex::new(Arc::new(line))), sockets }))))
    }

    /// Looks after the new process for as long as this one lives: whoever started us is not its parent yet, and would not see
    /// it die. The sockets are there still.
    async fn stand_by(&self, succession: Succession) {
        let Succession { mut heir, line, sockets } = succession;
        loop {
            let since = Instant::now();
            let current = Arc::clone(&line.lock().unwrap_or_else(PoisonError::into_inner));
            let status = tokio::select! {
                status = heir.died() => status,
                // It listens elsewhere from now on, or nowhere: nobody is to wait behind a socket of ours.
                () = goes_its_way(&current) => {
                    drop(sockets);
                    return std::future::pending().await;
                }
            };
            error!(%status, "the new process has died; starting it again");
            if since.elapsed() < AGAIN {
                sleep(AGAIN).await;
            }
            let (pid, successor) = loop {
                let started = async {
                    let mut successor = Successor::start(&self.program, &sockets)?;
                    Ok::<_, UpgradeError>((successor.serves().await?, successor))
                };
                match started.await {
                    Ok(started) => break started,
                    Err(why) => error!(%why, "nobody accepts connections; trying again"),
                }
                sleep(AGAIN).await;
            };
            info!(pid, "the new process serves again");
            self.notifier.main_pid(pid);
            let (next, next_line) = successor.let_go();
            heir = next;
            *line.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next_line);
        }
    }

    /// Accepts nothing any more and waits for the sessions to end, or for patience to.
    async fn drain(&self, signals: &mut Signals, end: End) {
        let time = self.steering.drain_timeout();
        info!(timeout_s = time.as_secs(), "draining: no new connections, the quiet sessions are told to leave first");
        let (succession, mut more) = match end {
            End::Asked => {
                self.phase.send_replace(Phase::Draining);
                self.notifier.stopping();
                (None, 1)
            }
            End::Succeeded(succession) => {
                self.phase.send_replace(Phase::Succeeded);
                // The first signal asks for what is being done.
                (Some(succession), 2)
            }
        };
        let asked_again = async {
            while more > 0 {
                more -= u8::from(signals.next().await == Signal::End);
            }
        };
        let line = succession.as_ref().map(|succession| Arc::clone(&succession.line));
        let told = |left| {
            if let Some(line) = &line {
                tell(&line.lock().unwrap_or_else(PoisonError::into_inner), left);
            }
        };
        let standing_by = async {
            match succession {
                Some(succession) => self.stand_by(*succession).await,
                None => std::future::pending().await,
            }
        };
        let left = tokio::select! {
            left = self.steering.see_off(time, told) => left,
            () = standing_by => return,
            () = asked_again => {
                info!("another signal: ending the sessions that are left");
                return;
            }
        };
        if left > 0 {
            warn!(sessions = left, "the time for draining is over: cutting off the sessions that are left");
        }
    }

    /// What goes on beside all that: the first words to the process before and to systemd, its watchdog, numbers.
    async fn look_after(&self, elders: &Arc<Elders>, lines: Vec<UnixStream>) {
        let metrics = self.steering.metrics();
        let mut hearing = JoinSet::new();
        let is_successor = !lines.is_empty();
        for (number, line) in lines.into_iter().enumerate() {
            match elders.meet(number, line) {
                Ok(mut line) => {
                    if number == 0 && say_ready(&mut line).await.is_err() {
                        warn!("the process before this one has gone before it heard that this one serves");
                    }
                    let elders = Arc::clone(elders);
                    hearing.spawn(async move {
                        hear(line, |sessions| elders.told(number, sessions)).await;
                        elders.forget(number);
                    });
                }
                Err(error) => warn!(%error, "the process before this one cannot be heard"),
            }
        }
        if is_successor {
            // Before that systemd does not listen to us. When the word does not come, the other process has ended.
            let _ = timeout(INTRODUCTION, elders.heard.notified()).await;
        }
        self.notifier.ready("serving");
        let mut second = interval(Duration::from_secs(1));
        let mut losses = Losses::default();
        let mut steering = self.steering.clone();
        let watchdog = self.notifier.watchdog_interval();
        let mut bark = interval(watchdog.unwrap_or(Duration::MAX / 2).min(Duration::from_hours(1)));
        loop {
            tokio::select! {
                _ = second.tick() => {
                    let dropped = self.log.lines_dropped();
                    metrics.life().log_lines_dropped(dropped);
                    if let Some(lines) = losses.untold(dropped) {
                        warn!(lines, "lines of the log could not be written and are lost: is the disk full, or the reader slow?");
                    }
                    let (processes, sessions) = elders.count();
                    metrics.life().predecessors(processes, sessions);
                }
                _ = bark.tick(), if watchdog.is_some() => self.notifier.watchdog(),
                // Its listeners may be others now.
                () = steering.reconfigured() => elders.part(),
                () = elders.handed_on.notified() => hearing.shutdown().await,
            }
        }
    }
}

/// Lines of the log that were lost, until somebody has been told.
#[derive(Debug, Default)]
struct Losses {
    told: u64,
    /// So many were lost when it was told last. If one more is by the next time, it may have been that very line.
    then: u64,
}

impl Losses {
    /// How many are to be told of, of so many since the start. To be asked now and then.
    fn untold(&mut self, dropped: u64) -> Option<u64> {
        if dropped == self.then {
            self.told = dropped;
        }
        self.then = dropped;
        (dropped > self.told).then(|| dropped - self.told)
    }
}

impl Elders {
    /// One more.
    fn meet(&self, number: usize, line: UnixStream) -> io::Result<net::UnixStream> {
        let spare = line.as_fd().try_clone_to_owned()?;
        line.set_nonblocking(true)?;
        let line = net::UnixStream::from_std(line)?;
        self.known().insert(number, (spare, 0));
        Ok(line)
    }

    /// What listens where is this process's own affair from now on.
    fn part(&self) {
        for (line, _) in self.known().values() {
            go_own_way(line);
        }
    }

    fn told(&self, number: usize, sessions: usize) {
        if let Some((_, known)) = self.known().get_mut(&number) {
            *known = sessions;
        }
        self.heard.notify_one();
    }

    fn forget(&self, number: usize) {
        self.known().remove(&number);
    }

    /// Their lines, for who comes after this process.
    fn lines(&self) -> io::Result<Vec<(Role, OwnedFd)>> {
        self.known().values().map(|(line, _)| Ok((Role::Elder, line.try_clone()?))).collect()
    }

    fn count(&self) -> (usize, usize) {
        let known = self.known();
        (known.len(), known.values().map(|(_, sessions)| sessions).sum())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<usize, (OwnedFd, usize)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_lines_are_told_of_until_the_word_gets_through() {
        let mut losses = Losses::default();
        // Eight are lost, then the word of it twice; the third gets through.
        let told: Vec<_> = [0, 8, 9, 10, 10, 10, 11, 11].into_iter().map(|dropped| losses.untold(dropped)).collect();
        assert_eq!(told, [None, Some(8), Some(9), Some(10), None, None, Some(1), None]);
    }
}
