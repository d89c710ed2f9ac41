//! The one thread that writes. Requests that wait together are committed together: one fsync for all.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rusqlite::{Connection, TransactionBehavior, params};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{Change, StoreError, StoreResultExt};

/// The journal keeps this many of the newest events.
pub(super) const JOURNAL_EVENTS: i64 = 20_000;

/// The journal is cut once in so many appended events, not at each.
const JOURNAL_TRIM_INTERVAL: u32 = 256;

/// A batch is committed at this many requests even if more are waiting, so that none waits for ever.
const MAX_BATCH: usize = 256;

pub(super) struct Request {
    pub changes: Vec<Change>,
    pub done: oneshot::Sender<Result<(), StoreError>>,
}

/// Starts the thread. It ends when every sender is gone.
pub(super) fn spawn(connection: Connection) -> std::io::Result<Sender<Request>> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("selkie-store".into()).spawn(move || run(connection, &receiver))?;
    Ok(sender)
}

/// Serves requests until every sender is gone.
pub(super) fn run(connection: Connection, requests: &Receiver<Request>) {
    Writer { connection, appended: 0 }.run(requests);
}

struct Writer {
    connection: Connection,
    /// Events appended since the journal was last cut.
    appended: u32,
}

impl Writer {
    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH {
                match requests.try_recv() {
                    Ok(request) => batch.push(request),
                    Err(_) => break,
                }
            }
            let outcomes = self.write(&batch);
            for (request, outcome) in batch.into_iter().zip(outcomes) {
                // A caller that went away has no use for the outcome; the change stays.
                let _ = request.done.send(outcome);
            }
        }
    }

    /// One transaction for the batch. A request that fails is undone alone; if the commit itself fails
    /// (full disk, I/O error), nothing of the batch has happened.
    fn write(&mut self, batch: &[Request]) -> Vec<Result<(), StoreError>> {
        let appended = self.appended;
        match self.try_write(batch) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.appended = appended;
                batch.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    fn try_write(&mut self, batch: &[Request]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let mut transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .step("begin a transaction")?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for request in batch {
            if let [_] = batch {
                // Alone in its batch: the transaction is its savepoint.
                apply_all(&transaction, &request.changes)?;
                outcomes.push(Ok(()));
                continue;
            }
            let savepoint = transaction.savepoint().step("set a savepoint")?;
            match apply_all(&savepoint, &request.changes) {
                Ok(()) => {
                    savepoint.commit().step("release a savepoint")?;
                    outcomes.push(Ok(()));
                }
                Err(error) => {
                    savepoint.finish().step("roll back to a savepoint")?;
                    outcomes.push(Err(error));
                }
            }
        }
        self.appended += batch
            .iter()
            .flat_map(|request| &request.changes)
            .filter(|change| matches!(change, Change::AppendEvent(_)))
            .count() as u32;
        if self.appended >= JOURNAL_TRIM_INTERVAL {
            transaction
                .prepare_cached("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1")
                .and_then(|mut statement| statement.execute([JOURNAL_EVENTS]))
                .step("cut the event journal")?;
            self.appended = 0;
        }
        transaction.commit().step("commit to disk")?;
        Ok(outcomes)
    }
}

fn apply_all(connection: &Connection, changes: &[Change]) -> Result<(), StoreError> {
    changes.iter().try_for_each(|change| apply(connection, change))
}

fn apply(connection: &Connection, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::PutContainer(record) => put(connection, "containers", record.id.as_str(), record),
        Change::RemoveContainer(id) => remove(connection, "containers", id.as_str()),
        Change::PutPod(record) => put(connection, "pods", record.id.as_str(), record),
        Change::RemovePod(id) => remove(connection, "pods", id.as_str()),
        Change::PutImage(record) => put(connection, "images", record.id.as_str(), record),
        Change::RemoveImage(id) => remove(connection, "images", id.as_str()),
        Change::PutNetwork(record) => put(connection, "networks", record.id.as_str(), record),
        Change::RemoveNetwork(id) => remove(connection, "networks", id.as_str()),
        Change::PutVolume(record) => put(connection, "volumes", record.name.as_str(), record),
        Change::RemoveVolume(name) => remove(connection, "volumes", name.as_str()),
        Change::PutLease(lease) => execute(
            connection,
            "put a lease",
            "INSERT INTO leases (network, address, owner) VALUES (?1, ?2, ?3)
             ON CONFLICT (network, address) DO UPDATE SET owner = excluded.owner",
            params![lease.network, lease.address.to_string(), lease.owner],
        ),
        Change::RemoveLeases { owner } => {
            execute(connection, "remove leases", "DELETE FROM leases WHERE owner = ?1", params![owner])
        }
        Change::PutNote { area, key, value } => execute(
            connection,
            "put a note",
            "INSERT INTO notes (area, key, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (area, key) DO UPDATE SET value = excluded.value",
            params![area, key, &value[..]],
        ),
        Change::RemoveNote { area, key } => execute(
            connection,
            "remove a note",
            "DELETE FROM notes WHERE area = ?1 AND key = ?2",
            params![area, key],
        ),
        Change::AppendEvent(event) => execute(
            connection,
            "append an event",
            "INSERT INTO events (time_ns, event) VALUES (?1, ?2)",
            params![super::nanoseconds(event.time), encode(event, "events", &event.id)?],
        ),
    }
}

fn put<T: Serialize>(
    connection: &Connection,
    table: &'static str,
    id: &str,
    record: &Arc<T>,
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO {table} (id, record) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = excluded.record"
    );
    execute(connection, "put a record", &sql, params![id, encode(&**record, table, id)?])
}

fn remove(connection: &Connection, table: &'static str, id: &str) -> Result<(), StoreError> {
    let sql = format!("DELETE FROM {table} WHERE id = ?1");
    execute(connection, "remove a record", &sql, params![id])
}

fn execute(
    connection: &Connection,
    step: &'static str,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<(), StoreError> {
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute(parameters)).step(step)?;
    Ok(())
}

fn encode<T: Serialize>(record: &T, table: &'static str, id: &str) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|source| StoreError::Encode {
        table,
        id: id.to_owned(),
        source: Arc::new(source),
    })
}
