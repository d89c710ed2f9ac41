//! What a container executes: the image's part and the request's part, merged as podman and docker do. Pure.

use std::collections::BTreeMap;

use oci_spec::image::Config as ImageConfig;
use thiserror::Error;

use super::spec::ContainerSpec;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// podman's words; docker says much the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no command or entrypoint provided, and no CMD or ENTRYPOINT from image")]
pub struct NoCommand;

/// Entrypoint and command in one. An entrypoint of the request drops the image's command.
pub fn arguments(spec: &ContainerSpec, image: Option<&ImageConfig>) -> Result<Vec<String>, NoCommand> {
    let of_image = |field: fn(&ImageConfig) -> &Option<Vec<String>>| {
        image.and_then(|image| field(image).clone()).unwrap_or_default()
    };
    let (entrypoint, command) = match (&spec.entrypoint, &spec.command) {
        (Some(entrypoint), command) => (entrypoint.clone(), command.clone().unwrap_or_default()),
        (None, Some(command)) => (of_image(ImageConfig::entrypoint), command.clone()),
        (None, None) => (of_image(ImageConfig::entrypoint), of_image(ImageConfig::cmd)),
    };
    let arguments = [entrypoint, command].concat();
    if arguments.is_empty() { Err(NoCommand) } else { Ok(arguments) }
}

/// The environment, `NAME=value`: defaults, over them the image's, over them the request's.
pub fn environment(
    spec: &ContainerSpec,
    image: Option<&ImageConfig>,
    hostname: &str,
    home: &str,
) -> Vec<String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        // What systemd and many scripts look for to know where they run.
        ("container".to_owned(), "podman".to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
        ("HOME".to_owned(), home.to_owned()),
    ]);
    if spec.terminal {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    if let Some(timezone) = &spec.timezone {
        env.insert("TZ".to_owned(), timezone.clone());
    }
    for variable in image.and_then(|image| image.env().as_ref()).into_iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    env.extend(spec.env.clone());
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Signal number of an image's `STOPSIGNAL`: `SIGQUIT`, `QUIT` or `3`, `SIGRTMIN+3`.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The C library keeps the first two real-time signals to itself.
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse::<i32>().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse::<i32>().ok()? };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// The signal that asks a container to end.
pub fn stop_signal(spec: &ContainerSpec, image: Option<&ImageConfig>) -> i32 {
    spec.stop_signal
        .or_else(|| image.and_then(|image| parse_signal(image.stop_signal().as_deref()?)))
        .unwrap_or(nix::libc::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::ConfigBuilder;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_command_merge() {
        // image entrypoint, image command, wanted entrypoint, wanted command, result
        let rows: &[(&str, &str, Option<&str>, Option<&str>, &str)] = &[
            ("", "sh", None, None, "sh"),
            ("ep", "cmd", None, None, "ep cmd"),
            ("ep", "cmd", None, Some("a b"), "ep a b"),
            ("ep", "cmd", Some("mine"), None, "mine"),
            ("ep", "cmd", Some("mine"), Some("a"), "mine a"),
            ("ep", "cmd", Some(""), Some("a"), "a"),
            ("ep", "cmd", None, Some(""), "ep"),
            ("", "cmd", Some(""), None, ""),
            ("", "", None, None, ""),
            ("", "cmd", None, Some(""), ""),
        ];
        for (entrypoint, command, wanted_entrypoint, wanted_command, result) in rows {
            let image =
                ConfigBuilder::default().entrypoint(words(entrypoint)).cmd(words(command)).build().unwrap();
            let mut spec = ContainerSpec::new("x");
            spec.entrypoint = wanted_entrypoint.map(words);
            spec.command = wanted_command.map(words);
            let merged = arguments(&spec, Some(&image)).unwrap_or_default();
            assert_eq!(
                merged,
                words(result),
                "{entrypoint:?} {command:?} {wanted_entrypoint:?} {wanted_command:?}"
            );
        }
        assert_eq!(arguments(&ContainerSpec::new("x"), None), Err(NoCommand));
    }

    #[test]
    fn later_environment_wins() {
        let image = ConfigBuilder::default()
            .env(["A=image".to_owned(), "B=image=x".into(), "PATH=/image".into(), "odd".into()])
            .build()
            .unwrap();
        let mut spec = ContainerSpec::new("x");
        spec.env = BTreeMap::from([("A".to_owned(), "request".to_owned())]);
        let env = environment(&spec, Some(&image), "host", "/root");
        for expected in
            ["A=request", "B=image=x", "PATH=/image", "HOSTNAME=host", "HOME=/root", "container=podman"]
        {
            assert!(env.iter().any(|variable| variable == expected), "{expected} in {env:?}");
        }
        assert!(!env.iter().any(|variable| variable.starts_with("TERM=")));
        spec.terminal = true;
        assert!(environment(&spec, None, "h", "/").contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn signals_by_name_and_number() {
        for (text, signal) in [
            ("15", Some(15)),
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("QUIT", Some(3)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("64", Some(64)),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("SIGNOPE", None),
            ("", None),
            ("RTMIN+31", None),
        ] {
            assert_eq!(parse_signal(text), signal, "{text:?}");
        }
        let image = ConfigBuilder::default().stop_signal("SIGQUIT").build().unwrap();
        let mut spec = ContainerSpec::new("x");
        assert_eq!(stop_signal(&spec, None), 15);
        assert_eq!(stop_signal(&spec, Some(&image)), 3);
        spec.stop_signal = Some(10);
        assert_eq!(stop_signal(&spec, Some(&image)), 10);
    }
}
