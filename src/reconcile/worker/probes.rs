//! When a container is probed and what the answers mean. Pure; kubelet's rules.

use std::time::Duration;

use tokio::time::Instant;

use crate::reconcile::desired::{Probe, ProbeAction};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

/// One probe of one run of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeTrack {
    /// Answers of the same kind in a row.
    successes: u32,
    failures: u32,
    /// What the answers so far amount to; `None`: no threshold was reached yet.
    verdict: Option<bool>,
    in_flight: bool,
    next_at: Instant,
    attempts: u32,
}

impl ProbeTrack {
    /// A container that started `running_for` ago.
    pub fn new(probe: &Probe, now: Instant, running_for: Duration) -> Self {
        let delay = Duration::from_secs(probe.initial_delay_secs.into());
        Self {
            successes: 0,
            failures: 0,
            verdict: None,
            in_flight: false,
            next_at: now + delay.saturating_sub(running_for),
            attempts: 0,
        }
    }

    /// As after a success in an earlier life of the daemon.
    pub fn passed_before(probe: &Probe, now: Instant) -> Self {
        Self { verdict: Some(true), ..Self::new(probe, now, Duration::MAX) }
    }

    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    pub fn is_due(&self, now: Instant) -> bool {
        !self.in_flight && self.next_at <= now
    }

    /// When it is due; `None` while one is under way.
    pub fn due_at(&self) -> Option<Instant> {
        (!self.in_flight).then_some(self.next_at)
    }

    /// A probe is being made.
    pub fn begin(&mut self) {
        self.in_flight = true;
    }

    /// Counts an answer; the verdict it led to.
    pub fn answer(&mut self, probe: &Probe, kind: ProbeKind, success: bool, now: Instant) -> Option<bool> {
        self.in_flight = false;
        self.attempts = self.attempts.saturating_add(1);
        if success {
            self.successes += 1;
            self.failures = 0;
            if self.successes >= probe.success_threshold.max(1) {
                self.verdict = Some(true);
            }
        } else {
            self.failures += 1;
            self.successes = 0;
            if self.failures >= probe.failure_threshold.max(1) {
                self.verdict = Some(false);
            }
        }
        self.next_at = now + self.pause(probe, kind);
        self.verdict
    }

    /// A container that has never been ready is asked sooner than its period says, where asking costs no
    /// process: it is not ready meanwhile whatever the answer, so no threshold means anything yet.
    fn pause(&self, probe: &Probe, kind: ProbeKind) -> Duration {
        let period = Duration::from_secs(probe.period_secs.max(1).into());
        let spawns = matches!(probe.action, ProbeAction::Exec { .. });
        if kind == ProbeKind::Readiness && self.verdict != Some(true) && self.successes == 0 && !spawns {
            return (Duration::from_millis(20) * (1 << self.attempts.min(12))).min(period);
        }
        period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(success: u32, failure: u32) -> Probe {
        Probe {
            action: ProbeAction::Tcp { host: None, port: 80 },
            initial_delay_secs: 5,
            period_secs: 10,
            timeout_secs: 1,
            success_threshold: success,
            failure_threshold: failure,
            termination_grace_period_secs: None,
        }
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        // (success threshold, failure threshold, answers, verdict after each)
        type Row = (u32, u32, &'static [bool], &'static [Option<bool>]);
        const T: Option<bool> = Some(true);
        const F: Option<bool> = Some(false);
        let rows: &[Row] = &[
            (1, 3, &[false, false, false], &[None, None, F]),
            (1, 3, &[false, false, true, false, false, false], &[None, None, T, T, T, F]),
            (2, 1, &[true, true, false, true, true], &[None, T, F, F, T]),
            (1, 1, &[true, false, true], &[T, F, T]),
        ];
        let now = Instant::now();
        for (success, failure, answers, verdicts) in rows {
            let probe = probe(*success, *failure);
            let mut track = ProbeTrack::new(&probe, now, Duration::ZERO);
            let got: Vec<_> = answers
                .iter()
                .map(|answer| {
                    track.begin();
                    track.answer(&probe, ProbeKind::Liveness, *answer, now)
                })
                .collect();
            assert_eq!(got, *verdicts, "{success}/{failure}: {answers:?}");
        }
    }

    #[test]
    fn the_initial_delay_counts_from_the_start_of_the_container() {
        let now = Instant::now();
        let due = |running_secs| {
            ProbeTrack::new(&probe(1, 1), now, Duration::from_secs(running_secs)).due_at().unwrap() - now
        };
        assert_eq!(due(0), Duration::from_secs(5));
        assert_eq!(due(3), Duration::from_secs(2));
        assert_eq!(due(60), Duration::ZERO);
    }

    #[test]
    fn a_probe_is_never_made_twice_at_once() {
        let now = Instant::now();
        let mut track = ProbeTrack::new(&probe(1, 1), now, Duration::MAX);
        assert!(track.is_due(now));
        track.begin();
        assert!(!track.is_due(now + Duration::from_secs(100)));
        assert_eq!(track.due_at(), None);
    }

    #[test]
    fn readiness_is_asked_sooner_until_it_is_there_and_liveness_never_is() {
        let now = Instant::now();
        let probe = probe(1, 3);
        let mut readiness = ProbeTrack::new(&probe, now, Duration::MAX);
        readiness.answer(&probe, ProbeKind::Readiness, false, now);
        assert_eq!(readiness.due_at(), Some(now + Duration::from_millis(40)));
        for _ in 0..20 {
            readiness.answer(&probe, ProbeKind::Readiness, false, now);
        }
        assert_eq!(readiness.due_at(), Some(now + Duration::from_secs(10)), "never slower than the period");
        readiness.answer(&probe, ProbeKind::Readiness, true, now);
        assert_eq!(readiness.due_at(), Some(now + Duration::from_secs(10)));
        let mut liveness = ProbeTrack::new(&probe, now, Duration::MAX);
        liveness.answer(&probe, ProbeKind::Liveness, false, now);
        assert_eq!(liveness.due_at(), Some(now + Duration::from_secs(10)));
    }
}
