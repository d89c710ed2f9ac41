//! The vocabulary of a plan: what shall be done, and why. Plain data that prints itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::container::spec::Protocol;
use crate::engine::id::PodId;
use crate::engine::image::PullPolicy;
use crate::reconcile::desired::{ManifestError, ObjectName, SourceName, StackName};

/// What one pass would do, in the order in which it may be done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub actions: Vec<PlannedAction>,
    /// What is left alone although it may differ.
    pub holds: Vec<Hold>,
    /// Pods that are as they should be.
    pub unchanged: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedAction {
    pub stack: StackName,
    pub action: Action,
    /// `None`: it may be done now. Otherwise a later pass does it.
    pub gate: Option<Gate>,
}

/// One change to the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum Action {
    /// Everything a stack needs is fetched before the first of its containers stops.
    FetchImage {
        image: String,
        policy: PullPolicy,
        key: FetchKey,
    },
    RemoveService {
        service: ObjectName,
        drift: Drift,
    },
    RemovePod {
        pod: ObjectName,
        id: PodId,
        drift: Drift,
    },
    CreateVolume {
        volume: String,
        drift: Drift,
    },
    PutService {
        service: ObjectName,
        drift: Drift,
    },
    /// Stop, remove, create anew.
    ReplacePod {
        pod: ObjectName,
        id: PodId,
        drift: Drift,
        /// Pods that hold a name or a host port it needs, and are removed or replaced in this pass.
        after: Vec<PodId>,
    },
    /// The sandbox stays; only the named containers are made anew. With none of them, only what the
    /// pod's worker knows changes (probes, grace period, labels): nothing restarts.
    UpdatePod {
        pod: ObjectName,
        id: PodId,
        containers: Vec<String>,
        drift: Drift,
    },
    /// The same pod, now written in another stack: nothing restarts.
    MovePod {
        pod: ObjectName,
        id: PodId,
        drift: Drift,
    },
    CreatePod {
        pod: ObjectName,
        drift: Drift,
        after: Vec<PodId>,
    },
}

/// What an image fetch is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FetchKey {
    pub image: String,
    pub freshness: Freshness,
}

/// How fresh an image has to be, by the pull policy of who needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Freshness {
    /// It only has to be there.
    Present,
    /// It has to be there already (`Never`).
    Local,
    /// The registry is asked, once for each shape of a pod and not in each pass (`Always`).
    Asked { shape: String },
}

/// How the machine differs from what is written: the reason of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "drift", rename_all = "camelCase")]
pub enum Drift {
    Missing,
    SpecChanged {
        changes: Vec<FieldChange>,
    },
    /// The name stands for another image since a pull by policy `Always`.
    ImageChanged {
        images: Vec<ImageChange>,
    },
    Orphaned {
        cause: String,
    },
    Moved {
        from: StackName,
    },
    /// The pod carries our labels, but what it was made from is not on record.
    RecordLost,
    /// Someone wants again what was being removed; what is left of it does not run on.
    Leaving,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    pub field: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageChange {
    pub container: String,
    pub image: String,
    pub from: String,
    pub to: String,
}

/// Why an action waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "camelCase")]
pub enum Gate {
    /// Images of its stack are being fetched.
    Images { missing: Vec<String> },
    /// An image of its stack can not be had; tried again later.
    ImageFailed { image: String, reason: String, message: String },
    /// An earlier action on the same object is still under way.
    InFlight,
    /// The last attempt failed; tried again later.
    BackOff { message: String },
    /// Replicas are replaced one after the other.
    Rolling { pod: ObjectName },
    /// Something that stays for now holds what this needs.
    Taken { what: String, by: String },
}

/// Something that is left as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub subject: HoldSubject,
    pub cause: HoldCause,
    /// Pods that go on as they are because of this.
    pub keeps: Vec<ObjectName>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldSubject {
    Source(SourceName),
    Stack(StackName),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "camelCase")]
pub enum HoldCause {
    /// The source is missing, unmounted, unreadable or suddenly empty.
    Source { cause: String },
    /// The stack's manifests are wrong.
    Errors { errors: Vec<ManifestError> },
    /// Pods are no longer written in the stack, while a new one in the same place can not be read: they may
    /// have been moved there. Only they are kept.
    Renaming { broken: StackName },
    /// What the stack wants is taken by something that stays.
    Conflict { what: String, by: String },
}

impl Plan {
    /// Nothing to do and nothing held.
    pub fn in_sync(&self) -> bool {
        self.actions.is_empty() && self.holds.is_empty()
    }

    /// Some manifest is wrong, some source unreadable, or some objects in conflict.
    pub fn has_errors(&self) -> bool {
        !self.holds.is_empty()
    }

    /// Actions that may be done now.
    pub fn ready(&self) -> impl Iterator<Item = &PlannedAction> {
        self.actions.iter().filter(|planned| planned.gate.is_none())
    }
}

impl Action {
    /// The pod this is about, if it is about one.
    pub fn pod(&self) -> Option<&ObjectName> {
        match self {
            Self::RemovePod { pod, .. }
            | Self::ReplacePod { pod, .. }
            | Self::UpdatePod { pod, .. }
            | Self::MovePod { pod, .. }
            | Self::CreatePod { pod, .. } => Some(pod),
            Self::FetchImage { .. }
            | Self::RemoveService { .. }
            | Self::CreateVolume { .. }
            | Self::PutService { .. } => None,
        }
    }

    pub fn drift(&self) -> &Drift {
        match self {
            Self::FetchImage { .. } => &Drift::Missing,
            Self::RemoveService { drift, .. }
            | Self::RemovePod { drift, .. }
            | Self::CreateVolume { drift, .. }
            | Self::PutService { drift, .. }
            | Self::ReplacePod { drift, .. }
            | Self::UpdatePod { drift, .. }
            | Self::MovePod { drift, .. }
            | Self::CreatePod { drift, .. } => drift,
        }
    }
}

/// `8080/tcp`, for messages about host ports.
pub fn port_text(port: u16, protocol: Protocol) -> String {
    format!("host port {port}/{}", protocol.as_str())
}

impl fmt::Display for Plan {
    /// For people: one line per action, its reasons indented below, a sum at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for hold in &self.holds {
            write!(f, "{hold}")?;
        }
        let mut stack = None;
        for planned in &self.actions {
            if stack != Some(&planned.stack) {
                writeln!(f, "stack {}", planned.stack)?;
                stack = Some(&planned.stack);
            }
            write!(f, "{planned}")?;
        }
        if self.in_sync() {
            return writeln!(f, "In sync: {} unchanged.", count(self.unchanged, "pod"));
        }
        let mut created = 0;
        let mut replaced = 0;
        let mut updated = 0;
        let mut removed = 0;
        for planned in &self.actions {
            match &planned.action {
                Action::CreatePod { .. } | Action::CreateVolume { .. } => created += 1,
                Action::PutService { drift: Drift::Missing, .. } => created += 1,
                Action::ReplacePod { .. } => replaced += 1,
                Action::UpdatePod { .. } | Action::MovePod { .. } | Action::PutService { .. } => updated += 1,
                Action::RemovePod { .. } | Action::RemoveService { .. } => removed += 1,
                Action::FetchImage { .. } => {}
            }
        }
        write!(
            f,
            "Plan: {created} to create, {replaced} to replace, {updated} to update, {removed} to remove; "
        )?;
        write!(f, "{} unchanged", count(self.unchanged, "pod"))?;
        if !self.holds.is_empty() {
            write!(f, ", {} held", self.holds.len())?;
        }
        writeln!(f, ".")
    }
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

impl fmt::Display for PlannedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::FetchImage { image, .. } => write!(f, "  < image {image}: fetch")?,
            Action::RemoveService { service, .. } => write!(f, "  - service {service}: remove")?,
            Action::RemovePod { pod, .. } => write!(f, "  - pod {pod}: remove")?,
            Action::CreateVolume { volume, .. } => write!(f, "  + volume {volume}: create")?,
            Action::PutService { service, drift: Drift::Missing } => {
                write!(f, "  + service {service}: create")?
            }
            Action::PutService { service, .. } => write!(f, "  ~ service {service}: update")?,
            Action::ReplacePod { pod, .. } => write!(f, "  ~ pod {pod}: replace")?,
            Action::UpdatePod { pod, containers, .. } if containers.is_empty() => {
                write!(f, "  ~ pod {pod}: update in place, nothing restarts")?
            }
            Action::UpdatePod { pod, containers, .. } => {
                write!(f, "  ~ pod {pod}: restart {}", containers.join(", "))?
            }
            Action::MovePod { pod, .. } => write!(f, "  = pod {pod}: keep, nothing restarts")?,
            Action::CreatePod { pod, .. } => write!(f, "  + pod {pod}: create")?,
        }
        match &self.gate {
            Some(gate) => writeln!(f, " ({gate})")?,
            None => writeln!(f)?,
        }
        match &self.action {
            Action::FetchImage { .. } => Ok(()),
            action => write!(f, "{}", action.drift()),
        }
    }
}

impl fmt::Display for Drift {
    /// Zero or more indented lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => Ok(()),
            Self::SpecChanged { changes } => {
                for change in changes {
                    writeln!(f, "      {change}")?;
                }
                Ok(())
            }
            Self::ImageChanged { images } => {
                for change in images {
                    writeln!(
                        f,
                        "      container {}: image {} is now {} (runs {})",
                        change.container,
                        change.image,
                        short_id(&change.to),
                        short_id(&change.from)
                    )?;
                }
                Ok(())
            }
            Self::Orphaned { cause } => writeln!(f, "      {cause}"),
            Self::Moved { from } => writeln!(f, "      moved here from stack {from}"),
            Self::RecordLost => writeln!(f, "      what it was made from is not on record"),
            Self::Leaving => writeln!(f, "      its removal has begun"),
        }
    }
}

fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Content that is not shown stands there as its digest; twelve digits tell two apart.
fn short_digests(text: &str) -> String {
    const MARK: &str = "sha256:";
    let mut parts = text.split(MARK);
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        short.push_str(MARK);
        short.push_str(&part[..digits.min(12)]);
        short.push_str(&part[digits..]);
    }
    short
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |value: &Option<String>| value.as_deref().map(short_digests);
        match (short(&self.from), short(&self.to)) {
            (Some(from), Some(to)) => write!(f, "{}: {from} -> {to}", self.field),
            (None, Some(to)) => write!(f, "{}: added, {to}", self.field),
            (Some(from), None) => write!(f, "{}: removed, was {from}", self.field),
            (None, None) => write!(f, "{}: changed", self.field),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images { missing } => write!(f, "after {}", missing.join(", ")),
            Self::ImageFailed { image, reason, message } => write!(f, "waits: {reason} {image}: {message}"),
            Self::InFlight => f.write_str("under way"),
            Self::BackOff { message } => write!(f, "waits after a failure: {message}"),
            Self::Rolling { pod } => write!(f, "after pod {pod} is ready"),
            Self::Taken { what, by } => write!(f, "waits: {what} is held by {by}"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            HoldSubject::Source(SourceName::Directory(path)) => write!(f, "! {} held", path.display())?,
            HoldSubject::Source(SourceName::Played) => write!(f, "! played manifests held")?,
            HoldSubject::Stack(stack) => write!(f, "! stack {stack} held")?,
        }
        match self.keeps.as_slice() {
            [] => writeln!(f)?,
            [pod] => writeln!(f, ", pod {pod} stays as it is")?,
            pods => writeln!(f, ", {} pods stay as they are", pods.len())?,
        }
        match &self.cause {
            HoldCause::Errors { errors } => {
                for error in errors {
                    writeln!(f, "      {error}")?;
                }
                Ok(())
            }
            cause => writeln!(f, "      {cause}"),
        }
    }
}

impl fmt::Display for HoldCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source { cause } => f.write_str(cause),
            Self::Errors { errors } => {
                for (index, error) in errors.iter().enumerate() {
                    if index > 0 {
                        f.write_str("; ")?;
                    }
                    write!(f, "{error}")?;
                }
                Ok(())
            }
            Self::Renaming { broken } => {
                write!(
                    f,
                    "what was written there is gone, but {broken} is new and broken: it may have been moved there"
                )
            }
            Self::Conflict { what, by } => write!(f, "{what} is taken by {by}"),
        }
    }
}
