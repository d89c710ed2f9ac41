//! Tests of the store: what is acknowledged stays, what is refused changes nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use tempfile::TempDir;

use super::schema::{MIGRATIONS, migrate, open_writer};
use super::*;
use crate::engine::event::{EventAction, EventKind};

fn note(key: &str, value: &[u8]) -> Change {
    Change::PutNote { area: "test".into(), key: key.into(), value: value.into() }
}

fn volume(name: &str) -> Arc<VolumeRecord> {
    Arc::new(VolumeRecord {
        name: name.parse().unwrap(),
        created_at: Timestamp::from_second(1).unwrap(),
        driver: "local".into(),
        labels: BTreeMap::from([("a".into(), "b".into())]),
        options: BTreeMap::new(),
        anonymous: false,
        mountpoint: "/v/_data".into(),
        needs_copy_up: true,
    })
}

fn event(second: i64, id: &str) -> Event {
    Event {
        time: Timestamp::from_second(second).unwrap(),
        kind: EventKind::Volume,
        action: EventAction::Create,
        id: id.into(),
        name: id.into(),
        attributes: BTreeMap::new(),
    }
}

fn lease(address: &str, owner: &str) -> Lease {
    Lease { network: "n".into(), address: address.parse().unwrap(), owner: owner.into() }
}

fn open(dir: &TempDir) -> (Store, Snapshot) {
    Store::open(&dir.path().join("db")).unwrap()
}

#[tokio::test]
async fn what_was_committed_is_read_back() {
    let dir = TempDir::new().unwrap();
    let (store, empty) = open(&dir);
    assert!(empty.volumes.is_empty() && empty.notes.is_empty());
    store
        .commit(vec![
            Change::PutVolume(volume("kept")),
            Change::PutVolume(volume("dropped")),
            Change::RemoveVolume("dropped".parse().unwrap()),
            Change::PutLease(lease("10.0.0.2", "one")),
            Change::PutLease(lease("10.0.0.3", "two")),
            Change::PutLease(lease("10.0.0.4", "one")),
            Change::RemoveLeases { owner: "one".into() },
            note("k", b"old"),
            note("k", b"new"),
            note("gone", b""),
            Change::RemoveNote { area: "test".into(), key: "gone".into() },
        ])
        .await
        .unwrap();
    drop(store);

    let (_, snapshot) = open(&dir);
    assert_eq!(snapshot.volumes, [(*volume("kept")).clone()]);
    assert_eq!(snapshot.leases, [lease("10.0.0.3", "two")]);
    assert_eq!(snapshot.notes["test"].len(), 1);
    assert_eq!(&snapshot.notes["test"]["k"][..], b"new");
}

#[tokio::test]
async fn many_commits_at_once_all_succeed() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(&dir);
    let tasks: Vec<_> = (0..500)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(vec![note(&i.to_string(), b"x")]).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    drop(store);
    assert_eq!(open(&dir).1.notes["test"].len(), 500);
}

#[tokio::test]
async fn events_are_found_by_time_and_the_journal_is_bounded() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(&dir);
    let total = writer::JOURNAL_EVENTS + 1_000;
    for chunk in (0..total).collect::<Vec<_>>().chunks(500) {
        let events = chunk.iter().map(|i| Change::AppendEvent(event(*i, &i.to_string()))).collect();
        store.commit(events).await.unwrap();
    }
    let at = |second| Timestamp::from_second(second).unwrap();
    let ids: Vec<_> = store.events(at(total - 3), at(total - 2)).unwrap().into_iter().map(|e| e.id).collect();
    assert_eq!(ids, [(total - 3).to_string(), (total - 2).to_string()]);
    let kept = store.events(Timestamp::MIN, Timestamp::MAX).unwrap();
    assert_eq!(kept.last().unwrap().id, (total - 1).to_string());
    assert!((kept.len() as i64) < total, "{} events kept", kept.len());
    assert!(kept.len() as i64 >= writer::JOURNAL_EVENTS);
}

#[tokio::test]
async fn a_full_database_refuses_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    let connection = open_writer(&path).unwrap();
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    connection.pragma_update(None, "max_page_count", pages + 4).unwrap();
    let store = Store {
        requests: writer::spawn(connection).unwrap(),
        reader: Arc::new(Mutex::new(schema::open_reader(&path).unwrap())),
    };
    store.commit(vec![note("before", b"x")]).await.unwrap();
    let error = store
        .commit(vec![note("small", b"x"), note("big", &vec![0; 1_000_000])])
        .await
        .expect_err("a megabyte does not fit");
    assert!(error.is_disk_full(), "{error:?}");
    store.commit(vec![note("after", b"x")]).await.expect("the writer goes on");
    drop(store);
    let notes = open(&dir).1.notes.remove("test").unwrap();
    assert_eq!(notes.keys().collect::<Vec<_>>(), ["after", "before"]);
}

#[tokio::test]
async fn one_failing_request_does_not_fail_its_batch() {
    let dir = TempDir::new().unwrap();
    let connection = open_writer(&dir.path().join("db")).unwrap();
    connection
        .execute_batch("CREATE TRIGGER t BEFORE INSERT ON notes WHEN new.key = 'bad' BEGIN SELECT RAISE(FAIL, 'no'); END")
        .unwrap();
    let (requests, receiver) = std::sync::mpsc::channel();
    let mut outcomes = Vec::new();
    for changes in [vec![note("a", b"")], vec![note("b", b""), note("bad", b"")], vec![note("c", b"")]] {
        let (done, outcome) = oneshot::channel();
        requests.send(writer::Request { changes, done }).unwrap();
        outcomes.push(outcome);
    }
    drop(requests);
    writer::run(connection, &receiver);
    let mut succeeded = Vec::new();
    for outcome in outcomes {
        succeeded.push(outcome.await.unwrap().is_ok());
    }
    assert_eq!(succeeded, [true, false, true]);
    assert_eq!(open(&dir).1.notes["test"].keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    let newer = MIGRATIONS.len() as u32 + 1;
    open_writer(&path).unwrap().pragma_update(None, "user_version", newer).unwrap();
    match Store::open(&path) {
        Err(StoreError::TooNew { found, known }) => assert_eq!((found, known), (newer, newer - 1)),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn every_earlier_version_upgrades() {
    for version in 0..MIGRATIONS.len() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("db");
        let mut old = rusqlite::Connection::open(&path).unwrap();
        migrate(&mut old, &MIGRATIONS[..version]).unwrap();
        if version >= 1 {
            old.execute_batch(include_str!("golden/0001.sql")).unwrap();
        }
        drop(old);
        let (_, snapshot) = Store::open(&path).unwrap_or_else(|e| panic!("from version {version}: {e}"));
        assert_eq!(snapshot.volumes.len(), usize::from(version >= 1), "from version {version}");
        assert_eq!(snapshot.containers.len(), 2 * usize::from(version >= 1), "from version {version}");
    }
}

/// The records of version 1 as they were written, so that a change of the Rust types that can no longer
/// read them is noticed here and not by a user.
#[test]
fn golden_records_of_version_1_are_still_understood() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    open_writer(&path).unwrap().execute_batch(include_str!("golden/0001.sql")).unwrap();
    let (_, snapshot) = Store::open(&path).unwrap();
    let names: Vec<_> = snapshot.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["done", "web"]);
    assert_eq!(snapshot.pods[0].spec.name.as_str(), "front");
    assert_eq!(snapshot.volumes[0].name.as_str(), "data");
}

#[test]
fn damage_is_reported_as_damage() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, "this is no database, and it is long enough to be read as one".repeat(200))
        .unwrap();
    let error = Store::open(&path).map(|_| ()).expect_err("garbage is not opened");
    assert!(crate::engine::error::chain(&error).contains("not a database"), "{error:?}");

    std::fs::remove_file(&path).unwrap();
    let connection = open_writer(&path).unwrap();
    connection.execute("INSERT INTO volumes VALUES ('v', '{\"half\":')", []).unwrap();
    drop(connection);
    match Store::open(&path).map(|_| ()) {
        Err(StoreError::Record { table: "volumes", id, .. }) => assert_eq!(id, "v"),
        other => panic!("{other:?}"),
    }
}

/// Not a test by itself: the process that `acknowledged_commits_survive_sigkill` kills.
#[tokio::test]
#[ignore = "run by acknowledged_commits_survive_sigkill"]
async fn child_that_commits_for_ever() {
    let (store, _) = Store::open(Path::new(&std::env::var_os("STORE_PATH").unwrap())).unwrap();
    for i in 0_u32.. {
        let changes = vec![note(&format!("{i:08}"), b"x"), Change::AppendEvent(event(i64::from(i), "e"))];
        store.commit(changes).await.unwrap();
        println!("acknowledged {i:08}");
    }
}

#[test]
fn acknowledged_commits_survive_sigkill() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    let mut last = None;
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "engine::store::tests::child_that_commits_for_ever",
                "--ignored",
                "--nocapture",
            ])
            .env("STORE_PATH", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            // The test harness writes its own words into the first line.
            if let Some((_, key)) = line.split_once("acknowledged ") {
                last = last.max(Some(key.to_owned()));
                seen += 1;
                if seen == 50 * round {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let (_, snapshot) = Store::open(&path).unwrap();
        let notes = &snapshot.notes["test"];
        let last = last.as_ref().expect("the child acknowledged something");
        assert!(notes.contains_key(last), "{last} was acknowledged and is lost");
        let expected = notes.len() as u32;
        for i in 0..expected {
            assert!(notes.contains_key(&format!("{i:08}")), "{i} is lost, and {last} is there");
        }
    }
}
