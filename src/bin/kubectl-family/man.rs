//! `kubectl family man`: the man pages, made from the commands and their help.

use std::{
    fs,
    io::Write as _,
    iter,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;

use crate::{command_line::CommandLine, output};

/// Name of the page of the plugin, and beginning of the names of the other pages.
const NAME: &str = "kubectl-family";

#[derive(Args, Debug)]
pub struct ManArguments {
    /// Folder to which the pages are written. It is created if it does not exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes the pages, and prints their names.
pub fn run(arguments: &ManArguments) -> anyhow::Result<()> {
    let folder = &arguments.folder;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut written = Vec::new();
    for page in pages()? {
        let path = folder.join(page.name + ".1");
        write(folder, &path, &page.text).with_context(|| format!("write {}", path.display()))?;
        written.push(format!("{}\n", path.display()));
    }
    output::write(&written.concat())?;
    Ok(())
}

/// A man page.
struct ManPage {
    /// Name without the section.
    name: String,
    /// Text in roff.
    text: Vec<u8>,
}

/// Returns one page of the plugin, and one for each command.
fn pages() -> anyhow::Result<Vec<ManPage>> {
    let mut plugin = CommandLine::command().disable_help_subcommand(true);
    plugin.build();
    let commands = plugin.get_subcommands().filter(|command| !command.is_hide_set());
    let of_commands =
        commands.map(|command| page(format!("{NAME}-{}", command.get_name()), command));
    iter::once(page(NAME.to_owned(), &plugin)).chain(of_commands).collect()
}

fn page(name: String, command: &Command) -> anyhow::Result<ManPage> {
    let mut text = Vec::new();
    let man = Man::new(command.clone().display_name(name.clone()));
    man.title(name.clone()).section("1").manual("Groundswell").render(&mut text)?;
    Ok(ManPage { name, text })
}

/// Writes a file whole or not at all.
fn write(folder: &Path, path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
    file.write_all(text)?;
    file.persist(path)?;
    Ok(())
}

/// Everyone may read a man page, as far as the user's mask allows.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    fs::Permissions::from_mode(0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_options_and_examples() {
        let pages = pages().expect("pages");
        let commands = CommandLine::command();
        let shown = commands.get_subcommands().filter(|command| !command.is_hide_set()).count();
        assert_eq!(pages.len(), shown + 1);
        let page = |wanted: &str| {
            let page = pages.iter().find(|page| page.name == wanted).expect("a page");
            String::from_utf8(page.text.clone()).expect("text")
        };
        assert!(page("kubectl-family").contains("Show families of container images"));
        let graph = page("kubectl-family-graph");
        for expected in [".TH kubectl-family-graph 1", "\\-\\-focus", "Examples:", "FILE|DIR"] {
            assert!(graph.contains(expected), "{expected} is not in\n{graph}");
        }
        assert!(pages.iter().all(|page| !page.name.contains("__")), "a hidden command");
    }
}
