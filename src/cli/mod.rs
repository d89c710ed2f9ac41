//! The command line: podman's verbs and flags where they exist, plus `up`, `plan`, `apply`, `status`.
//!
//! `up` and `system service` are the daemon; everything else is a client of its socket.

mod client;
mod containers;
mod daemon;
mod images;
mod kube;
mod render;
mod settings;
mod stack;
mod system;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use client::{ApiError, Client};
use settings::{BadSettings, GlobalFlags};

/// The exit code of podman and docker for "the engine failed, not the container".
const EXIT_ENGINE: u8 = 125;
/// `plan`: there are differences.
const EXIT_DIFFERENCES: u8 = 2;
/// The settings file is wrong (`EX_CONFIG` of sysexits.h): the systemd unit does not restart on it.
const EXIT_BAD_SETTINGS: u8 = 78;

/// Runs Kubernetes YAML from a directory on this machine, and keeps it running.
#[derive(Debug, Parser)]
#[command(name = "selkie", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: make the machine match DIR and keep it so
    Up(daemon::Up),
    /// Show what a pass over DIR would change, and why; exits 0 in sync, 2 with differences, 1 on errors
    Plan(stack::Plan),
    /// Make one pass over DIR and wait for it
    Apply(stack::Apply),
    /// Show stacks, pods and containers, and what is wrong with them
    Status(stack::Status),
    /// Kubernetes YAML without a directory: play, down, generate
    #[command(subcommand)]
    Kube(kube::Kube),
    /// `generate kube`, as podman has it
    #[command(subcommand)]
    Generate(kube::Generate),
    /// The daemon's doors and facts about the machine
    #[command(subcommand)]
    System(system::System),
    /// List containers
    Ps(containers::Ps),
    /// Print a container's log
    Logs(containers::Logs),
    /// Create and start a container
    Run(Box<containers::Run>),
    /// Start containers
    Start(containers::Start),
    /// Stop containers
    Stop(containers::Stop),
    /// Give a container another name
    Rename(containers::Rename),
    /// Remove containers
    Rm(containers::Rm),
    /// Print everything about a container, image, pod or volume as JSON
    Inspect(containers::Inspect),
    /// List images
    Images(images::Images),
    /// Fetch an image from a registry
    Pull(images::Pull),
    /// Send an image to a registry
    Push(images::Push),
    /// Load images from an archive
    Load(images::Load),
    /// Write images to an archive
    Save(images::Save),
    /// Give an image further names
    Tag(images::Tag),
    /// Remove images
    Rmi(images::Rmi),
    /// Versions of client and daemon
    Version(system::Version),
}

impl Cli {
    /// Runs the command; its exit code is the program's.
    pub fn run(self) -> ExitCode {
        let fallback = self.command.failure_code();
        match self.dispatch() {
            Ok(code) => code,
            Err(error) => {
                eprintln!("Error: {}", one_line(&error));
                ExitCode::from(exit_code(&error, fallback))
            }
        }
    }

    fn dispatch(self) -> Result<ExitCode> {
        let Self { global, command } = self;
        match command {
            Command::Up(up) => daemon::run(&global, up.into()),
            Command::System(system::System::Service(service)) => daemon::run(&global, service.into()),
            command => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(command.run_client(&global)),
        }
    }
}

impl Command {
    async fn run_client(self, global: &GlobalFlags) -> Result<ExitCode> {
        if let Self::System(system::System::Support) = self {
            return system::print_support();
        }
        let client = Client::connect(global).await?;
        match self {
            Self::Plan(command) => command.run(&client).await,
            Self::Apply(command) => command.run(&client).await,
            Self::Status(command) => command.run(&client).await,
            Self::Kube(command) => command.run(&client).await,
            Self::Generate(command) => command.run(&client).await,
            Self::System(command) => command.run(&client).await,
            Self::Ps(command) => command.run(&client).await,
            Self::Logs(command) => command.run(&client).await,
            Self::Run(command) => command.run(&client).await,
            Self::Start(command) => command.run(&client).await,
            Self::Stop(command) => command.run(&client).await,
            Self::Rename(command) => command.run(&client).await,
            Self::Rm(command) => command.run(&client).await,
            Self::Inspect(command) => command.run(&client).await,
            Self::Images(command) => command.run(&client).await,
            Self::Pull(command) => command.run(&client).await,
            Self::Push(command) => command.run(&client).await,
            Self::Load(command) => command.run(&client).await,
            Self::Save(command) => command.run(&client).await,
            Self::Tag(command) => command.run(&client).await,
            Self::Rmi(command) => command.run(&client).await,
            Self::Version(command) => command.run(&client).await,
            Self::Up(_) => unreachable!("the daemon is dispatched before a client connects"),
        }
    }

    /// The exit code for a failure that is not the container's own: podman's 125 for its container
    /// commands, 1 for the rest.
    fn failure_code(&self) -> u8 {
        match self {
            Self::Ps(_)
            | Self::Logs(_)
            | Self::Run(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::Rename(_)
            | Self::Rm(_)
            | Self::Inspect(_)
            | Self::Images(_)
            | Self::Pull(_)
            | Self::Push(_)
            | Self::Load(_)
            | Self::Save(_)
            | Self::Tag(_)
            | Self::Rmi(_)
            | Self::Kube(_)
            | Self::Generate(_) => EXIT_ENGINE,
            Self::Up(_)
            | Self::Plan(_)
            | Self::Apply(_)
            | Self::Status(_)
            | Self::System(_)
            | Self::Version(_) => 1,
        }
    }
}

fn exit_code(error: &anyhow::Error, fallback: u8) -> u8 {
    if error.downcast_ref::<BadSettings>().is_some() { EXIT_BAD_SETTINGS } else { fallback }
}

/// The chain of causes on one line.
fn one_line(error: &anyhow::Error) -> String {
    match error.downcast_ref::<ApiError>() {
        // Already a whole chain, made by the daemon.
        Some(api) => api.to_string(),
        None => format!("{error:#}"),
    }
}

/// A directory as the daemon, whose working directory is another, must be told of it.
fn absolute(directory: &std::path::Path) -> Result<PathBuf> {
    Ok(std::path::absolute(directory)?)
}
