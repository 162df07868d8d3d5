//! Downloading parts with apt's own helper, which knows the host's proxies and certificates.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Lock, Part, mirror};
use crate::error::{At, BuildError, Result};
use crate::progress::{Progress, Step, mib};
use crate::tools;
use crate::verity::Hashing;

const HELPER: &str = "/usr/lib/apt/apt-helper";
const APT_FOLDER: &str = "/etc/apt";
/// How often the growing file is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Makes sure that every part of `lock` is in `cache`, complete and unchanged.
pub fn fetch(lock: &Lock, cache: &Path, progress: &Progress) -> Result<()> {
    let folder = cache.join("parts");
    std::fs::create_dir_all(&folder).at("create", &folder)?;
    let bases = mirror::bases(lock, Path::new(APT_FOLDER));
    for part in &lock.parts {
        let file = part.file(cache);
        if file.is_file() {
            match check(part, &file)? {
                None => continue,
                Some(reason) => {
                    progress.say(&format!("  {} in the cache {reason}: downloading it again", part.name));
                    std::fs::remove_file(&file).at("remove", &file)?;
                }
            }
        }
        fetch_part(part, &file, &bases, progress)?;
    }
    Ok(())
}

fn fetch_part(part: &Part, file: &Path, bases: &[String], progress: &Progress) -> Result<()> {
    let temporary = Temporary(file.with_extension(format!("part-{}", std::process::id())));
    let mut step = progress.step(&format!("download {}", part.name));
    step.total(part.size);
    let mut tried = Vec::new();
    for base in bases {
        let address = format!("{base}/{}", part.path.replace('+', "%2b"));
        match download(part, &address, &temporary.0, &mut step)? {
            None => {
                std::fs::rename(&temporary.0, file).at("keep", file)?;
                step.done(&format!("{} ({})", part.version, mib(part.size)));
                return Ok(());
            }
            Some(reason) => tried.push(format!("  {address}: {reason}")),
        }
    }
    Err(BuildError::Fetch { part: part.name.clone(), version: part.version.clone(), tried: tried.join("\n") })
}

/// Downloads to `target` and checks it. A reason instead of nothing means that the next source may do better.
fn download(part: &Part, address: &str, target: &Path, step: &mut Step) -> Result<Option<String>> {
    let mut command = tools::at(Path::new(HELPER));
    // Another user than root could not write to the cache in root's home.
    command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "download-file", address]);
    command.arg(target).arg(format!("SHA256:{}", part.sha256));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().at("start", Path::new(HELPER))?;
    let output = wait(child, target, step).at("wait for", Path::new(HELPER))?;
    if !output.status.success() {
        return Ok(Some(last_line(&String::from_utf8_lossy(&output.stderr))));
    }
    match check(part, target)? {
        None => Ok(None),
        Some(reason) => {
            std::fs::remove_file(target).at("remove", target)?;
            Ok(Some(format!("what came {reason}")))
        }
    }
}

/// Waits for the helper while the bar follows the file. Its messages are few, so the pipe never fills.
fn wait(mut child: Child, target: &Path, step: &mut Step) -> std::io::Result<std::process::Output> {
    while child.try_wait()?.is_none() {
        if let Ok(data) = std::fs::metadata(target) {
            step.reach(data.len());
        }
        std::thread::sleep(POLL);
    }
    child.wait_with_output()
}

/// Compares size and SHA-256 with the lock; says what is wrong.
fn check(part: &Part, file: &Path) -> Result<Option<String>> {
    let mut open = File::open(file).at("open", file)?;
    let size = open.metadata().at("inspect", file)?.len();
    if size != part.size {
        return Ok(Some(format!("has {size} bytes, the lock says {}", part.size)));
    }
    let mut hasher = Hashing(Sha256::new());
    std::io::copy(&mut open, &mut hasher).at("read", file)?;
    let hash = data_encoding::HEXLOWER.encode(&hasher.0.finalize());
    Ok((hash != part.sha256).then(|| format!("has SHA-256 {hash}, the lock says {}", part.sha256)))
}

fn last_line(text: &str) -> String {
    let told =
        text.lines().rev().map(str::trim).find(|line| !line.is_empty() && *line != "E: Download Failed");
    told.unwrap_or("download failed").to_owned()
}

/// A file that goes away with us.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(content: &[u8]) -> Part {
        Part {
            name: "p".into(),
            suite: "s".into(),
            package: "p".into(),
            follow: None,
            version: "1".into(),
            path: "pool/p.deb".into(),
            size: content.len() as u64,
            sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(content)),
        }
    }

    #[test]
    fn good_content_is_kept_and_wrong_content_is_refused_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path().join("mirror/pool");
        std::fs::create_dir_all(&mirror).unwrap();
        std::fs::write(mirror.join("p.deb"), b"right").unwrap();
        let bases = [format!("file:{}", dir.path().join("mirror").display())];
        let target = dir.path().join("target.deb");
        fetch_part(&part(b"right"), &target, &bases, &Progress::silent()).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"right");

        let other = dir.path().join("other.deb");
        let error = fetch_part(&part(b"wrong"), &other, &bases, &Progress::silent()).unwrap_err().to_string();
        assert!(
            error.contains("`p` version 1") && error.contains("parts update") && error.contains("file:"),
            "{error}"
        );
        assert!(!other.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_spoilt_cache_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        std::fs::write(&file, b"wrong").unwrap();
        assert!(check(&part(b"right"), &file).unwrap().unwrap().contains("SHA-256"));
        assert!(check(&part(b"longer"), &file).unwrap().unwrap().contains("5 bytes"));
        assert_eq!(check(&part(b"wrong"), &file).unwrap(), None);
    }
}
