//! One process's life: what follows from its signals. Not here: what a reload or a drain is.

use tokio::sync::watch;
use tracing::{info, warn};

use crate::process::{Phase, Signal, Signals};
use crate::steer::Steering;

/// Follows the signals until `phase` is [`Phase::Stopped`]; whoever serves may have ended before.
pub async fn conduct(mut signals: Signals, steering: Steering, phase: watch::Sender<Phase>) {
    loop {
        match signals.next().await {
            // Log and metrics tell what came of it.
            Signal::Reload => drop(steering.reload().await),
            Signal::Upgrade => {}
            Signal::End => break,
        }
    }
    drain(&mut signals, &steering, &phase).await;
    phase.send_replace(Phase::Stopped);
}

/// Accepts nothing any more and waits for the sessions to end, or for patience to.
async fn drain(signals: &mut Signals, steering: &Steering, phase: &watch::Sender<Phase>) {
    let time = steering.drain_timeout();
    info!(timeout_s = time.as_secs(), "draining: no new connections, the quiet sessions are told to leave first");
    phase.send_replace(Phase::Draining);
    let left = tokio::select! {
        left = steering.see_off(time) => left,
        () = asked_again(signals) => {
            info!("a second signal: ending the sessions that are left");
            return;
        }
    };
    if left > 0 {
        warn!(sessions = left, "the time for draining is over: cutting off the sessions that are left");
    }
}

async fn asked_again(signals: &mut Signals) {
    while signals.next().await != Signal::End {}
}
