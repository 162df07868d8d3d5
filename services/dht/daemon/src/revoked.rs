//! Delegations that were taken back: kept across restarts, so that a node that is alone knows them, and announced in the DHT.
//!
//! One small file, a CBOR array of statements (`os_ucan::revocation`), replaced as a whole. A statement that does not read is left out and
//! said: another node has it, most likely.

use std::path::PathBuf;

use anyhow::{Context, Result};
use minicbor::{Decoder, Encoder};
use os_ucan::revocation::{MAX_LEN, Revocation};
use services_api::durable;

/// The oldest make room: what they took back has expired by then, most likely.
const MAX_REVOKED: usize = 256;

pub struct RevokedFile {
    path: PathBuf,
    statements: Vec<Revocation>,
}

impl RevokedFile {
    pub fn load(path: PathBuf) -> Self {
        let statements = match durable::read(&path).map(|bytes| decode(&bytes)) {
            Some(Ok(statements)) => statements,
            Some(Err(e)) => {
                tracing::error!("{} is not what this release writes: {e:#}", path.display());
                Vec::new()
            }
            None => Vec::new(),
        };
        Self { path, statements }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.statements.iter()
    }

    /// On disk when it returns. False if it was known.
    pub fn add(&mut self, revocation: Revocation) -> Result<bool> {
        let same = |r: &Revocation| r.token == revocation.token && r.revoker == revocation.revoker;
        if self.statements.iter().any(same) {
            return Ok(false);
        }
        let mut statements = self.statements.clone();
        statements.push(revocation);
        let surplus = statements.len().saturating_sub(MAX_REVOKED);
        statements.drain(..surplus);
        durable::write(&self.path, &encode(&statements)?)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.statements = statements;
        Ok(true)
    }
}

fn encode(statements: &[Revocation]) -> Result<Vec<u8>> {
    let mut e = Encoder::new(Vec::with_capacity(3 + statements.len() * (MAX_LEN + 2)));
    e.array(statements.len() as u64)?;
    for statement in statements {
        e.bytes(&statement.to_bytes())?;
    }
    Ok(e.into_writer())
}

fn decode(bytes: &[u8]) -> Result<Vec<Revocation>> {
    let mut d = Decoder::new(bytes);
    let count = d.array()?.context("a list of unknown length")?.min(MAX_REVOKED as u64);
    let mut statements = Vec::new();
    for _ in 0..count {
        match Revocation::from_bytes(d.bytes()?) {
            Ok(revocation) => statements.push(revocation),
            Err(e) => tracing::error!("a kept revocation is left out: {e}"),
        }
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use os_identity::NodeKey;
    use os_ucan::TokenId;

    use super::*;

    fn revocation(number: u32) -> Revocation {
        Revocation::issue(TokenId::of(&number.to_be_bytes()), 7, &NodeKey::from_seed(&[1; 32]))
    }

    #[test]
    fn statements_survive_a_restart_once_each_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked.cbor");
        let mut file = RevokedFile::load(path.clone());
        assert!(file.add(revocation(0)).unwrap());
        assert!(!file.add(revocation(0)).unwrap());
        assert_eq!(RevokedFile::load(path.clone()).statements, [revocation(0)]);
        (1..=MAX_REVOKED as u32).for_each(|n| assert!(file.add(revocation(n)).unwrap()));
        let again = RevokedFile::load(path.clone());
        assert_eq!(again.statements.len(), MAX_REVOKED);
        assert_eq!(again.statements[0], revocation(1), "the oldest made room");
        durable::write(&path, b"garbage").unwrap();
        assert_eq!(RevokedFile::load(path).iter().count(), 0);
    }
}
