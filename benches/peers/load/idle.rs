//! Sessions that do nothing but wait in IDLE, as nearly all do nearly always.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::client::{Client, Session};
use crate::report::{Driver, Wrong};

/// So many come and go before anything is measured, so that what a peer sets up once is there.
const WARM_UP: usize = 64;

#[derive(Default)]
struct Counts {
    /// Lines that were told to sessions in IDLE.
    heard: AtomicUsize,
    /// Sessions that ended while they were to be held.
    ended: AtomicUsize,
}

/// Holds the first number of sessions, then the next one in all, and so on. Sessions that are ended by the other side meanwhile are
/// counted: it may have been told to.
pub(crate) async fn idle(client: Client, numbers: &[usize], concurrency: usize) -> Result<Value, Wrong> {
    let mut driver = Driver::new();
    let places = Arc::new(Semaphore::new(concurrency));
    let mut warm = JoinSet::new();
    for user in 0..WARM_UP {
        let (client, places) = (client.clone(), Arc::clone(&places));
        warm.spawn(async move {
            let _place = places.acquire_owned().await?;
            idling(&client, user).await?.end().await
        });
    }
    all(&mut warm).await?;
    driver.phase("ready").await?;

    let counts = Arc::new(Counts::default());
    let release = watch::Sender::new(false);
    let mut held = JoinSet::new();
    let began = Instant::now();
    let mut seconds = Vec::new();
    for &number in numbers {
        let mut waiting = JoinSet::new();
        for user in held.len()..number {
            let (client, places) = (client.clone(), Arc::clone(&places));
            waiting.spawn(async move {
                let _place = places.acquire_owned().await?;
                idling(&client, user).await
            });
        }
        while let Some(session) = waiting.join_next().await {
            let (counts, places, release) = (Arc::clone(&counts), Arc::clone(&places), release.subscribe());
            held.spawn(session??.hold(counts, places, release));
        }
        seconds.push(began.elapsed().as_secs_f64());
        let (heard, ended) = (counts.heard.load(Ordering::Relaxed), counts.ended.load(Ordering::Relaxed));
        driver.phase_with(json!({"phase": "held", "sessions": number, "heard": heard, "ended": ended})).await?;
    }
    release.send_replace(true);
    all(&mut held).await?;
    // Of a session that was ended before its release its task may hear only now.
    let (heard, ended) = (counts.heard.load(Ordering::Relaxed), counts.ended.load(Ordering::Relaxed));
    driver.phase("gone").await?;
    Ok(json!({"sessions": numbers, "seconds": seconds, "heard": heard, "ended": ended}))
}

struct Idling(Session);

async fn idling(client: &Client, user: usize) -> Result<Idling, Wrong> {
    let mut session = client.connect().await?;
    session.log_in(user).await?;
    session.say(b"i IDLE\r\n").await?;
    let answer = session.line().await.map_err(|wrong| wrong.at("IDLE"))?;
    if !answer.starts_with('+') {
        return Err(Wrong::new(format!("IDLE: {}", answer.escape_debug())));
    }
    Ok(Idling(session))
}

impl Idling {
    async fn hold(
        mut self,
        counts: Arc<Counts>,
        places: Arc<Semaphore>,
        mut release: watch::Receiver<bool>,
    ) -> Result<(), Wrong> {
        loop {
            tokio::select! {
                _ = release.changed() => break,
                line = self.0.line_someday() => match line {
                    Ok(line) if line.starts_with("* BYE") => {}
                    Ok(line) if line.starts_with("* ") => {
                        counts.heard.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(line) => return Err(Wrong::new(format!("in IDLE: {}", line.escape_debug()))),
                    Err(_) => {
                        counts.ended.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                },
            }
        }
        let _place = places.acquire_owned().await?;
        let ended = self.end().await;
        if ended.as_ref().is_err_and(Wrong::is_closed) {
            counts.ended.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        ended
    }

    async fn end(mut self) -> Result<(), Wrong> {
        self.0.say(b"DONE\r\n").await?;
        self.0.ok("i").await.map_err(|wrong| wrong.at("DONE"))?;
        self.0.log_out().await
    }
}

async fn all(tasks: &mut JoinSet<Result<(), Wrong>>) -> Result<(), Wrong> {
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
