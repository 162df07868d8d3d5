//! Pins newer versions: asks Debian's indices through an apt state of our own, so that the host stays as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Lock, Part, mirror};
use crate::error::{At, BuildError, Result};
use crate::progress::Progress;
use crate::tools;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A part whose pinned version changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub part: String,
    pub from: String,
    pub to: String,
}

/// Resolves every part of the lock file at `path` anew and rewrites the file. Signatures of the indices are checked
/// by apt; that an index is past its date is accepted, since testing's often is.
pub fn update(path: &Path, cache: &Path, progress: &Progress) -> Result<Vec<Change>> {
    let old = Lock::read(path)?;
    let apt = PrivateApt::create(&old, &cache.join("apt"))?;
    let step = progress.step("package indices");
    tools::run(apt.command("apt-get")?.args(["-q", "update"]))?;
    step.done(
        &old.parts
            .iter()
            .map(|part| part.suite.as_str())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(", "),
    );
    let parts = old.parts.iter().map(|part| apt.resolve(part)).collect::<Result<Vec<_>>>()?;
    let change = |(from, to): (&Part, &Part)| {
        (from != to).then(|| Change {
            part: to.name.clone(),
            from: from.version.clone(),
            to: to.version.clone(),
        })
    };
    let changes: Vec<_> = old.parts.iter().zip(&parts).filter_map(change).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Lock { snapshot: snapshot_time(now), architecture: old.architecture, parts }.write(path)?;
    Ok(changes)
}

/// Adds packages of a suite to the lock file at `path`, each as a part of its name, as they are in the archive now. All other parts stay
/// as they are, and so does the snapshot's time: commit only if the archive has had these versions since then.
pub fn add(
    path: &Path,
    cache: &Path,
    (suite, packages): (&str, &[String]),
    progress: &Progress,
) -> Result<Vec<Part>> {
    let mut lock = Lock::read(path)?;
    let stub = |package: &String| Part {
        name: package.clone(),
        suite: suite.to_owned(),
        package: package.clone(),
        follow: None,
        version: String::new(),
        path: String::new(),
        size: 0,
        sha256: String::new(),
    };
    let before = lock.parts.len();
    lock.parts.extend(packages.iter().map(stub));
    let apt = PrivateApt::create(&lock, &cache.join("apt"))?;
    let step = progress.step("package indices");
    tools::run(apt.command("apt-get")?.args(["-q", "update"]))?;
    step.done(suite);
    for part in &mut lock.parts[before..] {
        *part = apt.resolve(part)?;
    }
    lock.write(path)?;
    Ok(lock.parts.split_off(before))
}

/// An apt that knows only the lock's suites and keeps its state in a folder of ours.
struct PrivateApt {
    config: PathBuf,
}

impl PrivateApt {
    fn create(lock: &Lock, folder: &Path) -> Result<PrivateApt> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.join(sub)).at("create", folder)?;
        }
        if !Path::new(KEYRING).is_file() {
            return Err(BuildError::ToolMissing {
                tool: KEYRING.to_owned(),
                package: "debian-archive-keyring",
            });
        }
        let base = mirror::debian_mirror(Path::new("/etc/apt")).unwrap_or_else(|| mirror::DEBIAN.to_owned());
        let mut suites: Vec<_> = lock.parts.iter().map(|part| part.suite.as_str()).collect();
        suites.sort_unstable();
        suites.dedup();
        let source = |suite: &&str| format!("deb [signed-by={KEYRING}] {base} {suite} main\n");
        let place = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "Dir::State::lists \"{}\";\nDir::Cache \"{}\";\nDir::State::status \"{}\";\nDir::Etc::sourcelist \"{}\";\n\
             Dir::Etc::sourceparts \"/nonexistent\";\nDir::Etc::preferences \"/nonexistent\";\n\
             Dir::Etc::preferencesparts \"/nonexistent\";\nAPT::Architecture \"{arch}\";\nAPT::Architectures \"{arch}\";\n\
             APT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\nAcquire::Check-Valid-Until \"false\";\n\
             Acquire::Languages \"none\";\n",
            place("lists"),
            place("cache"),
            place("status"),
            place("sources.list"),
            arch = lock.architecture,
        );
        let files = [
            ("sources.list", suites.iter().map(source).collect::<String>()),
            ("status", String::new()),
            ("apt.conf", config),
        ];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).at("write", &folder.join(name))?;
        }
        Ok(PrivateApt { config: folder.join("apt.conf") })
    }

    fn command(&self, tool: &str) -> Result<Command> {
        let mut command = tools::command(tool)?;
        command.env("APT_CONFIG", &self.config);
        Ok(command)
    }

    fn resolve(&self, part: &Part) -> Result<Part> {
        let failed = |reason: String| BuildError::Part { part: part.name.clone(), reason };
        let package = match &part.follow {
            None => part.package.clone(),
            Some(meta) => {
                let fields = self.show(meta, &part.suite)?;
                let depends = fields.get("Depends").map_or("", String::as_str);
                followed(meta, depends)
                    .ok_or_else(|| failed(format!("`{meta}` depends on nothing to follow: {depends}")))?
            }
        };
        let fields = self.show(&package, &part.suite)?;
        let field = |key: &str| {
            fields.get(key).cloned().ok_or_else(|| failed(format!("`{package}` has no field {key}")))
        };
        let size = field("Size")?;
        let found = Part {
            version: field("Version")?,
            path: field("Filename")?,
            size: size.parse().map_err(|_| failed(format!("`{package}` has the size {size:?}")))?,
            sha256: field("SHA256")?,
            package,
            ..part.clone()
        };
        found.check().map_err(failed)?;
        Ok(found)
    }

    fn show(&self, package: &str, suite: &str) -> Result<BTreeMap<String, String>> {
        let mut command = self.command("apt-cache")?;
        let release = format!("APT::Default-Release={suite}");
        let output = tools::run(command.args(["-o", &release, "show", "--no-all-versions", package]))?;
        Ok(fields(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// The package that a meta package stands for: its first dependency that carries its stem and a version.
fn followed(meta: &str, depends: &str) -> Option<String> {
    let stem = meta.rsplit_once('-').map_or(meta, |(stem, _)| stem);
    let names = depends.split(',').filter_map(|one| one.split_whitespace().next());
    names.map(str::to_owned).find(|name| name.starts_with(stem) && name != meta)
}

/// Fields of one paragraph of a control file; continuation lines are dropped.
fn fields(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with(' '));
    lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Seconds since 1970 as `20261123T080000Z` (days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn snapshot_time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_snapshot_archive_does() {
        assert_eq!(snapshot_time(0), "19700101T000000Z");
        assert_eq!(snapshot_time(951_782_399), "20000228T235959Z");
        assert_eq!(snapshot_time(951_782_400), "20000229T000000Z");
        assert_eq!(snapshot_time(1_795_420_800), "20261123T080000Z");
    }

    #[test]
    fn meta_packages_lead_to_the_real_one() {
        let depends = "linux-image-6.12.107+deb13-amd64 (= 6.12.107-1)";
        assert_eq!(
            followed("linux-image-amd64", depends).as_deref(),
            Some("linux-image-6.12.107+deb13-amd64")
        );
        assert_eq!(followed("linux-image-amd64", "libc6 (>= 2)"), None);
        assert_eq!(followed("linux-image-amd64", ""), None);
    }

    #[test]
    fn a_paragraph_becomes_fields() {
        let got = fields("Package: a\nDescription: x\n more: text\nSize: 5\n\nPackage: b\n");
        assert_eq!(got.len(), 3);
        assert_eq!(got["Package"], "a");
    }
}
