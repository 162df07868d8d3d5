//! Reads the unit files. One bad file does not keep the others from running: it is kept as a [`BrokenUnit`], which
//! counts as a required unit that failed, because nobody can know what it would have said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use init_plan::unit::{UNIT_FILE_MAX, Unit, is_unit_name};
use init_plan::unit_order::{Graph, OrderError, graph, start_order};

/// More unit files than this are not read.
const UNITS_MAX: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub struct BrokenUnit {
    pub name: String,
    pub problem: String,
}

#[derive(Debug, Default)]
pub struct UnitSet {
    /// In start order.
    pub units: Vec<Unit>,
    pub broken: Vec<BrokenUnit>,
}

pub fn load(dir: &Path) -> Result<UnitSet> {
    let mut good = BTreeMap::new();
    let mut broken = Vec::new();
    for name in unit_names(dir)? {
        match read_unit(dir, &name) {
            Ok(unit) => drop(good.insert(name, unit)),
            Err(e) => broken.push(BrokenUnit { name, problem: format!("{e:#}") }),
        }
    }
    Ok(arrange(good, broken))
}

fn unit_names(dir: &Path) -> Result<BTreeSet<String>> {
    let entries =
        fs::read_dir(dir).with_context(|| format!("cannot read the unit files in {}", dir.display()))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let file_name = entry?.file_name();
        let Some(stem) = file_name.to_str().and_then(|n| n.strip_suffix(".toml")) else { continue };
        if is_unit_name(stem) {
            names.insert(stem.to_owned());
        }
        if names.len() > UNITS_MAX {
            bail!("more than {UNITS_MAX} unit files in {}", dir.display());
        }
    }
    Ok(names)
}

fn read_unit(dir: &Path, name: &str) -> Result<Unit> {
    let file = fs::File::open(dir.join(format!("{name}.toml")))?;
    let mut text = String::new();
    file.take(UNIT_FILE_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(Unit::parse(name, &text)?)
}

/// Sorts units by start order; those that wait for each other or for nobody become broken. Who starts after a broken
/// unit is not broken: it will start once that one has been given up, which is at once.
fn arrange(mut good: BTreeMap<String, Unit>, mut broken: Vec<BrokenUnit>) -> UnitSet {
    break_shared_uids(&mut good, &mut broken);
    loop {
        let mut with_broken: Graph = graph(good.values());
        with_broken.extend(broken.iter().map(|b| (b.name.clone(), Vec::new())));
        let error = match start_order(&with_broken) {
            Ok(order) => {
                let units = order.iter().filter_map(|name| good.remove(name)).collect();
                return UnitSet { units, broken };
            }
            Err(error) => error,
        };
        let problem = error.to_string();
        let names = match error {
            OrderError::Missing { unit, .. } => vec![unit],
            OrderError::Cycle(names) => names,
        };
        for name in names {
            if good.remove(&name).is_some() {
                broken.push(BrokenUnit { name, problem: problem.clone() });
            }
        }
    }
}

/// Two services under one uid could read each other's memory and files.
fn break_shared_uids(good: &mut BTreeMap<String, Unit>, broken: &mut Vec<BrokenUnit>) {
    let mut owner: BTreeMap<u32, String> = BTreeMap::new();
    good.retain(|name, unit| {
        if let Some(first) = owner.get(&unit.uid) {
            let problem = format!("service.uid: {} is the uid of {first} already", unit.uid);
            broken.push(BrokenUnit { name: name.clone(), problem });
            return false;
        }
        owner.insert(unit.uid, name.clone());
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_text(name: &str, uid: u32, after: &str) -> String {
        format!(
            "version = 1\n[unit]\nname = \"{name}\"\ndescription = \"\"\nafter = [{after}]\n\
             [service]\nexec = [\"/usr/bin/{name}\"]\nuid = {uid}\n[sandbox]\nnetwork = \"none\"\n"
        )
    }

    #[test]
    fn one_bad_file_leaves_the_others_running() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a.toml", &unit_text("a", 201, "\"bad\""));
        write("bad.toml", "version = 1\n[unit]\nname = 7");
        write("c.toml", &unit_text("c", 203, "\"d\""));
        write("d.toml", &unit_text("d", 204, "\"c\""));
        write("e.toml", &unit_text("e", 205, "\"a\""));
        write("ghost.toml", &unit_text("ghost", 206, "\"nobody\""));
        write("twin.toml", &unit_text("twin", 201, ""));
        write("large.toml", &"#".repeat(UNIT_FILE_MAX + 10));
        write("README", "not a unit");
        write(".hidden.toml", "not a unit");

        let set = load(dir.path()).unwrap();
        let names: Vec<&str> = set.units.iter().map(|u| u.name.as_str()).collect();
        assert_eq!(names, ["a", "e"]);
        let problems: BTreeMap<&str, &str> =
            set.broken.iter().map(|b| (b.name.as_str(), b.problem.as_str())).collect();
        assert_eq!(problems.keys().copied().collect::<Vec<_>>(), ["bad", "c", "d", "ghost", "large", "twin"]);
        assert!(problems["c"].contains("c -> d -> c"), "{}", problems["c"]);
        assert!(problems["ghost"].contains("nobody"));
        assert!(problems["twin"].contains("uid of a"));
        assert!(load(&dir.path().join("nowhere")).is_err());
    }
}
