//! What can go wrong with networks, and which kind of failure each is.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::bridge::LinkError;
use super::ipam::AddressError;
use super::netlink::NetlinkError;
use super::ports::PortError;
use super::service::ServiceError;
use crate::engine::error::{EngineError, ErrorKind, Subject};
use crate::engine::host::HostError;
use crate::engine::store::StoreError;

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error("address {network}")]
    Address {
        /// `on network podman`, `of service default/web`
        network: String,
        #[source]
        source: AddressError,
    },
    #[error("publish ports")]
    Port(#[source] PortError),
    #[error("set up interfaces")]
    Link(#[source] LinkError),
    #[error("write nftables table {table}")]
    Table {
        table: String,
        #[source]
        source: NetlinkError,
    },
    #[error("enter the namespace")]
    Namespace(#[source] HostError),
    #[error("open {}", path.display())]
    OpenNamespace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("record addresses")]
    Store(#[source] StoreError),
    #[error("open netlink")]
    Socket(#[source] io::Error),
    #[error("listen for names on {gateway}")]
    Resolver {
        gateway: std::net::Ipv4Addr,
        #[source]
        source: io::Error,
    },
    #[error("service {name}")]
    Service {
        name: String,
        #[source]
        source: ServiceError,
    },
    #[error("remember the services in {}", path.display())]
    ServicesFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the task that does it ended early")]
    Aborted(#[source] tokio::task::JoinError),
}

impl NetworkError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Address { source, .. } => match source {
                AddressError::Taken { .. } | AddressError::Exhausted(_) | AddressError::PoolExhausted => {
                    ErrorKind::InUse
                }
                AddressError::Outside { .. }
                | AddressError::Reserved(_)
                | AddressError::TooSmall(_)
                | AddressError::NotASubnet(_) => ErrorKind::InvalidArgument,
                AddressError::Ipv6(_) => ErrorKind::NotSupported,
            },
            Self::Port(source) => match source {
                PortError::Taken { .. } | PortError::TakenOnHost { .. } | PortError::NoneFree(_) => {
                    ErrorKind::InUse
                }
                PortError::NotOurs { .. }
                | PortError::Beyond { .. }
                | PortError::ContainerPortZero
                | PortError::RangeWithoutHostPort(_)
                | PortError::NoWayOut => ErrorKind::InvalidArgument,
                PortError::Ipv6(_) => ErrorKind::NotSupported,
                PortError::Bind { .. } => ErrorKind::Internal,
            },
            Self::Link(LinkError::SubnetInUse { .. } | LinkError::NotABridge(_)) => ErrorKind::InUse,
            Self::Service { source, .. } => match source {
                ServiceError::Ipv6(_) => ErrorKind::NotSupported,
                ServiceError::SameAddress { .. } => ErrorKind::InUse,
                ServiceError::PortTwice(_) | ServiceError::PortZero => ErrorKind::InvalidArgument,
            },
            Self::Link(_)
            | Self::Table { .. }
            | Self::Namespace(_)
            | Self::OpenNamespace { .. }
            | Self::Store(_)
            | Self::Socket(_)
            | Self::Resolver { .. }
            | Self::ServicesFile { .. }
            | Self::Aborted(_) => ErrorKind::Internal,
        }
    }
}

impl From<NetworkError> for EngineError {
    fn from(error: NetworkError) -> Self {
        EngineError::new(error.kind(), Subject::Engine, "network").with_source(error)
    }
}
