//! Who answered where: `known_nodes.toml`, trust on first use.
//!
//! The file maps `host:port` as the owner wrote it to the node id that answered there first. It is written new and renamed,
//! so a crash leaves the old or the new one. When two commands meet new nodes at the same moment one entry can be lost;
//! it is then learned again.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use os_identity::NodeId;
use serde::{Deserialize, Serialize};

use crate::target::Target;
use crate::{key_file, whole_file};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    nodes: BTreeMap<String, String>,
}

pub struct KnownNodes {
    path: PathBuf,
    nodes: BTreeMap<String, NodeId>,
}

impl KnownNodes {
    pub fn load() -> Result<Self> {
        Self::load_from(&key_file::config_dir()?.join("known_nodes.toml"))
    }

    /// No file means that no node is known.
    pub fn load_from(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let written: Written =
            toml::from_str(&text).with_context(|| format!("{} is not valid TOML", path.display()))?;
        let parse = |(address, id): (String, String)| match id.parse::<NodeId>() {
            Ok(node) => Ok((address, node)),
            Err(e) => bail!("{}: node id of \"{address}\": {e}", path.display()),
        };
        let nodes = written.nodes.into_iter().map(parse).collect::<Result<_>>()?;
        Ok(Self { path: path.to_path_buf(), nodes })
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &NodeId)> {
        self.nodes.iter()
    }

    /// Who answered there the last time.
    pub fn at(&self, target: &Target) -> Option<NodeId> {
        self.nodes.get(&target.to_string()).copied()
    }

    /// Accepts `found` at `address` when it is new there or the same as before. `pinned` (the owner wrote the id) replaces what was
    /// known. Returns whether it was not known yet.
    pub fn check(&mut self, address: &str, found: NodeId, pinned: bool) -> Result<bool> {
        match self.nodes.get(address) {
            Some(known) if *known == found => return Ok(false),
            Some(known) if !pinned => bail!(
                "another node answers at {address}: {found}, known until now was {known}; if you have installed it anew run \
                 `maculactl known forget {address}`, otherwise somebody is in between"
            ),
            _ => {}
        }
        self.nodes.insert(address.to_string(), found);
        self.save()?;
        Ok(true)
    }

    pub fn forget(&mut self, address: &str) -> Result<NodeId> {
        let Some(node) = self.nodes.remove(address) else {
            bail!("no node is known at {address}: `maculactl known` lists them");
        };
        self.save()?;
        Ok(node)
    }

    fn save(&self) -> Result<()> {
        let nodes = self.nodes.iter().map(|(a, n)| (a.clone(), n.to_string())).collect();
        let text = toml::to_string(&Written { nodes })?;
        if let Some(dir) = self.path.parent() {
            key_file::private_dir(dir)?;
        }
        whole_file::write(&self.path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn the_first_node_at_an_address_is_remembered_and_another_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/known_nodes.toml");
        let mut known = KnownNodes::load_from(&path).unwrap();
        assert!(known.check("10.0.0.1:4433", node(1), false).unwrap());
        assert!(!known.check("10.0.0.1:4433", node(1), false).unwrap());
        let mut known = KnownNodes::load_from(&path).unwrap();
        let error = known.check("10.0.0.1:4433", node(2), false).unwrap_err().to_string();
        assert!(
            error.contains(&node(1).to_string()) && error.contains("known forget 10.0.0.1:4433"),
            "{error}"
        );
        assert!(known.check("10.0.0.1:4434", node(2), false).unwrap());
        assert!(known.check("10.0.0.1:4433", node(2), true).unwrap());
        let mut known = KnownNodes::load_from(&path).unwrap();
        assert_eq!(known.forget("10.0.0.1:4433").unwrap(), node(2));
        assert!(known.forget("10.0.0.1:4433").is_err());
        assert_eq!(KnownNodes::load_from(&path).unwrap().iter().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_nodes.toml");
        for bad in ["nodes = 1", "[nodes", "[nodes]\n\"a:1\" = \"did:key:zz\""] {
            fs::write(&path, bad).unwrap();
            let error = KnownNodes::load_from(&path).map(|_| ()).unwrap_err();
            assert!(format!("{error:#}").contains("known_nodes.toml"), "{bad}: {error:#}");
        }
    }
}
