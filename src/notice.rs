//! What a session is told from outside while it goes on: to leave, and how, or that everything ends now. Whoever wants it to go
//! tells; its relay hears. Not here: who is told, and why.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use crate::outcome::Leave;

/// One session's.
#[derive(Debug, Default)]
pub struct Notice(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Not heard yet. Boxed: most never are told.
    leave: Option<Box<Leave>>,
    is_told: bool,
    is_over: bool,
    listener: Option<Waker>,
}

/// What a session hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is to leave.
    Leave(Leave),
    /// Everything ends now.
    Stop,
}

impl Notice {
    /// Tells it to leave. False: it has been told before, and nothing changes.
    pub fn leave(&self, leave: Leave) -> bool {
        let mut state = self.state();
        if state.is_told {
            return false;
        }
        (state.is_told, state.leave) = (true, Some(Box::new(leave)));
        wake(state);
        true
    }

    /// Tells it that everything ends now, whatever it has been told before.
    pub fn stop(&self) {
        let mut state = self.state();
        state.is_over = true;
        wake(state);
    }

    /// It has been told to leave, whether it has heard that or not.
    pub fn is_told(&self) -> bool {
        self.state().is_told
    }

    /// What it was told since this was asked last; its task is woken when there is more. There is one who listens.
    pub fn hear(&self, cx: &Context<'_>) -> Option<Told> {
        let mut state = self.state();
        if state.is_over {
            return Some(Told::Stop);
        }
        if !state.listener.as_ref().is_some_and(|listener| listener.will_wake(cx.waker())) {
            state.listener = Some(cx.waker().clone());
        }
        state.leave.take().map(|leave| Told::Leave(*leave))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not while the lock is held: a waker may do anything.
fn wake(mut state: MutexGuard<'_, State>) {
    let listener = state.listener.take();
    drop(state);
    if let Some(listener) = listener {
        listener.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;
    use crate::outcome::Ending;

    fn leave(ending: Ending) -> Leave {
        Leave { ending, patience: Duration::ZERO, gently: false }
    }

    async fn next(notice: &Notice) -> Told {
        poll_fn(|cx| notice.hear(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    #[tokio::test]
    async fn what_is_told_before_anybody_listens_is_heard_once() {
        let notice = Notice::default();
        assert!(!notice.is_told());
        assert!(notice.leave(leave(Ending::Kicked)) && notice.is_told());
        assert!(!notice.leave(leave(Ending::Moved)), "it knows");
        assert_eq!(next(&notice).await, Told::Leave(leave(Ending::Kicked)));
        assert!(notice.is_told() && !notice.leave(leave(Ending::Moved)));
        notice.stop();
        assert_eq!(next(&notice).await, Told::Stop);
        assert_eq!(next(&notice).await, Told::Stop, "and stays so");
    }

    #[tokio::test]
    async fn who_listens_is_woken_each_time() {
        let notice = Arc::new(Notice::default());
        let heard = tokio::spawn({
            let notice = Arc::clone(&notice);
            async move { [next(&notice).await, next(&notice).await] }
        });
        tokio::task::yield_now().await;
        notice.leave(leave(Ending::Kicked));
        tokio::task::yield_now().await;
        notice.stop();
        assert_eq!(heard.await.expect("no panic"), [Told::Leave(leave(Ending::Kicked)), Told::Stop]);
    }
}
