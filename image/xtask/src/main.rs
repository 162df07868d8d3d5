//! `cargo xtask`: everything that a person does with this repository.

mod bench;
mod binaries;
mod boot_tests;
mod campaign;
mod console;
mod demo;
mod fuzz;
mod host;
mod images;
mod table;
mod test;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use image_builder::parts::Lock;

/// Builds, runs and tests Macula OS.
///
/// A newcomer needs two of these: `cargo xtask run` builds the image, boots two nodes from it in QEMU and lets one update itself
/// from the other; `cargo xtask test` proves it. Both install what this machine lacks (as root or through sudo).
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Boot two nodes in QEMU; one fetches a new release from the other, tries it and commits it.
    Run(demo::Options),
    /// Format, lints, unit tests, image tests and boot tests: what must pass before anything lands.
    Test(test::Options),
    /// Build the image of a board into `out/`.
    Image(images::Options),
    /// Keys for UEFI Secure Boot, for `image --secure-boot-key`.
    SecureBootKey {
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// Boot one node in QEMU with its serial console on this terminal. Ctrl-A X leaves.
    Qemu(demo::QemuOptions),
    /// Measure something: `size`, `boot` or `memory`.
    Bench(bench::Options),
    /// Look for a way to lose something: `power-cut`.
    Campaign {
        #[command(subcommand)]
        campaign: campaign::Campaign,
    },
    /// Pinned Debian packages.
    Parts {
        #[command(subcommand)]
        verb: PartsVerb,
    },
    /// Remove what was built (`--all`: downloads and compiled crates, too).
    Clean {
        #[arg(long)]
        all: bool,
    },
}

#[derive(Subcommand)]
enum KeyVerb {
    /// Make the keys of a fleet: PK, KEK and db, with the files that enrol them.
    New {
        /// A folder that is not there yet. `db.key` signs; keep `PK.key` and `KEK.key` offline.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Subcommand)]
enum PartsVerb {
    /// Look up the newest version of each package in its suite and write the lock file.
    Update,
    /// Add packages as they are now; all others stay as they are.
    Add {
        #[arg(long, default_value = "trixie")]
        suite: String,
        #[arg(required = true)]
        package: Vec<String>,
    },
}

fn main() {
    if let Err(e) = dispatch(Cli::parse()) {
        eprintln!("error: {e:#}");
        std::process::exit(1);
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    let tree = Tree::find()?;
    match cli.verb {
        Verb::Run(options) => demo::run(&tree, &options),
        Verb::Test(options) => test::run(&tree, &options),
        Verb::Image(options) => images::command(&tree, &options),
        Verb::Qemu(options) => demo::interactive(&tree, &options),
        Verb::Bench(options) => bench::run(&tree, &options),
        Verb::SecureBootKey { verb: KeyVerb::New { out } } => {
            host::prepare(host::Need::Sign)?;
            images::new_keys(&out)
        }
        Verb::Campaign { campaign } => campaign::run(&tree, &campaign),
        Verb::Parts { verb: PartsVerb::Update } => update_parts(&tree),
        Verb::Parts { verb: PartsVerb::Add { suite, package } } => add_parts(&tree, &suite, &package),
        Verb::Clean { all } => clean(&tree, all),
    }
}

/// The checkout.
pub struct Tree {
    pub root: PathBuf,
}

impl Tree {
    fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root
            .canonicalize()
            .context("the checkout that this xtask was built in has moved; build it again")?;
        Ok(Self { root })
    }

    pub fn out(&self) -> PathBuf {
        self.root.join("out")
    }

    pub fn cache(&self) -> PathBuf {
        self.out().join("cache")
    }

    pub fn lock_file(&self) -> PathBuf {
        self.root.join("image/parts.lock.toml")
    }

    pub fn lock(&self) -> Result<Lock> {
        Ok(Lock::read(&self.lock_file())?)
    }
}

fn update_parts(tree: &Tree) -> Result<()> {
    let progress = image_builder::Progress::stderr();
    let changes = image_builder::parts::update(&tree.lock_file(), &tree.cache(), &progress)?;
    for change in &changes {
        println!("{}: {} -> {}", change.part, change.from, change.to);
    }
    println!("{} parts changed; build and boot an image before you commit the lock file", changes.len());
    Ok(())
}

fn add_parts(tree: &Tree, suite: &str, packages: &[String]) -> Result<()> {
    let progress = image_builder::Progress::stderr();
    let added = image_builder::parts::add(&tree.lock_file(), &tree.cache(), (suite, packages), &progress)?;
    added.iter().for_each(|part| println!("{} {}", part.name, part.version));
    println!("see that the archive has had them since the lock file's `snapshot`, or update all parts");
    Ok(())
}

fn clean(tree: &Tree, all: bool) -> Result<()> {
    let out = tree.out();
    if all {
        remove(&out)?;
        return remove(&tree.root.join("target"));
    }
    let entries = match std::fs::read_dir(&out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot list {}", out.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        if path != tree.cache() {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    println!("removing {}", path.display());
    let result = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
