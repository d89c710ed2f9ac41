//! When to try again. Pure: a function of how often it failed and for how long it last ran.

use std::time::Duration;

/// Delays that double from `initial` up to `max`. The first try after success is immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    pub initial: Duration,
    pub max: Duration,
}

/// Restarts of containers, as kubelet's: 10 s doubling to 5 minutes.
pub const CONTAINER: BackOff = BackOff { initial: Duration::from_secs(10), max: Duration::from_secs(300) };

/// Image pulls, as kubelet's. Unlike a container, an image that failed once is not asked for again at once.
pub const IMAGE: BackOff = BackOff { initial: Duration::from_secs(10), max: Duration::from_secs(300) };

/// Our own actions on the engine: failures are rare and mostly short.
pub const ACTION: BackOff = BackOff { initial: Duration::from_secs(1), max: Duration::from_secs(60) };

/// A container that ran for this long starts from the beginning, as with kubelet (twice the longest delay).
pub const RESET_AFTER: Duration = Duration::from_secs(600);

impl BackOff {
    /// How long to wait after `failures` failures in a row, counted from the last one.
    pub fn delay(self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            n => {
                let doublings = (n - 1).min(20);
                self.initial.saturating_mul(1 << doublings).min(self.max)
            }
        }
    }
}

/// A container has ended that was restarted `streak` times in a row before: how many times that is now,
/// seen from its next restart. The delay before that restart is `CONTAINER.delay(streak)`.
pub fn streak_after(streak: u32, ran_for: Duration) -> u32 {
    if ran_for >= RESET_AFTER { 0 } else { streak }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_delays_are_kubelets() {
        let secs: Vec<u64> = (0..9).map(|n| CONTAINER.delay(n).as_secs()).collect();
        assert_eq!(secs, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn no_number_of_failures_overflows() {
        for failures in [31, 32, 33, 64, u32::MAX] {
            assert_eq!(CONTAINER.delay(failures), CONTAINER.max);
        }
    }

    #[test]
    fn ten_minutes_of_running_forgive_everything() {
        for (streak, ran_secs, expected) in
            [(0, 0, 0), (3, 0, 3), (3, 599, 3), (3, 600, 0), (7, 100_000, 0), (0, 700, 0)]
        {
            assert_eq!(streak_after(streak, Duration::from_secs(ran_secs)), expected, "{streak} {ran_secs}");
        }
    }
}
