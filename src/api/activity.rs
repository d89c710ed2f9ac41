//! Whether anybody is asking: what `--time` counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Counts requests and raw streams under way. A connection that only waits for its next request does
/// not count, as in podman.
#[derive(Clone)]
pub struct Activity(Arc<watch::Sender<State>>);

#[derive(Clone, Copy)]
struct State {
    open: usize,
    /// When `open` last became 0.
    idle_since: Instant,
}

/// One request under way.
pub struct Busy(Arc<watch::Sender<State>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State { open: 0, idle_since: Instant::now() })))
    }
}

impl Activity {
    pub fn begin(&self) -> Busy {
        self.0.send_modify(|state| state.open += 1);
        Busy(self.0.clone())
    }

    /// Completes when nothing was under way for `timeout`; never without one.
    pub fn idle_for(&self, timeout: Option<Duration>) -> impl Future<Output = ()> + use<> {
        let mut states = self.0.subscribe();
        let keep = self.0.clone();
        async move {
            let Some(timeout) = timeout else { return std::future::pending().await };
            loop {
                let state = *states.borrow_and_update();
                let deadline = async {
                    match state.open {
                        0 => tokio::time::sleep_until(state.idle_since + timeout).await,
                        _ => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = deadline => break,
                    _ = states.changed() => {}
                }
            }
            drop(keep);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|state| {
            state.open -= 1;
            state.idle_since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idleness_is_counted_from_the_end_of_the_last_request() {
        let activity = Activity::default();
        let started = Instant::now();
        let idle = tokio::spawn(activity.idle_for(Some(Duration::from_secs(5))));
        tokio::time::sleep(Duration::from_secs(4)).await;
        let request = activity.begin();
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!idle.is_finished());
        drop(request);
        idle.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 29);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_timeout_it_serves_for_ever() {
        let idle = Activity::default().idle_for(None);
        assert!(tokio::time::timeout(Duration::from_secs(1_000_000), idle).await.is_err());
    }
}
