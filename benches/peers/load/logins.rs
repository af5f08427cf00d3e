//! Logins: connect, handshake, greeting, LOGIN, OK, LOGOUT, closed; many at a time, or at a steady pace; alone or beside clients
//! that hang on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep_until;

use crate::client::Client;
use crate::report::{Driver, Wrong, percentiles};

/// Users take turns.
const USERS: usize = 10_000;

#[derive(Args)]
pub(crate) struct Logins {
    /// In all
    #[arg(long)]
    count: usize,
    /// No more are begun after so many seconds
    #[arg(long, default_value_t = f64::INFINITY)]
    seconds: f64,
    /// Each of those resumes its last TLS session
    #[arg(long)]
    resume: bool,
    /// So many clients hang on meanwhile: a third connect and are silent, a third stop within a command, a third within their
    /// first TLS record
    #[arg(long, default_value_t = 0)]
    beside: usize,
}

#[derive(Args)]
pub(crate) struct Pace {
    #[arg(long)]
    per_second: u32,
    #[arg(long)]
    seconds: u32,
    /// They resume TLS sessions
    #[arg(long)]
    resume: bool,
}

/// What was seen of some logins.
#[derive(Default)]
struct Seen {
    /// From connect to the answer to LOGIN.
    times: Vec<Duration>,
    resumed: usize,
}

impl Logins {
    pub(crate) async fn run(self, client: Client, concurrency: usize) -> Result<Value, Wrong> {
        let mut driver = Driver::new();
        let hanging = Hanging::new(&client, self.beside, concurrency).await?;
        let mut clients = Vec::new();
        for _ in 0..concurrency {
            let client = if self.resume { client.resuming() } else { client.clone() };
            // So that there is something to resume, and that all is warm.
            log_in_and_out(&client, 0, &mut Seen::default()).await?;
            clients.push(client);
        }
        driver.phase("ready").await?;

        let began = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for client in clients {
            let next = Arc::clone(&next);
            workers.spawn(async move {
                let mut seen = Seen::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= self.count || began.elapsed().as_secs_f64() >= self.seconds {
                        return Ok::<_, Wrong>(seen);
                    }
                    log_in_and_out(&client, number % USERS, &mut seen).await?;
                }
            });
        }
        let mut seen = Seen::default();
        while let Some(worker) = workers.join_next().await {
            seen.add(worker??);
        }
        let seconds = began.elapsed().as_secs_f64();
        driver.phase("done").await?;
        hanging.still_there()?;
        seen.result(seconds, self.resume && client.has_tls())
    }
}

impl Pace {
    pub(crate) async fn run(self, client: Client) -> Result<Value, Wrong> {
        let mut driver = Driver::new();
        let client = if self.resume { client.resuming() } else { client };
        log_in_and_out(&client, 0, &mut Seen::default()).await?;
        driver.phase("ready").await?;

        let began = tokio::time::Instant::now();
        let (mut logins, mut seen) = (JoinSet::new(), Seen::default());
        for number in 0..self.per_second * self.seconds {
            let due = began + Duration::from_secs(1) * number / self.per_second;
            sleep_until(due).await;
            let client = client.clone();
            logins.spawn(async move {
                let mut seen = Seen::default();
                // What it waits before it is begun counts too.
                let late = due.elapsed();
                log_in_and_out(&client, number as usize % USERS, &mut seen).await?;
                seen.times.iter_mut().for_each(|time| *time += late);
                Ok::<_, Wrong>(seen)
            });
            while let Some(done) = logins.try_join_next() {
                seen.add(done??);
            }
        }
        while let Some(done) = logins.join_next().await {
            seen.add(done??);
        }
        let seconds = began.elapsed().as_secs_f64();
        driver.phase("done").await?;
        seen.result(seconds, self.resume && client.has_tls())
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.resumed += other.resumed;
    }

    fn result(self, seconds: f64, resume: bool) -> Result<Value, Wrong> {
        let (count, resumed) = (self.times.len(), self.resumed);
        if resume && resumed == 0 {
            return Err(Wrong::new("no TLS session was resumed"));
        }
        if !resume && resumed > 0 {
            return Err(Wrong::new(format!("{resumed} TLS sessions were resumed")));
        }
        Ok(json!({"count": count, "seconds": seconds, "resumed": resumed, "latency": percentiles(self.times)?}))
    }
}

async fn log_in_and_out(client: &Client, user: usize, seen: &mut Seen) -> Result<(), Wrong> {
    let began = Instant::now();
    let mut session = client.connect().await?;
    session.log_in(user).await?;
    seen.times.push(began.elapsed());
    seen.resumed += usize::from(session.is_resumed());
    session.log_out().await
}

/// Clients that hold connections and do not get on with them.
struct Hanging {
    tasks: Vec<AbortHandle>,
}

impl Hanging {
    async fn new(client: &Client, count: usize, concurrency: usize) -> Result<Self, Wrong> {
        let places = Arc::new(Semaphore::new(concurrency));
        let mut coming = JoinSet::new();
        for number in 0..count {
            let (client, places) = (client.clone(), Arc::clone(&places));
            coming.spawn(async move {
                let _place = places.acquire_owned().await?;
                let hanging = match number % 3 {
                    0 => {
                        let silent = client.tcp().await?;
                        tokio::spawn(until_closed(silent))
                    }
                    1 => {
                        let mut session = client.connect().await?;
                        session.say(b"a LOGIN somebody").await?;
                        tokio::spawn(async move { drop(session.line_someday().await) })
                    }
                    _ => {
                        let mut tcp = client.tcp().await?;
                        let first = client.first_bytes()?;
                        tcp.write_all(&first[..first.len() / 2]).await?;
                        tokio::spawn(until_closed(tcp))
                    }
                };
                Ok::<_, Wrong>(hanging.abort_handle())
            });
        }
        let mut tasks = Vec::new();
        while let Some(hanging) = coming.join_next().await {
            tasks.push(hanging??);
        }
        Ok(Self { tasks })
    }

    /// Those who were closed meanwhile were not what they were to be.
    fn still_there(self) -> Result<(), Wrong> {
        let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
        if ended > 0 {
            return Err(Wrong::new(format!(
                "{ended} of {} clients that were to hang on were closed",
                self.tasks.len()
            )));
        }
        Ok(())
    }
}

/// It may be greeted, where there is no TLS.
async fn until_closed(mut tcp: TcpStream) {
    while !matches!(tcp.read(&mut [0; 64]).await, Ok(0) | Err(_)) {}
}
