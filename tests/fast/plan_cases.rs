//! Stories of the planner, one per file in `cases/`: what was applied, what is written now, what else is
//! true of the machine, and the plan, word for word as people see it.
//!
//! ```text
//! Free text: what happens and why.
//! --- applied web        a manifest that runs already (any number)
//! --- written web        a manifest that is in the directory now (any number)
//! --- machine            one fact a line, see `Facts`
//! --- plan               what is expected
//! ```
//!
//! `UPDATE_CASES=1` writes what the planner says into the files, for review as a diff.

use selkie::engine::container::spec::{PortMapping, Protocol};
use selkie::reconcile::action::Freshness;
use selkie::reconcile::actual::{Activity, ImageState};
use selkie::reconcile::desired::{DesiredState, SourceHealth};
use selkie::reconcile::plan::plan;

use crate::world::{World, cases_dir, desired, directory, needed_images, object};

#[derive(Default)]
struct Story {
    intro: String,
    applied: Vec<(String, String)>,
    written: Vec<(String, String)>,
    machine: Vec<String>,
    plan: String,
}

fn parse(text: &str) -> Story {
    let mut story = Story::default();
    let mut sections = text.split("\n--- ");
    story.intro = sections.next().unwrap_or_default().to_owned();
    for section in sections {
        let (head, body) = section.split_once('\n').unwrap_or((section, ""));
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            ["applied", name] => story.applied.push((name.to_owned(), body.to_owned())),
            ["written", name] => story.written.push((name.to_owned(), body.to_owned())),
            ["machine"] => {
                let facts = body.lines().map(str::trim).filter(|line| !line.is_empty());
                story.machine.extend(facts.map(str::to_owned));
            }
            ["plan"] => story.plan = format!("{}\n", body.trim_end()),
            _ => panic!("unknown section {head:?}"),
        }
    }
    story
}

/// Makes one fact true.
fn establish(fact: &str, world: &mut World, wanted: &mut DesiredState) {
    let words: Vec<&str> = fact.split_whitespace().collect();
    let keys = |image: &str| -> Vec<_> {
        needed_images(wanted).into_iter().filter(|key| key.image == image).collect()
    };
    match words[..] {
        ["image", image, "absent"] => {
            for key in keys(image) {
                world.actual.images.insert(key, ImageState::Absent);
            }
            world.actual.image_ids.remove(image);
        }
        ["image", image, "fetching"] => {
            for key in keys(image) {
                world.actual.images.insert(key, ImageState::Fetching);
            }
        }
        ["image", image, "failed", reason, ..] => {
            for key in keys(image) {
                let failed = ImageState::Failed {
                    reason: reason.to_owned(),
                    message: words[4..].join(" "),
                    due: false,
                };
                world.actual.images.insert(key, failed);
            }
        }
        // A registry is asked for each shape once: this one it was not yet.
        ["image", image, "not", "asked"] => {
            for key in keys(image) {
                assert!(matches!(key.freshness, Freshness::Asked { .. }), "{image} is never asked for");
                world.actual.images.insert(key, ImageState::Absent);
            }
        }
        ["image", image, "is", id] => {
            world.actual.image_ids.insert(image.to_owned(), id.to_owned());
        }
        ["foreign", "pod", name] => {
            world.actual.foreign.names.insert(name.to_owned(), format!("pod {name}"));
        }
        ["foreign", "port", port, "of", name] => {
            let mapping = PortMapping::new(port.parse().unwrap(), 80, Protocol::Tcp);
            world.actual.foreign.ports.push((mapping, format!("container {name}")));
        }
        ["pod", name, "not", "ready"] => {
            world.actual.pods.get_mut(&object(name)).expect("the pod was applied").ready = false;
        }
        ["pod", name, "under", "way"] => {
            world.actual.activity.insert(object(name), Activity::InFlight);
        }
        ["pod", name, "failed", ..] => {
            let message = words[3..].join(" ");
            world.actual.activity.insert(object(name), Activity::BackOff { message });
        }
        ["pod", name, "without", "record"] => {
            world.actual.pods.get_mut(&object(name)).expect("the pod was applied").applied = None;
        }
        ["pod", name, "leaving"] => {
            world.actual.pods.get_mut(&object(name)).expect("the pod was applied").leaving = true;
        }
        ["source", "held", ..] => {
            let cause = words[2..].join(" ");
            wanted.sources.insert(directory(), SourceHealth::Held { cause });
        }
        ["source", "not", "watched"] => {
            wanted.sources.clear();
        }
        _ => panic!("unknown fact {fact:?}"),
    }
}

fn tell(story: &Story) -> String {
    let mut wanted = desired(&story.written);
    let mut world = World::running(&desired(&story.applied)).with_images(&wanted);
    for fact in &story.machine {
        establish(fact, &mut world, &mut wanted);
    }
    plan(&wanted, &world.actual).to_string()
}

#[test]
fn the_planner_tells_its_stories() {
    let update = std::env::var_os("UPDATE_CASES").is_some();
    let mut wrong = Vec::new();
    let mut told = 0;
    let mut paths: Vec<_> =
        std::fs::read_dir(cases_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let story = parse(&text);
        let got = tell(&story);
        told += 1;
        if got == story.plan {
            continue;
        }
        if update {
            let (before, _) = text.split_once("\n--- plan").unwrap_or((&text, ""));
            std::fs::write(&path, format!("{before}\n--- plan\n{got}")).unwrap();
        }
        wrong.push(format!("{}: expected\n{}\ngot\n{got}", path.display(), story.plan));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(told >= 20, "only {told} stories were found");
}
