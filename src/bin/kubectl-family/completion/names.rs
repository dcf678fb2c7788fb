//! The names that a shell completes. Another process reads them, so that whatever a cluster, a
//! credential plugin or a large file does, the shell waits at most for [`TIME_LIMIT`] and shows no
//! error.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::{
    input::{Estate, EstateFamily, InputArguments},
    output,
};

/// Name of the command that prints names.
pub const COMMAND: &str = "__names";
/// How long a shell waits for names.
const TIME_LIMIT: Duration = Duration::from_secs(1);
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
}

#[derive(Args, Debug)]
pub struct NamesArguments {
    /// Which names
    kind: NameKind,
    /// Beginning of the names
    #[arg(long, allow_hyphen_values = true)]
    current: String,
    #[command(flatten)]
    input: InputArguments,
}

/// Prints the names of the input, one per line.
pub async fn print(arguments: NamesArguments) -> anyhow::Result<()> {
    let estate = Box::pin(Estate::read_names(&arguments.input)).await?;
    let names = matching(&estate.families, arguments.kind, &arguments.current);
    let lines: Vec<String> = names.into_iter().map(|name| name + "\n").collect();
    output::write(&lines.concat())?;
    Ok(())
}

/// Returns the names of this kind that begin with `current`. An image is named without its family
/// as long as `current` has no slash and no other family has an image of this name.
fn matching(families: &[EstateFamily], kind: NameKind, current: &str) -> BTreeSet<String> {
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
    if current.contains('/') && kind != NameKind::Family && kind != NameKind::Upstream {
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
    names.retain(|name| name.starts_with(current) && is_plain(name));
    names
}

/// Returns whether a shell takes the name as it is. The names of a valid family are such names; a
/// shell would expand others.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c))
}

/// Returns the names that complete `current`, or none if they cannot be read in time.
pub fn ask(kind: NameKind, current: &OsStr) -> Vec<String> {
    let (Some(kind), Some(current)) = (kind.to_possible_value(), current.to_str()) else {
        return Vec::new();
    };
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").collect();
    let child = Command::new(program)
        .args([COMMAND, kind.get_name(), &format!("--current={current}")])
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
    receiver.recv_timeout(TIME_LIMIT).ok().and_then(Result::ok).unwrap_or_default()
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
