//! Our own programs, built as a node runs them: static, for musl.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use image_builder::PROGRAMS;
use sha2::{Digest, Sha256};

use crate::Tree;
use crate::host::{self, TARGET};

/// The packages of [`PROGRAMS`], the lying peer of the boot tests, the init of the boot bench and the example of an app. Built by one command, so that
/// the crates they share are compiled with one set of features, once.
const PACKAGES: [&str; 14] = [
    "init-pid1",
    "init-supervisor",
    "services-identity",
    "mesh-daemon",
    "dht-daemon",
    "content-daemon",
    "reconciler-daemon",
    "services-update",
    "services-network",
    "pairing-daemon",
    "os-ctl",
    "tests-liar",
    "bare-init",
    "macula-app",
];

/// A peer that serves flipped bytes.
pub const LIAR: &str = "liar";
/// An init that prints how long the kernel took, and powers off.
pub const BARE_INIT: &str = "bare-init";

/// The example of an app (`docs/guides/apps.md`).
pub const HELLO: &str = "hello";

/// Everything that the programs are made from; in these, what only tests are made from does not count.
const SOURCES: [&str; 9] = [
    "tests/liar",
    "qemu/bare-init",
    "os",
    "services",
    "init",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    ".cargo/config.toml",
];

/// Builds the programs of one OS version; the folder they are in. The version is compiled into the supervisor, so each
/// version has its own folder, and one whose sources have not changed is not built again.
pub fn build(tree: &Tree, version: &str) -> Result<PathBuf> {
    build_into(tree, version, version, &[])
}

/// The same with an init that obeys orders to hang, panic and exit: for the boot tests alone.
pub fn build_faulty(tree: &Tree, version: &str) -> Result<PathBuf> {
    build_into(tree, version, "faulty", &["--features", "init-pid1/fault-injection"])
}

fn build_into(tree: &Tree, version: &str, name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let folder = tree.out().join("programs").join(name);
    let stamp_file = folder.join("stamp");
    let stamp = stamp(tree)?;
    if std::fs::read_to_string(&stamp_file).is_ok_and(|s| s == stamp) {
        return Ok(folder);
    }
    eprintln!("compiling the programs of {name} for {TARGET}");
    let _ = std::fs::remove_file(&stamp_file);
    cargo(tree, version, arguments)?;
    std::fs::create_dir_all(&folder)?;
    for program in PROGRAMS.into_iter().chain([LIAR, BARE_INIT, HELLO]) {
        let from = if program == HELLO { "examples/hello" } else { program };
        let from = built(tree).join(from);
        std::fs::copy(&from, folder.join(program))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    std::fs::write(&stamp_file, stamp)?;
    Ok(folder)
}

fn built(tree: &Tree) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    tree.root.join(target).join(TARGET).join("release")
}

fn cargo(tree: &Tree, version: &str, arguments: &[&str]) -> Result<()> {
    let mut command = host::cargo();
    command.args(["build", "--release", "--locked", "--target", TARGET, "--bins", "--example", HELLO]);
    command.args(PACKAGES.iter().flat_map(|p| ["-p", p])).args(arguments);
    let status = command.env("MACULA_OS_VERSION", version).current_dir(&tree.root).status();
    if status.context("cannot run cargo")?.success() { Ok(()) } else { bail!("the programs do not compile") }
}

fn stamp(tree: &Tree) -> Result<String> {
    let mut hasher = Sha256::new();
    for source in SOURCES {
        add(&mut hasher, &tree.root.join(source))?;
    }
    Ok(HEXLOWER.encode(&hasher.finalize()))
}

fn add(hasher: &mut Sha256, path: &Path) -> Result<()> {
    if path.is_dir() {
        let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<std::io::Result<_>>()?;
        entries.retain(|e| e.file_name() != "tests" && e.file_name() != "benches");
        entries.sort_by_key(|e| e.file_name());
        return entries.iter().try_for_each(|e| add(hasher, &e.path()));
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    hasher.update(path.as_os_str().as_encoded_bytes());
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(&bytes);
    Ok(())
}
