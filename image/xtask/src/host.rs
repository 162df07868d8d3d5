//! What this machine must have, and how to get it on Debian and Ubuntu.

use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use image_builder::secure_boot::SIGNING_PACKAGES;
use image_builder::tools;

/// The Rust target of everything that runs on a node.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

const COMPILER: &[(&str, &str)] = &[("gcc", "gcc"), ("git", "git")];
const MACHINES: &[(&str, &str)] = &[("qemu-system-x86_64", "qemu-system-x86")];
const FIRMWARE: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd"];

/// What a verb is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Build,
    /// Build with a Secure Boot key.
    Sign,
    Boot,
    Test,
    /// What tests of the gateway need besides.
    Browser,
    /// What tests of the console need besides.
    Console,
}

/// Finds what is missing and installs it: as root or through sudo; otherwise prints the one line to run and stops.
pub fn prepare(need: Need) -> Result<()> {
    rust_target(TARGET)?;
    let missing = missing(need);
    if !missing.is_empty() {
        install(&missing)?;
    }
    match self::missing(need).as_slice() {
        [] => Ok(()),
        left => bail!("after installing, this machine still lacks: {}", left.join(" ")),
    }
}

fn missing(need: Need) -> Vec<&'static str> {
    let mut wanted = [COMPILER, tools::HOST_PACKAGES].concat();
    let machines = matches!(need, Need::Boot | Need::Test);
    if machines {
        wanted.extend_from_slice(MACHINES);
    }
    if matches!(need, Need::Sign | Need::Test) {
        wanted.extend_from_slice(SIGNING_PACKAGES);
    }
    if need == Need::Test {
        wanted.extend_from_slice(tools::TEST_PACKAGES);
        wanted.extend_from_slice(&[
            ("curl", "curl"),
            ("ip", "iproute2"),
            ("nft", "nftables"),
            ("dnsmasq", "dnsmasq-base"),
            ("rauc", "rauc"),
            ("swtpm", "swtpm"),
            ("zbarimg", "zbar-tools"),
        ]);
    }
    if need == Need::Browser {
        let browser = [("chromium", "chromium"), ("python3", "python3-venv"), ("openssl", "openssl")];
        wanted.extend_from_slice(&browser);
    }
    if need == Need::Console {
        wanted.extend_from_slice(&[("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")]);
    }
    let mut packages: Vec<_> = tools::missing(&wanted).into_iter().map(|(_, package)| package).collect();
    if machines && !FIRMWARE.iter().any(|f| Path::new(f).exists()) {
        packages.push("ovmf");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// cargo, without what the cargo that runs this xtask set for it: build scripts watch those variables, and crates would
/// be compiled again each time one cargo takes over from the other.
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO" {
            command.env_remove(&name);
        }
    }
    command
}

/// A cargo subcommand from crates.io, compiled if it is not there.
pub fn cargo_tool(package: &str, verb: &str) -> Result<()> {
    let quiet = cargo().args([verb, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if quiet.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    eprintln!("installing {package}");
    let done = cargo().args(["install", "--locked", package]).status();
    if done.is_ok_and(|s| s.success()) { Ok(()) } else { bail!("cargo could not install {package}") }
}

/// rustup adds the target by itself from rust-toolchain.toml, unless that was switched off.
pub fn rust_target(target: &str) -> Result<()> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_string();
    if Path::new(&sysroot).join("lib/rustlib").join(target).is_dir() {
        return Ok(());
    }
    eprintln!("installing the Rust target {target}");
    let added = Command::new("rustup").args(["target", "add", target]).status();
    if added.is_ok_and(|s| s.success()) {
        return Ok(());
    }
    bail!("the Rust target {target} is missing; run: rustup target add {target}")
}

fn install(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    let Some(prefix) = become_root() else {
        bail!("this machine lacks {}; run as root: {line}", packages.join(" "));
    };
    eprintln!("installing {}", packages.join(" "));
    apt(&prefix, &["update"])?;
    if apt(&prefix, &install_arguments(packages, None)).is_ok() {
        return Ok(());
    }
    // A bookworm host with parts of QEMU from backports cannot mix them with bookworm's own.
    if !is_bookworm() {
        bail!("apt could not install {}; run as root and see why: {line}", packages.join(" "));
    }
    eprintln!("trying again with bookworm-backports");
    enable_backports(&prefix)?;
    apt(&prefix, &["update"])?;
    apt(&prefix, &install_arguments(packages, Some("bookworm-backports")))
        .with_context(|| format!("apt could not install {}", packages.join(" ")))
}

fn install_arguments<'a>(packages: &[&'a str], suite: Option<&'a str>) -> Vec<&'a str> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    if let Some(suite) = suite {
        arguments.extend(["-t", suite]);
    }
    arguments.extend(packages);
    arguments
}

fn apt(prefix: &[&str], arguments: &[&str]) -> Result<()> {
    let words = [prefix, &["apt-get", "-q"], arguments].concat();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if command.status().context("cannot run apt-get")?.success() {
        return Ok(());
    }
    bail!("`{}` failed", words.join(" "))
}

/// The words that make a command run as root: none, `sudo`, or nothing works.
fn become_root() -> Option<Vec<&'static str>> {
    let id = Command::new("id").arg("-u").output().ok()?;
    if id.stdout.trim_ascii() == b"0" {
        return Some(vec!["env"]);
    }
    // With a person at the terminal, sudo may ask for the password.
    let asks = std::io::stdin().is_terminal();
    let arguments: &[&str] = if asks { &["true"] } else { &["-n", "true"] };
    let sudo = Command::new("sudo").args(arguments).stderr(Stdio::null()).status();
    sudo.is_ok_and(|s| s.success()).then(|| vec!["sudo"])
}

fn is_bookworm() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.contains("VERSION_CODENAME=bookworm")
}

fn enable_backports(prefix: &[&str]) -> Result<()> {
    let mirror = image_builder::parts::debian_mirror(Path::new("/etc/apt"))
        .context("found no Debian mirror in this host's apt sources")?;
    let line = format!("deb {mirror} bookworm-backports main");
    let path = "/etc/apt/sources.list.d/bookworm-backports.list";
    let script = format!("echo '{line}' > {path}");
    let words = [prefix, &["sh", "-c", &script]].concat();
    let written = Command::new(words[0]).args(&words[1..]).status()?;
    if written.success() { Ok(()) } else { bail!("cannot write {path}") }
}
