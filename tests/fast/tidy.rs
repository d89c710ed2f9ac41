//! House rules that the compiler does not know: one package has no crate walls.

use std::fs;
use std::path::{Path, PathBuf};

/// In files below `within` (and not below `except`), no code line may contain `forbidden`.
struct Rule {
    within: &'static str,
    except: &'static [&'static str],
    forbidden: &'static str,
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule { within: "src/engine", except: &[], forbidden: "crate::api", because: "the engine knows no door" },
    Rule {
        within: "src/engine",
        except: &[],
        forbidden: "crate::reconcile",
        because: "the engine knows no reconciler",
    },
    Rule {
        within: "src/api",
        except: &[],
        forbidden: "crate::reconcile",
        because: "doors ask through api/kube.rs",
    },
    Rule {
        within: "src/reconcile",
        except: &[],
        forbidden: "crate::api",
        because: "the reconciler knows no door",
    },
    Rule { within: "src/api", except: &[], forbidden: "rusqlite", because: "SQL lives in engine/store" },
    Rule {
        within: "src/reconcile",
        except: &[],
        forbidden: "rusqlite",
        because: "SQL lives in engine/store",
    },
    Rule {
        within: "src/engine",
        except: &["src/engine/store"],
        forbidden: "rusqlite",
        because: "SQL lives in engine/store",
    },
    Rule {
        within: "src/engine/runtime",
        except: &[],
        forbidden: "tokio::",
        because: "the launcher runs inside the single-threaded monitor",
    },
    Rule {
        within: "src/engine/runtime",
        except: &[],
        forbidden: "engine::store",
        because: "the monitor holds no store",
    },
    Rule {
        within: "src/engine/host",
        except: &[],
        forbidden: "tokio::",
        because: "the monitor uses it without an async runtime",
    },
    Rule {
        within: "src",
        except: &["src/engine/host", "src/engine/runtime"],
        forbidden: "unsafe {",
        because: "what is dangerous is fenced into engine/host and engine/runtime",
    },
    Rule {
        within: "src/reconcile",
        except: &[],
        forbidden: "Command::new",
        because: "unchanged means no process: everything goes through the engine",
    },
    Rule {
        within: "src/api",
        except: &[],
        forbidden: "Command::new",
        because: "handlers translate, the engine acts",
    },
];

#[test]
fn modules_keep_their_directions() {
    let mut broken = Vec::new();
    for rule in RULES {
        for file in rust_files(Path::new(rule.within)) {
            if rule.except.iter().any(|except| file.starts_with(except)) {
                continue;
            }
            for (number, line) in code_lines(&file) {
                if line.contains(rule.forbidden) {
                    broken.push(format!(
                        "{}:{number}: {:?}: {}",
                        file.display(),
                        rule.forbidden,
                        rule.because
                    ));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The monitor program links the library, so only its own folder can be checked for what it may use.
#[test]
fn the_monitors_inside_uses_no_async_runtime() {
    const DAEMON_SIDE: &[&str] = &[
        "src/engine/monitor/mod.rs",
        "src/engine/monitor/client.rs",
        "src/engine/monitor/session.rs",
        "src/engine/monitor/tests.rs",
    ];
    for file in rust_files(Path::new("src/engine/monitor")) {
        if DAEMON_SIDE.iter().any(|side| file.starts_with(side)) {
            continue;
        }
        for (number, line) in code_lines(&file) {
            assert!(
                !line.contains("tokio::"),
                "{}:{number}: the monitor has no async runtime",
                file.display()
            );
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<_> = rust_files(Path::new("src"))
        .into_iter()
        .filter(|file| {
            let text = fs::read_to_string(file).expect("read a source file");
            !text.trim_start().starts_with("//!")
        })
        .collect();
    assert!(silent.is_empty(), "these begin without a module comment: {silent:?}");
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    for file in rust_files(Path::new("tests")) {
        for (number, line) in code_lines(&file) {
            let sleeps =
                line.contains(concat!("thread::", "sleep")) || line.contains(concat!("time::", "sleep("));
            assert!(!sleeps, "{}:{number}: wait for a condition instead", file.display());
        }
    }
}

/// A test found nothing only if it looked.
#[test]
fn the_rules_look_at_real_folders() {
    for rule in RULES {
        assert!(!rust_files(Path::new(rule.within)).is_empty(), "{} has no files", rule.within);
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Lines with their numbers, without comments.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).expect("read a source file");
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line.to_owned()))
        .collect()
}
