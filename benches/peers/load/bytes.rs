//! Sessions that are logged in and work: mails down, mails up, and round trips that carry next to nothing.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Client, Session};
use crate::pattern::{PATTERN, is_pattern};
use crate::report::{Driver, Wrong, percentiles};

/// Of the mail, or as many round trips, that come before what is measured.
const WARM_UP_SIZE: usize = 1024 * 1024;
const WARM_UP_TRIPS: usize = 100;

#[derive(Args)]
pub(crate) struct Mails {
    /// At a time
    #[arg(long)]
    sessions: usize,
    /// Mails that are under way then are finished
    #[arg(long)]
    seconds: f64,
    /// Of a mail, in bytes
    #[arg(long, default_value_t = 64 * 1024 * 1024)]
    size: usize,
}

#[derive(Args)]
pub(crate) struct Noops {
    /// At a time
    #[arg(long)]
    sessions: usize,
    #[arg(long)]
    seconds: f64,
}

impl Mails {
    pub(crate) async fn fetch(self, client: Client) -> Result<Value, Wrong> {
        self.run(client, true).await
    }

    pub(crate) async fn append(self, client: Client) -> Result<Value, Wrong> {
        self.run(client, false).await
    }

    async fn run(self, client: Client, down: bool) -> Result<Value, Wrong> {
        let mut driver = Driver::new();
        let size = self.size;
        let sessions = selected(&client, self.sessions).await?;
        // One scratch for each: they are few.
        let mut sessions: Vec<_> = sessions.into_iter().map(|session| (session, vec![0; PATTERN.len()])).collect();
        for (session, scratch) in &mut sessions {
            transfer(session, scratch, down, size.min(WARM_UP_SIZE)).await?;
        }
        driver.phase("ready").await?;

        let began = Instant::now();
        let mut working = JoinSet::new();
        for (mut session, mut scratch) in sessions {
            working.spawn(async move {
                let mut mails = 0_usize;
                while mails == 0 || began.elapsed().as_secs_f64() < self.seconds {
                    transfer(&mut session, &mut scratch, down, size).await?;
                    mails += 1;
                }
                Ok::<_, Wrong>((session, mails))
            });
        }
        let (mut mails, mut sessions) = (0, Vec::new());
        while let Some(worked) = working.join_next().await {
            let (session, count) = worked??;
            mails += count;
            sessions.push(session);
        }
        let seconds = began.elapsed().as_secs_f64();
        driver.phase("done").await?;
        log_out(sessions).await?;
        Ok(json!({"sessions": self.sessions, "mails": mails, "bytes": mails * size, "seconds": seconds}))
    }
}

impl Noops {
    pub(crate) async fn run(self, client: Client) -> Result<Value, Wrong> {
        let mut driver = Driver::new();
        let mut sessions = selected(&client, self.sessions).await?;
        for session in &mut sessions {
            for _ in 0..WARM_UP_TRIPS {
                session.command("n NOOP\r\n").await?;
            }
        }
        driver.phase("ready").await?;

        let began = Instant::now();
        let mut working = JoinSet::new();
        for mut session in sessions {
            working.spawn(async move {
                let mut times: Vec<Duration> = Vec::new();
                while times.is_empty() || began.elapsed().as_secs_f64() < self.seconds {
                    let asked = Instant::now();
                    session.command("n NOOP\r\n").await?;
                    times.push(asked.elapsed());
                }
                Ok::<_, Wrong>((session, times))
            });
        }
        let (mut times, mut sessions) = (Vec::new(), Vec::new());
        while let Some(worked) = working.join_next().await {
            let (session, one) = worked??;
            times.extend(one);
            sessions.push(session);
        }
        let seconds = began.elapsed().as_secs_f64();
        driver.phase("done").await?;
        log_out(sessions).await?;
        Ok(json!({"sessions": self.sessions, "count": times.len(), "seconds": seconds, "latency": percentiles(times)?}))
    }
}

async fn selected(client: &Client, count: usize) -> Result<Vec<Session>, Wrong> {
    let mut sessions = Vec::new();
    for user in 0..count {
        let mut session = client.connect().await?;
        session.log_in(user).await?;
        session.command("s SELECT INBOX\r\n").await.map_err(|wrong| wrong.at("SELECT"))?;
        sessions.push(session);
    }
    Ok(sessions)
}

async fn log_out(sessions: Vec<Session>) -> Result<(), Wrong> {
    for session in sessions {
        session.log_out().await?;
    }
    Ok(())
}

/// One mail, in whichever direction.
async fn transfer(session: &mut Session, scratch: &mut [u8], down: bool, size: usize) -> Result<(), Wrong> {
    if down { fetch(session, scratch, size).await } else { append(session, size).await }
}

async fn fetch(session: &mut Session, scratch: &mut [u8], size: usize) -> Result<(), Wrong> {
    session.say(format!("f FETCH 1 BODY.PEEK[]<0.{size}>\r\n").as_bytes()).await?;
    let announced = session.line().await?;
    if announced != format!("* 1 FETCH (BODY[]<0> {{{size}}}") {
        return Err(Wrong::new(format!("FETCH: {}", announced.escape_debug())));
    }
    let mut right = true;
    session.bytes(size, scratch, |part, place| right &= is_pattern(part, place)).await?;
    let end = session.line().await?;
    if !right || end != ")" {
        return Err(Wrong::new("FETCH: these are not the bytes that the backend sends"));
    }
    session.ok("f").await.map_err(|wrong| wrong.at("FETCH"))
}

async fn append(session: &mut Session, size: usize) -> Result<(), Wrong> {
    session.say(format!("g APPEND INBOX {{{size}}}\r\n").as_bytes()).await?;
    let answer = session.line().await?;
    if !answer.starts_with('+') {
        return Err(Wrong::new(format!("APPEND: {}", answer.escape_debug())));
    }
    let mut left = size;
    while left > 0 {
        let part = left.min(PATTERN.len());
        session.say(&PATTERN[..part]).await?;
        left -= part;
    }
    session.say(b"\r\n").await?;
    session.ok("g").await.map_err(|wrong| wrong.at("APPEND"))
}
