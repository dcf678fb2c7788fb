//! What the commands of `RUN` do, as far as a lint needs it: which packages they install and
//! remove, and what they clean. What it does not recognise, it does not report.

use groundswell::builds::dockerfile::Instruction;

use crate::lint::shell::{ShellCommand, ShellWord, commands};

/// A package that a `RUN` installs, and does not remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledPackage {
    pub name: String,
    pub manager: PackageManager,
    pub line: usize,
}

/// A program that installs packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageManager {
    Apt,
    Apk,
    /// dnf, microdnf and yum.
    Dnf,
    Pip,
}

/// Options of apt that have a value.
const APT_VALUES: [&str; 9] = [
    "-a",
    "-c",
    "-o",
    "-t",
    "--config-file",
    "--default-release",
    "--host-architecture",
    "--option",
    "--target-release",
];
/// Options of apk that have a value, without `-t` and `--virtual`, which name a package.
const APK_VALUES: [&str; 11] = [
    "-X",
    "-p",
    "--arch",
    "--cache-dir",
    "--cache-max-age",
    "--keys-dir",
    "--progress-fd",
    "--repositories-file",
    "--repository",
    "--root",
    "--wait",
];
/// Options of dnf that have a value.
const DNF_VALUES: [&str; 16] = [
    "-c",
    "-x",
    "--arch",
    "--config",
    "--disablerepo",
    "--enablerepo",
    "--exclude",
    "--forcearch",
    "--installroot",
    "--nodocs-for",
    "--releasever",
    "--repo",
    "--repofrompath",
    "--repoid",
    "--setopt",
    "--comment",
];
/// Options of pip that have a value.
const PIP_VALUES: [&str; 20] = [
    "-c",
    "-d",
    "-e",
    "-f",
    "-i",
    "-r",
    "-t",
    "--cache-dir",
    "--constraint",
    "--editable",
    "--extra-index-url",
    "--find-links",
    "--index-url",
    "--prefix",
    "--proxy",
    "--requirement",
    "--root",
    "--src",
    "--target",
    "--trusted-host",
];

impl PackageManager {
    fn of(program: &str) -> Option<Self> {
        Some(match program {
            "apt-get" | "apt" => Self::Apt,
            "apk" => Self::Apk,
            "dnf" | "microdnf" | "yum" => Self::Dnf,
            "pip" | "pip3" => Self::Pip,
            _ => return None,
        })
    }

    const fn options_with_values(self) -> &'static [&'static str] {
        match self {
            Self::Apt => &APT_VALUES,
            Self::Apk => &APK_VALUES,
            Self::Dnf => &DNF_VALUES,
            Self::Pip => &PIP_VALUES,
        }
    }

    /// Returns the folder in which it leaves what it has downloaded.
    pub const fn cache(self) -> &'static str {
        match self {
            Self::Apt => "/var/lib/apt/lists",
            Self::Apk => "/var/cache/apk",
            Self::Dnf => "/var/cache",
            Self::Pip => "/root/.cache/pip",
        }
    }

    /// Returns the folders of which each removal cleans.
    const fn cleaned(self) -> &'static [&'static str] {
        match self {
            Self::Apt => &["/var/lib/apt/lists"],
            Self::Apk => &["/var/cache/apk", "/etc/apk/cache"],
            Self::Dnf => &["/var/cache/dnf", "/var/cache/yum", "/var/cache/libdnf5"],
            Self::Pip => &["/root/.cache/pip", "~/.cache/pip", "$HOME/.cache/pip"],
        }
    }

    /// Returns what leaves no cache behind.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Apt => "end the RUN with `rm -rf /var/lib/apt/lists/*`",
            Self::Apk => "use `apk add --no-cache`",
            Self::Dnf => "end the RUN with `dnf clean all`",
            Self::Pip => "use `pip install --no-cache-dir`",
        }
    }
}

/// A command of a package manager.
struct PackageCommand<'c> {
    manager: PackageManager,
    verb: &'c str,
    options: Vec<&'c str>,
    /// The packages without versions; `None` stands for what the shell would expand.
    packages: Vec<Option<String>>,
    /// The name of apk for all packages of the command.
    group: Option<&'c str>,
}

impl<'c> PackageCommand<'c> {
    fn of(command: &'c ShellCommand) -> Option<Self> {
        let (mut manager, mut words) =
            (PackageManager::of(command.program()), command.arguments().iter().peekable());
        // `python3 -m pip install`
        if manager.is_none() && command.program().starts_with("python") {
            words.next_if(|word| word.text == "-m")?;
            manager = words.next().and_then(|word| PackageManager::of(&word.text));
        }
        let manager = manager?;
        let mut found =
            Self { manager, verb: "", options: Vec::new(), packages: Vec::new(), group: None };
        while let Some(word) = words.next() {
            let text = word.text.as_str();
            if text.starts_with('-') && text.len() > 1 {
                found.options.push(text);
                if manager == PackageManager::Apk && matches!(text, "-t" | "--virtual") {
                    found.group = words.next().map(|word| word.text.as_str());
                } else if let Some(name) = text.strip_prefix("--virtual=") {
                    found.group = Some(name).filter(|_| manager == PackageManager::Apk);
                } else if manager.options_with_values().contains(&text) {
                    words.next();
                }
            } else if found.verb.is_empty() {
                found.verb = text;
            } else {
                found.add_package(word);
            }
        }
        Some(found)
    }

    fn add_package(&mut self, word: &ShellWord) {
        if word.is_expanded || word.text.contains('*') {
            self.packages.push(None);
            return;
        }
        let is_file = word.text.starts_with('/') || word.text.starts_with("./");
        let name = word.text.split(['=', '<', '>', '~', '[', '/', '@', '!', ';']).next();
        if let Some(name) = name.filter(|name| !name.is_empty() && !is_file)
            && !word.text.contains("://")
        {
            self.packages.push(Some(name.to_owned()));
        }
    }

    fn installs(&self) -> bool {
        let verb = if self.manager == PackageManager::Apk { "add" } else { "install" };
        self.verb == verb
    }

    fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    /// Whether it removes packages.
    fn removes(&self) -> bool {
        match self.manager {
            PackageManager::Apt => {
                matches!(self.verb, "remove" | "purge" | "autoremove" | "auto-remove" | "autopurge")
            }
            PackageManager::Apk => self.verb == "del",
            PackageManager::Dnf => matches!(self.verb, "remove" | "erase" | "autoremove"),
            PackageManager::Pip => self.verb == "uninstall",
        }
    }

    /// Whether it removes what nothing needs.
    fn removes_unneeded(&self) -> bool {
        matches!(self.verb, "autoremove" | "auto-remove" | "autopurge")
            || self.removes() && (self.has("--auto-remove") || self.has("--autoremove"))
    }

    /// Whether it leaves no cache of its own.
    fn has_no_cache(&self) -> bool {
        let is_off = |option: &&str| {
            matches!(*option, "--no-cache" | "--no-network" | "--no-cache-dir")
                || option.starts_with("--no-cache-dir=")
        };
        self.options.iter().any(is_off)
    }
}

/// Returns the packages of distributions that a `RUN` installs and does not remove.
pub fn installed_packages(run: &Instruction) -> Vec<InstalledPackage> {
    let commands = run_commands(run);
    let mut installed = Vec::new();
    for (position, command) in commands.iter().enumerate() {
        let Some(install) = PackageCommand::of(command).filter(PackageCommand::installs) else {
            continue;
        };
        let manager = install.manager;
        let later = commands.get(position + 1..).unwrap_or_default();
        let is_kept =
            |name: &&String| manager != PackageManager::Pip && !is_removed(&install, name, later);
        let names = install.packages.iter().flatten().filter(is_kept);
        installed.extend(names.map(|name| InstalledPackage {
            name: name.clone(),
            manager,
            line: run.line,
        }));
    }
    installed
}

/// Whether later commands of the same `RUN` remove a package again. What is not known counts as a
/// removal.
fn is_removed(install: &PackageCommand<'_>, name: &str, later: &[ShellCommand]) -> bool {
    let mut is_automatic = false;
    for command in later {
        // What is not marked as wanted after that is removed with what nothing needs.
        if command.program() == "apt-mark" && command.has("auto") {
            is_automatic |= command.arguments().iter().any(|word| {
                word.is_expanded || word.text == name || word.text.contains(['*', '.'])
            });
            continue;
        }
        let Some(removal) = PackageCommand::of(command) else { continue };
        if removal.manager != install.manager {
            continue;
        }
        let is_undone = removal.manager == PackageManager::Dnf
            && removal.verb == "history"
            && removal.packages.iter().flatten().any(|word| word == "undo");
        let is_named = removal.removes()
            && removal.packages.iter().any(|package| match package {
                Some(package) => package == name || install.group == Some(package.as_str()),
                None => true,
            });
        if is_undone || is_named || is_automatic && removal.removes_unneeded() {
            return true;
        }
    }
    false
}

/// Whether pip keeps what it downloads, by the variables of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipCache {
    Kept,
    /// `PIP_NO_CACHE_DIR` is set.
    Off,
}

/// Returns the first package manager whose cache a `RUN` leaves in its layer.
pub fn left_cache(run: &Instruction, pip: PipCache) -> Option<PackageManager> {
    let is_mounted = run
        .values("mount")
        .any(|mount| mount.contains("type=cache") || mount.contains("type=tmpfs"));
    if is_mounted {
        return None;
    }
    let commands = run_commands(run);
    let mut is_pip_off = pip == PipCache::Off;
    for (position, command) in commands.iter().enumerate() {
        let disables_cache =
            command.settings.iter().any(|one| one.starts_with("PIP_NO_CACHE_DIR="));
        is_pip_off |= disables_cache && command.words.is_empty();
        let Some(install) = PackageCommand::of(command).filter(PackageCommand::installs) else {
            continue;
        };
        let manager = install.manager;
        let is_off = manager == PackageManager::Pip && (is_pip_off || disables_cache);
        let later = commands.get(position + 1..).unwrap_or_default();
        let is_cleaned = later.iter().any(|command| cleans(command, manager));
        if !is_off && !install.has_no_cache() && !is_cleaned {
            return Some(manager);
        }
    }
    None
}

/// Whether a command removes the cache of a package manager.
fn cleans(command: &ShellCommand, manager: PackageManager) -> bool {
    let removes = |word: &ShellWord| {
        expanded_braces(&word.text).iter().any(|path| {
            let path = path.trim_end_matches(['*', '/']).replace("${HOME}", "$HOME");
            let is_at_or_below = |cache: &&str| {
                cache.strip_prefix(path.as_str()).is_some_and(|rest| {
                    !path.is_empty() && (rest.is_empty() || rest.starts_with('/'))
                })
            };
            manager.cleaned().iter().any(is_at_or_below)
        })
    };
    match command.program() {
        "rm" => command.arguments().iter().any(removes),
        "find" => {
            (command.has("-delete") || command.has("rm")) && command.arguments().iter().any(removes)
        }
        _ => PackageCommand::of(command).is_some_and(|command| {
            let argument = command.packages.iter().flatten().next().map(String::as_str);
            command.manager == manager
                && match manager {
                    PackageManager::Apt => matches!(command.verb, "dist-clean" | "distclean"),
                    PackageManager::Apk => {
                        command.verb == "cache" && matches!(argument, Some("clean" | "purge"))
                    }
                    PackageManager::Dnf => {
                        command.verb == "clean" && matches!(argument, Some("all"))
                    }
                    PackageManager::Pip => {
                        command.verb == "cache" && matches!(argument, Some("purge"))
                    }
                }
        }),
    }
}

/// Returns what a word with braces stands for: `/a/{b,c}` is `/a/b` and `/a/c`.
fn expanded_braces(word: &str) -> Vec<String> {
    const MAX_EXPANDED: usize = 64;
    let (mut done, mut open) = (Vec::new(), vec![word.to_owned()]);
    while let Some(word) = open.pop() {
        let parts = word.find('{').and_then(|begin| {
            let end = begin + word.get(begin..)?.find('}')?;
            Some((word.get(..begin)?, word.get(begin + 1..end)?, word.get(end + 1..)?))
        });
        match parts {
            Some((before, choices, after))
                if choices.contains(',') && done.len() + open.len() < MAX_EXPANDED =>
            {
                open.extend(choices.split(',').map(|one| format!("{before}{one}{after}")));
            }
            _ => done.push(word),
        }
    }
    done
}

/// Returns the command of a `RUN` that installs the dependencies of a program, as its lock file or
/// its manifest names them.
pub fn dependency_command(run: &Instruction) -> Option<String> {
    run_commands(run).iter().find_map(|command| {
        let words: Vec<&str> = command.arguments().iter().map(|word| word.text.as_str()).collect();
        let verb = words.iter().find(|word| !word.starts_with('-')).copied();
        let named = words.iter().filter(|word| !word.starts_with('-')).count();
        let is_global = command.has("-g") || command.has("--global");
        let program = command.program();
        let installs = match (program, verb) {
            ("npm", Some("ci"))
            | ("bundle" | "composer" | "poetry", Some("install"))
            | ("cargo", Some("fetch")) => true,
            // With names, it reads no lock file of the context.
            ("npm" | "pnpm" | "bun", Some("install" | "i")) => !is_global && named == 1,
            ("yarn", Some("install") | None) => named <= 1 && !command.has("--version"),
            ("go", Some("mod")) => words.contains(&"download"),
            ("mvn", Some(goal)) => goal.starts_with("dependency"),
            ("pip" | "pip3", Some("install")) => {
                words.iter().any(|word| word.starts_with("-r") || word.starts_with("--requirement"))
            }
            _ => false,
        };
        installs.then(|| format!("{program} {}", verb.unwrap_or_default()).trim_end().to_owned())
    })
}

/// Returns the commands of a `RUN`, also if they are in a here-document or in JSON.
fn run_commands(run: &Instruction) -> Vec<ShellCommand> {
    match serde_json::from_str::<Vec<String>>(&run.rest) {
        Ok(words) => {
            let quoted = |word: String| format!("'{}'", word.replace('\'', "'\\''"));
            commands(&words.into_iter().map(quoted).collect::<Vec<_>>().join(" "))
        }
        Err(_) => commands(&[run.rest.as_str(), run.heredocs.as_str()].concat()),
    }
}
