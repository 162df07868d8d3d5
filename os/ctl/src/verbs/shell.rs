//! `completions` and `man`, both made from the command line's own description.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::Session;
use crate::cli::Cli;
use crate::output::print;

const NAME: &str = "maculactl";

pub fn completions(shell: Shell) -> Result<()> {
    print(&script(shell)?);
    Ok(())
}

fn script(shell: Shell) -> Result<String> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut bytes);
    Ok(with_known_nodes(shell, &String::from_utf8(bytes)?))
}

/// The nodes that `--node` can complete to: what `known` prints, without its head.
const KNOWN: &str = "maculactl known 2>/dev/null | awk 'NR > 1 { sub(/:4433$/, \"\", $1); print $1 }'";

/// clap's scripts know the words of the command line; the nodes are another matter of each machine.
fn with_known_nodes(shell: Shell, script: &str) -> String {
    let function = |name: &str, body: &str| format!("{name}() {{\n    {body}\n}}\n\n");
    match shell {
        Shell::Bash => {
            let files = "--node)\n                    COMPREPLY=($(compgen -f \"${cur}\"))";
            let nodes = "--node)\n                    COMPREPLY=($(compgen -W \"$(_maculactl_nodes)\" -- \"${cur}\"))";
            function("_maculactl_nodes", KNOWN) + &script.replace(files, nodes)
        }
        Shell::Zsh => {
            let (head, rest) = script.split_once('\n').unwrap_or((script, ""));
            let nodes = function("_maculactl_nodes", &format!("compadd -- $({KNOWN})"));
            format!("{head}\n\n{nodes}{}", rest.replace(":NODE:_default'", ":NODE:_maculactl_nodes'"))
        }
        Shell::Fish => {
            let option = |line: &str| match line.contains(" -l node ") && line.ends_with(" -r") {
                true => format!("{line} -f -a '(__fish_maculactl_nodes)'\n"),
                false => format!("{line}\n"),
            };
            let nodes = format!("function __fish_maculactl_nodes\n    {KNOWN}\nend\n\n");
            nodes + &script.lines().map(option).collect::<String>()
        }
        _ => script.to_owned(),
    }
}

/// One page to stdout, or one file for each verb.
pub fn man(s: &Session, out: Option<&Path>) -> Result<()> {
    let Some(dir) = out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        print(&String::from_utf8(page)?);
        return Ok(());
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
    s.out.done(&format!("manual pages are in {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, ValueEnum};

    /// The words of each verb, hidden ones left out.
    fn verbs(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        for verb in command.get_subcommands().filter(|v| !v.is_hide_set() && v.get_name() != "help") {
            let path = format!("{path}-{}", verb.get_name());
            found.push((path.clone(), verb.clone()));
            verbs(verb, &path, found);
        }
    }

    fn all_verbs() -> Vec<(String, Command)> {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        verbs(&command, NAME, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        found
    }

    #[test]
    fn every_verb_and_every_option_says_what_it_is_for() {
        let mut silent = Vec::new();
        for (path, verb) in all_verbs() {
            let options = verb.get_arguments().filter(|a| !a.is_positional() && !a.is_hide_set());
            let without =
                options.filter(|a| a.get_help().is_none()).map(|a| format!("{path} --{}", a.get_id()));
            silent.extend(without.chain(verb.get_about().is_none().then(|| path.clone())));
        }
        assert!(silent.is_empty(), "no help: {silent:?}");
    }

    #[test]
    fn every_shell_learns_every_verb() {
        for shell in Shell::value_variants() {
            let script = script(*shell).unwrap();
            for (path, verb) in all_verbs() {
                assert!(script.contains(verb.get_name()), "{shell} does not complete {path}");
            }
        }
    }

    #[test]
    fn shells_that_can_complete_known_nodes() {
        for (shell, part) in [
            (Shell::Bash, "compgen -W \"$(_maculactl_nodes)\""),
            (Shell::Zsh, ":NODE:_maculactl_nodes'"),
            (Shell::Fish, " -r -f -a '(__fish_maculactl_nodes)'"),
        ] {
            let script = script(shell).unwrap();
            assert!(script.matches(part).count() > 50, "{shell}");
        }
        assert!(script(Shell::Zsh).unwrap().starts_with("#compdef maculactl\n"));
    }

    #[test]
    fn every_verb_has_a_manual_page() {
        let dir = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), dir.path()).unwrap();
        for (path, verb) in all_verbs() {
            let page = std::fs::read_to_string(dir.path().join(format!("{path}.1")));
            let page = page.unwrap_or_else(|e| panic!("{path}: {e}"));
            let about = verb.get_about().unwrap().to_string();
            let first = about.split([' ', '\'', '-', '`']).next().unwrap();
            assert!(page.contains(first) && page.contains(".TH"), "{path}: {page}");
        }
    }
}
