//! The small static program that launches one container and stays with it.

use std::process::ExitCode;

fn main() -> ExitCode {
    selkie::engine::monitor::process::main()
}
