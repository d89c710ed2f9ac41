//! Listing containers, from memory.

use std::sync::Arc;

use super::{ContainerFilter, ContainerRecord};
use crate::engine::Inner;

impl Inner {
    pub fn list_containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerRecord>> {
        let mut records = self.containers.records();
        records.retain(|record| filter.matches(record));
        records.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        records
    }
}

impl ContainerFilter {
    pub fn matches(&self, record: &ContainerRecord) -> bool {
        let label = |(key, value): &(String, Option<String>)| match (record.labels().get(key), value) {
            (Some(found), Some(wanted)) => found == wanted,
            (Some(_), None) => true,
            (None, _) => false,
        };
        (self.all || record.state.is_running())
            && self.pod.as_ref().is_none_or(|pod| record.pod() == Some(pod))
            && self.labels.iter().all(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::container::spec::ContainerSpec;
    use crate::engine::container::state::{ContainerState, Process};
    use crate::engine::id::{ContainerId, PodId};
    use jiff::Timestamp;

    #[test]
    fn every_condition_must_hold() {
        let pod = PodId::random();
        let mut spec = ContainerSpec::new("x");
        spec.labels.insert("app".into(), "web".into());
        spec.pod = Some(pod.clone());
        let mut record = ContainerRecord {
            id: ContainerId::random(),
            name: "x".parse().unwrap(),
            spec,
            image_id: None,
            image_name: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            state: ContainerState::Configured,
            pending: None,
            restart_count: 0,
            stopped_by_user: false,
            network: None,
            anonymous_volumes: Vec::new(),
        };
        let label = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let all = ContainerFilter { all: true, ..ContainerFilter::default() };
        let rows = [
            (all.clone(), true),
            (ContainerFilter::default(), false),
            (ContainerFilter { labels: vec![label("app", None)], ..all.clone() }, true),
            (ContainerFilter { labels: vec![label("app", Some("web"))], ..all.clone() }, true),
            (ContainerFilter { labels: vec![label("app", None), label("tier", None)], ..all.clone() }, false),
            (ContainerFilter { labels: vec![label("app", Some("db"))], ..all.clone() }, false),
            (ContainerFilter { pod: Some(pod), ..all.clone() }, true),
            (ContainerFilter { pod: Some(PodId::random()), ..all }, false),
        ];
        for (filter, expected) in rows {
            assert_eq!(filter.matches(&record), expected, "{filter:?}");
        }
        record.state = ContainerState::Running(Process {
            pid: 1,
            start_ticks: 1,
            monitor_pid: 1,
            started_at: Timestamp::UNIX_EPOCH,
        });
        assert!(ContainerFilter::default().matches(&record));
    }
}
