//! The names that a shell completes. Another process reads them, so that whatever a cluster, a
//! credential plugin or a large file does, the shell waits for a bounded time and shows no error.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::{Args, CommandFactory as _, ValueEnum};

use crate::{
    command_line::CommandLine,
    completion::live_names,
    input::{Estate, EstateFamily, InputArguments, target::TargetName},
    output,
};

/// Name of the command that prints names.
pub const COMMAND: &str = "__names";
/// Environment variable with the number of seconds that a shell waits for names.
const SECONDS_VARIABLE: &str = "KUBECTL_FAMILY_COMPLETE_SECONDS";
/// How long a shell waits, if the variable says nothing.
const DEFAULT_SECONDS: u64 = 1;
/// Upper bound on what the variable says.
const MAX_SECONDS: u64 = 600;
/// Maximum number of bytes of names that are read.
const MAX_BYTES: u64 = 1 << 20;
/// Maximum number of names that are shown.
const MAX_NAMES: usize = 1000;

/// Which names an argument takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NameKind {
    /// FAMILY
    Family,
    /// FAMILY or FAMILY/IMAGE
    Scope,
    /// IMAGE or FAMILY/IMAGE
    Image,
    /// UPSTREAM
    Upstream,
    /// UPSTREAM, IMAGE or FAMILY/IMAGE
    Target,
    /// upstream.UPSTREAM=
    SetUpstream,
    /// A namespace
    Namespace,
    /// A context of the kubeconfig
    Context,
    /// A build strategy
    Strategy,
    /// A check of an image
    Check,
    /// The number of a build of an image
    Build,
    /// The number of a build of an image that was verified
    VerifiedBuild,
}

#[derive(Args, Debug)]
pub struct NamesArguments {
    /// Which names
    kind: NameKind,
    /// Beginning of the names
    #[arg(long, allow_hyphen_values = true)]
    current: String,
    /// Image whose checks or builds are named
    #[arg(long)]
    image: Option<TargetName>,
    #[command(flatten)]
    input: InputArguments,
}

/// Prints the names, one per line.
pub async fn print(arguments: NamesArguments) -> anyhow::Result<()> {
    let NamesArguments { kind, current, image, input } = &arguments;
    let names = match (kind, image) {
        (NameKind::Namespace, _) => Box::pin(live_names::namespaces(input)).await?,
        (NameKind::Context, _) => live_names::contexts(&input.kubectl_flags)?,
        (NameKind::Strategy, _) => Box::pin(live_names::strategies(input)).await?,
        (NameKind::Check, Some(image)) => Box::pin(live_names::checks(input, image)).await?,
        (NameKind::Build | NameKind::VerifiedBuild, Some(image)) => {
            let builds = Box::pin(live_names::builds(input, image)).await?;
            let is_named = |verified| verified || *kind == NameKind::Build;
            let named = builds.into_iter().filter(|(_, verified)| is_named(*verified));
            named.map(|(number, _)| number.to_string()).collect()
        }
        _ => {
            let estate = Box::pin(Estate::read_names(input)).await?;
            of_families(&estate.families, *kind, current).into_iter().collect()
        }
    };
    let names = names.into_iter().filter(|name| name.starts_with(current) && is_plain(name));
    let lines: Vec<String> = names.map(|name| name + "\n").collect();
    output::write(&lines.concat())?;
    Ok(())
}

/// Returns the names of this kind. An image is named without its family as long as `current` has no
/// slash and no other family has an image of this name.
fn of_families(families: &[EstateFamily], kind: NameKind, current: &str) -> BTreeSet<String> {
    let images = || {
        families.iter().flat_map(|family| {
            let images = family.family.spec.images.iter();
            images.map(move |image| (&family.name.name, &image.name))
        })
    };
    let upstreams = families.iter().flat_map(|family| &family.family.spec.upstreams);
    let mut names = BTreeSet::new();
    if matches!(kind, NameKind::Family | NameKind::Scope) {
        names.extend(families.iter().map(|family| family.name.name.clone()));
    }
    if matches!(kind, NameKind::Upstream | NameKind::Target) {
        names.extend(upstreams.map(|upstream| upstream.name.clone()));
    }
    if kind == NameKind::SetUpstream {
        let upstreams = families.iter().flat_map(|family| &family.family.spec.upstreams);
        names.extend(upstreams.map(|upstream| format!("upstream.{}=", upstream.name)));
    }
    let has_images = matches!(kind, NameKind::Scope | NameKind::Image | NameKind::Target);
    if current.contains('/') && has_images {
        names.extend(images().map(|(family, image)| format!("{family}/{image}")));
    } else if matches!(kind, NameKind::Image | NameKind::Target) {
        let mut counts: HashMap<&String, usize> = HashMap::new();
        for (_, image) in images() {
            *counts.entry(image).or_default() += 1;
        }
        names.extend(images().map(|(family, image)| match counts.get(image) {
            Some(1) => image.clone(),
            _ => format!("{family}/{image}"),
        }));
    }
    names
}

/// Returns whether a shell takes the name as it is. The names of a valid family are such names; a
/// shell would expand others, and take one that begins with a dash as a flag.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._/@:=".contains(c))
}

/// Returns the names that complete `current`, or none if they cannot be read in time.
pub fn ask(kind: NameKind, current: &OsStr) -> Vec<String> {
    let (Some(kind), Some(current)) = (kind.to_possible_value(), current.to_str()) else {
        return Vec::new();
    };
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").collect();
    let image = named_image(&words).map(|image| format!("--image={image}"));
    let child = Command::new(program)
        .args([COMMAND, kind.get_name(), &format!("--current={current}")])
        .args(image)
        .args(input_flags(&words))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return Vec::new() };
    let text = read_in_time(&mut child);
    _ = child.kill();
    _ = child.wait();
    text.lines().filter(|name| is_plain(name)).take(MAX_NAMES).map(str::to_owned).collect()
}

/// Returns what a process writes within the time limit, if it ends in that time.
fn read_in_time(child: &mut Child) -> String {
    let Some(output) = child.stdout.take() else { return String::new() };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = output.take(MAX_BYTES).read_to_string(&mut text);
        _ = sender.send(read.map(|_| text));
    });
    receiver.recv_timeout(time_limit()).ok().and_then(Result::ok).unwrap_or_default()
}

/// Returns how long the shell waits.
fn time_limit() -> Duration {
    let set = std::env::var(SECONDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    Duration::from_secs(set.unwrap_or(DEFAULT_SECONDS).min(MAX_SECONDS))
}

/// Returns the image that an unfinished line names.
fn named_image(words: &[OsString]) -> Option<String> {
    let line = words.iter().skip(1);
    let command = CommandLine::command().ignore_errors(true);
    let matches = command.try_get_matches_from(line).ok()?;
    let (_, of_command) = matches.subcommand()?;
    let mut images = ["image", "target"].into_iter().filter_map(|argument| {
        let mut values = of_command.try_get_raw(argument).ok()??;
        values.next()?.to_str()
    });
    images.next().map(str::to_owned)
}

/// Returns the flags of an unfinished line that say where the families are, with their values.
fn input_flags(words: &[OsString]) -> Vec<OsString> {
    let command = InputArguments::augment_args(clap::Command::new(COMMAND));
    let takes_value = |argument: &clap::Arg| argument.get_action().takes_values();
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else { continue };
        let (flag, has_value) = if let Some(long) = text.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
            let flag = command.get_arguments().find(|flag| flag.get_long() == Some(name));
            (flag, value.is_some())
        } else {
            let mut letters = text.chars();
            let short = letters.next().filter(|c| *c == '-').and_then(|_| letters.next());
            let flag = short
                .and_then(|short| command.get_arguments().find(|f| f.get_short() == Some(short)));
            (flag, !letters.as_str().is_empty())
        };
        let Some(flag) = flag else { continue };
        found.push(word.clone());
        if takes_value(flag) && !has_value {
            found.extend(words.next().cloned());
        }
    }
    found
}
