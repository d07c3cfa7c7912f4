//! What packages install beside the program: completions of shells, and manual pages. Both follow from the command line itself.

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Writes the completions for a shell.
pub fn complete(mut command: Command, shell: Shell, out: &mut impl Write) -> std::io::Result<()> {
    let name = command.get_name().to_string();
    // The generators panic where writing fails.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    out.write_all(&text)
}

/// Writes `sumun.8`, `sumun-status.8`, `sumun-set-add.8` and so on.
pub fn manual(command: Command, directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    // Settles which options all commands share; without its own `help`, of which nobody needs a manual.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    page(&command, directory)
}

fn page(command: &Command, directory: &Path) -> anyhow::Result<()> {
    for inner in command.get_subcommands() {
        page(inner, directory)?;
    }
    let man = clap_mangen::Man::new(command.clone()).section("8");
    let mut text = Vec::new();
    man.render(&mut text)?;
    let file = directory.join(man.get_filename());
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}
