//! What the commands of `RUN` do, as far as a lint needs it: which packages they install and what
//! they clean. This is not a shell: what it does not recognise, it does not report.

use groundswell::builds::dockerfile::Instruction;

/// A package that a `RUN` installs.
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

impl PackageManager {
    /// Returns the folder in which it leaves what it has downloaded.
    pub const fn cache(self) -> &'static str {
        match self {
            Self::Apt => "/var/lib/apt/lists",
            Self::Apk => "/var/cache/apk",
            Self::Dnf => "/var/cache",
            Self::Pip => "/root/.cache/pip",
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

/// A command that installs packages.
pub struct InstallCommand<'a> {
    pub manager: PackageManager,
    words: Vec<&'a str>,
}

/// Returns the commands of a `RUN` that install packages.
pub fn install_commands(text: &str) -> Vec<InstallCommand<'_>> {
    let commands = text.split(['\n', ';', '|', '&']);
    commands.filter_map(install_command).collect()
}

fn install_command(command: &str) -> Option<InstallCommand<'_>> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let is_option = |word: &&str| word.starts_with('-') || word.contains('=');
    let program = words.iter().position(|word| !is_option(word) && *word != "sudo")?;
    let name = words.get(program)?.rsplit('/').next()?;
    let (manager, verb) = match name {
        "apt-get" | "apt" => (PackageManager::Apt, "install"),
        "apk" => (PackageManager::Apk, "add"),
        "dnf" | "microdnf" | "yum" => (PackageManager::Dnf, "install"),
        "pip" | "pip3" => (PackageManager::Pip, "install"),
        _ => return None,
    };
    let rest = words.get(program + 1..)?;
    rest.iter().find(|word| !is_option(word)).filter(|word| **word == verb)?;
    Some(InstallCommand { manager, words: rest.to_vec() })
}

impl InstallCommand<'_> {
    /// Returns whether an option is given.
    pub fn has(&self, option: &str) -> bool {
        self.words.contains(&option)
    }

    /// Returns the packages, without versions. What a shell would expand is left out.
    fn packages(&self) -> Vec<String> {
        let mut words = self.words.iter().skip_while(|word| word.starts_with('-')).skip(1);
        let mut packages = Vec::new();
        while let Some(word) = words.next() {
            match *word {
                // The name of a virtual package, or of a file, follows.
                "-t" | "--virtual" | "-r" | "--requirement" | "-c" => _ = words.next(),
                word if word.starts_with(['-', '.', '/']) || word.contains(['$', '*']) => {}
                // A redirection.
                word if word.starts_with('>') || word.starts_with("2>") => {}
                word => {
                    let name =
                        word.split(['=', '<', '>', '~', '[', '/']).next().unwrap_or_default();
                    let name = name.trim_matches(['"', '\'']);
                    if !name.is_empty() {
                        packages.push(name.to_owned());
                    }
                }
            }
        }
        packages
    }
}

/// Returns the packages of distributions that a `RUN` installs.
pub fn installed_packages(run: &Instruction) -> Vec<InstalledPackage> {
    let text = script(run);
    let commands = install_commands(&text).into_iter();
    commands
        .filter(|command| command.manager != PackageManager::Pip)
        .flat_map(|command| {
            let manager = command.manager;
            let packages = command.packages().into_iter();
            packages.map(move |name| InstalledPackage { name, manager, line: run.line })
        })
        .collect()
}

/// Returns the commands of a `RUN`, also if they are in a here-document or in JSON.
pub fn script(run: &Instruction) -> String {
    match serde_json::from_str::<Vec<String>>(&run.rest) {
        Ok(words) => words.join(" "),
        Err(_) => [run.rest.as_str(), run.heredocs.as_str()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use groundswell::builds::dockerfile::parse_instructions;

    use super::*;

    fn packages(run: &str) -> Vec<String> {
        let (instructions, _) = parse_instructions(&format!("RUN {run}\n")).expect("instructions");
        installed_packages(&instructions[0]).into_iter().map(|package| package.name).collect()
    }

    #[test]
    fn installed_packages_are_found() {
        for (run, expected) in [
            (
                "apt-get update && apt-get install -y --no-install-recommends curl=8.1 git",
                "curl git",
            ),
            ("set -eux; \\\n  A=x apt-get -y install \\\n   make \\\n  # why\n  gcc", "make gcc"),
            ("apk add --no-cache --virtual .build gcc 'musl-dev>1.2'", "gcc musl-dev"),
            ("sudo dnf install -y openssl && dnf clean all", "openssl"),
            ("<<EOF\napt-get install -y jq\nEOF", "jq"),
            ("[\"apt-get\", \"install\", \"tree\"]", "tree"),
            ("/usr/bin/apt install $PACKAGES ./local.deb vim", "vim"),
            ("apt-get remove curl; echo apt-get install curl", ""),
            ("pip install flask", ""),
        ] {
            assert_eq!(packages(run).join(" "), expected, "{run}");
        }
    }
}
