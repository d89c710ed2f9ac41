//! Opening a database: pragmas, migrations, and reading everything once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use serde::de::DeserializeOwned;

use super::{Lease, Snapshot, StoreError, StoreResultExt};

/// Every change of the schema, in order; its version is its position, from 1. Never edit one that was released.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_initial.sql")];

/// Another process (an operator's sqlite3 shell) may hold the database for this long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the one connection that writes, creating or upgrading the database.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path).step("open the database")?;
    connection.busy_timeout(BUSY_TIMEOUT).step("set the busy timeout")?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .step("switch the database to write-ahead logging")?;
    if mode != "wal" {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("journal mode stays {mode:?}"),
        });
    }
    // FULL: a commit that returned survives a power cut. NORMAL would lose the tail.
    connection.pragma_update(None, "synchronous", "FULL").step("ask for full durability")?;
    let check: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .step("check the database for damage")?;
    if check != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), detail: check });
    }
    migrate(&mut connection, MIGRATIONS)?;
    Ok(connection)
}

/// Opens a connection for the journal's readers.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .step("open the database for reading")?;
    connection.busy_timeout(BUSY_TIMEOUT).step("set the busy timeout")?;
    Ok(connection)
}

/// Brings the schema to the newest version of `migrations`, each step in its own transaction.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let known = migrations.len() as u32;
    let found: u32 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .step("read the schema's version")?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for (index, sql) in migrations.iter().enumerate().skip(found as usize) {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).step("begin a migration")?;
        transaction.execute_batch(sql).step("migrate the schema")?;
        transaction
            .pragma_update(None, "user_version", index as u32 + 1)
            .step("record the schema's version")?;
        transaction.commit().step("commit a migration")?;
    }
    Ok(())
}

pub(super) fn read_snapshot(connection: &Connection) -> Result<Snapshot, StoreError> {
    Ok(Snapshot {
        containers: read_records(connection, "containers")?,
        pods: read_records(connection, "pods")?,
        images: read_records(connection, "images")?,
        networks: read_records(connection, "networks")?,
        volumes: read_records(connection, "volumes")?,
        leases: read_leases(connection)?,
        notes: read_notes(connection)?,
    })
}

fn read_records<T: DeserializeOwned>(
    connection: &Connection,
    table: &'static str,
) -> Result<Vec<T>, StoreError> {
    let mut statement =
        connection.prepare(&format!("SELECT id, record FROM {table} ORDER BY id")).step("read records")?;
    let mut rows = statement.query([]).step("read records")?;
    let mut records = Vec::new();
    while let Some(row) = rows.next().step("read records")? {
        let id: String = row.get(0).step("read records")?;
        let record: String = row.get(1).step("read records")?;
        records.push(serde_json::from_str(&record).map_err(|source| StoreError::Record {
            table,
            id,
            source: Arc::new(source),
        })?);
    }
    Ok(records)
}

fn read_leases(connection: &Connection) -> Result<Vec<Lease>, StoreError> {
    let mut statement =
        connection.prepare("SELECT network, address, owner FROM leases").step("read leases")?;
    let mut rows = statement.query([]).step("read leases")?;
    let mut leases = Vec::new();
    while let Some(row) = rows.next().step("read leases")? {
        let network: String = row.get(0).step("read leases")?;
        let address: String = row.get(1).step("read leases")?;
        let owner: String = row.get(2).step("read leases")?;
        let address = address.parse().map_err(|_| StoreError::Lease {
            network: network.clone(),
            address,
            owner: owner.clone(),
        })?;
        leases.push(Lease { network, address, owner });
    }
    Ok(leases)
}

type Notes = BTreeMap<String, BTreeMap<String, Arc<[u8]>>>;

fn read_notes(connection: &Connection) -> Result<Notes, StoreError> {
    let mut statement = connection.prepare("SELECT area, key, value FROM notes").step("read notes")?;
    let mut rows = statement.query([]).step("read notes")?;
    let mut notes = Notes::new();
    while let Some(row) = rows.next().step("read notes")? {
        let area: String = row.get(0).step("read notes")?;
        let key: String = row.get(1).step("read notes")?;
        let value: Vec<u8> = row.get(2).step("read notes")?;
        notes.entry(area).or_default().insert(key, value.into());
    }
    Ok(notes)
}
