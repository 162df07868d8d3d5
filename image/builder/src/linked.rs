//! Dynamically linked programs of Debian's packages, with the libraries they need: for what has no static form.
//!
//! Libraries are found as the dynamic linker would find them on Debian, by each file's list of needed names, and are
//! looked for in the parts that the board names and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

use crate::error::{At, BuildError, Result};

/// Where the kernel looks for the interpreter of x86-64 programs, and where its package keeps it.
const INTERPRETER: &str = "lib64/ld-linux-x86-64.so.2";
const INTERPRETER_IN_PART: [&str; 2] = ["usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"];
const INTERPRETER_NAME: &str = "ld-linux-x86-64.so.2";
/// Folders with libraries. The second one is in the programs' own `RUNPATH`.
const FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd"];
const FILE_MAX: u64 = 64 << 20;

/// Path in the archive (relative), content; all of them executable. `programs` are paths in the parts, `opened` names of
/// libraries that programs open by themselves while they run.
pub fn collect(parts: &[&Path], programs: &[&str], opened: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut waiting: Vec<String> = opened.iter().map(|name| (*name).to_owned()).collect();
    for program in programs {
        let bytes = read(&find(parts, &[program])?)?;
        waiting.extend(needed(program, &bytes)?);
        files.insert((*program).to_owned(), bytes);
    }
    let mut known = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if !known.insert(name.clone()) || name == INTERPRETER_NAME {
            continue;
        }
        let places = FOLDERS.map(|folder| format!("{folder}/{name}"));
        let found = find(parts, &[&places[0], &places[1]])?;
        let bytes = read(&found)?;
        waiting.extend(needed(&name, &bytes)?);
        let place = places.into_iter().find(|place| found.ends_with(place)).unwrap_or(name);
        files.insert(place, bytes);
    }
    files.insert(INTERPRETER.to_owned(), read(&find(parts, &INTERPRETER_IN_PART)?)?);
    Ok(files)
}

/// The first of `places` that is a file in one of the parts.
pub fn find(parts: &[&Path], places: &[&str]) -> Result<PathBuf> {
    let all = parts.iter().flat_map(|part| places.iter().map(|place| part.join(place)));
    all.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let reason = "is in none of the board's parts for it; has a library got another name or package?";
        BuildError::Input(format!("{} {reason}", places[0]))
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).at("read", path)?.len();
    if size > FILE_MAX {
        return Err(BuildError::Input(format!("{} has {size} bytes, more than {FILE_MAX}", path.display())));
    }
    std::fs::read(path).at("read", path)
}

/// Names in the file's `DT_NEEDED` entries.
fn needed(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let read = || -> object::read::Result<Vec<String>> {
        let header = FileHeader64::<Endianness>::parse(bytes)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, bytes)?;
        let Some((entries, strings)) = sections.dynamic(endian, bytes)? else { return Ok(Vec::new()) };
        let strings = sections.strings(endian, bytes, strings)?;
        let names = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
        names.map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned())).collect()
    };
    read().map_err(|error| BuildError::Input(format!("{name} is no ELF file that can be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_broken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = collect(&[dir.path()], &["usr/bin/tool"], &[]).unwrap_err().to_string();
        assert!(error.contains("usr/bin/tool"), "{error}");
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        std::fs::write(dir.path().join("usr/bin/tool"), "#!/bin/sh").unwrap();
        let error = collect(&[dir.path()], &["usr/bin/tool"], &[]).unwrap_err().to_string();
        assert!(error.contains("no ELF"), "{error}");
    }

    #[test]
    fn libraries_are_found_by_the_names_that_a_program_needs() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let names = needed("this test", &own).unwrap();
        assert!(names.iter().any(|name| name == "libc.so.6"), "{names:?}");
    }
}
