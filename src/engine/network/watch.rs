//! Notices what others do to our bridges, links and table, and has it put right. One task; it sleeps until the
//! kernel tells of a change.

use std::io;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::netlink::{Reply, Socket, attribute_text};
use super::nft_wire::{NFNL_SUBSYS_NFTABLES, NFTA_TABLE_NAME};
use super::{NetworkError, Networks, Shared, bridge};
use crate::engine::error::Result;

/// `RTNLGRP_LINK` and `NFNLGRP_NFTABLES` as bits of the first 32 groups.
const LINK_GROUP: u32 = 1;
const NFTABLES_GROUP: u32 = 1 << 6;
const NFGENMSG_BYTES: usize = 4;
/// Whoever deletes one thing often deletes the next.
const SETTLE: Duration = Duration::from_millis(20);
/// After a failed repair.
const RETRY: Duration = Duration::from_secs(10);

#[expect(
    deprecated,
    reason = "its unsafe successor asks that the descriptor stays the same: a `Socket`'s does"
)]
pub(super) fn spawn(networks: &Networks) -> Result<()> {
    let open = |protocol, groups| {
        Socket::listen(protocol, groups).and_then(|socket| AsyncFd::with_interest(socket, Interest::READABLE))
    };
    let links = open(NETLINK_ROUTE, LINK_GROUP).map_err(NetworkError::Socket)?;
    let tables = open(NETLINK_NETFILTER, NFTABLES_GROUP).map_err(NetworkError::Socket)?;
    let own_port = networks.0.table.socket_port().map_err(NetworkError::Socket)?;
    let task = tokio::spawn(watch(Arc::downgrade(&networks.0), links, tables, own_port));
    let previous = networks.0.watch.lock().unwrap_or_else(PoisonError::into_inner).replace(task);
    if let Some(previous) = previous {
        previous.abort();
    }
    Ok(())
}

async fn watch(networks: Weak<Shared>, links: AsyncFd<Socket>, tables: AsyncFd<Socket>, own_port: u32) {
    loop {
        let heard = tokio::select! {
            heard = hear(&links) => heard.map(|replies| match networks.upgrade() {
                Some(shared) => replies.is_none_or(|replies| replies.iter().any(|r| concerns_links(&shared, r))),
                None => false,
            }),
            heard = hear(&tables) => heard.map(|replies| match networks.upgrade() {
                Some(shared) => {
                    replies.is_none_or(|replies| replies.iter().any(|r| concerns_table(&shared, r, own_port)))
                }
                None => false,
            }),
        };
        match heard {
            Ok(false) => continue,
            Ok(true) => tokio::time::sleep(SETTLE).await,
            Err(error) => {
                tracing::error!(%error, "changes of the host's network can no longer be watched");
                return;
            }
        }
        let Some(shared) = networks.upgrade() else { return };
        while let Err(error) = Networks(shared.clone()).repair().await {
            tracing::error!(error = %error.chain(), "the network could not be repaired; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// `None`: messages were lost, so anything may have happened.
async fn hear(socket: &AsyncFd<Socket>) -> io::Result<Option<Vec<Reply>>> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| socket.get_ref().notifications()) {
            Ok(Ok(replies)) => return Ok(Some(replies)),
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => continue,
        }
    }
}

fn concerns_links(shared: &Shared, reply: &Reply) -> bool {
    let Some(notified) = bridge::notified_link(reply) else { return false };
    let state = shared.state();
    let is_bridge = state.entries().any(|entry| {
        entry.bridge_index.is_some()
            && entry.record.bridge == notified.name
            && (notified.is_deleted || !notified.is_up)
    });
    let is_port = || {
        let interfaces = state.connections().filter_map(|connection| connection.status.as_ref());
        let mut interfaces = interfaces.flat_map(|status| &status.interfaces);
        interfaces.any(|interface| interface.host_interface == notified.name)
    };
    is_bridge || ((notified.is_deleted || notified.master.is_none()) && is_port())
}

fn concerns_table(shared: &Shared, reply: &Reply, own_port: u32) -> bool {
    let is_nftables = reply.kind >> 8 == NFNL_SUBSYS_NFTABLES;
    let table = reply.attributes(NFGENMSG_BYTES).find(NFTA_TABLE_NAME).map(attribute_text);
    is_nftables && reply.port != own_port && table.as_deref() == Some(shared.prefix.as_str())
}
