//! Named contents: what must not be removed to make room. One small file per name, written new and renamed.
//!
//! The file's name is the hash of the pin's name; it holds the MCID's text, a newline and the name.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use os_content_id::{MAX_NAME, Mcid, hash};

use crate::files::{Files, read_bounded, remove};

pub(crate) const MAX_PINS: usize = 4096;

#[derive(Default)]
pub(crate) struct Pins(BTreeMap<String, Mcid>);

impl Pins {
    /// Files that cannot be understood are passed over and said so.
    pub fn open(files: &Files) -> io::Result<Self> {
        let mut pins = BTreeMap::new();
        for entry in fs::read_dir(files.pins())?.take(MAX_PINS) {
            let path = entry?.path();
            match read_bounded(&path, MAX_NAME + 128)?.and_then(parse) {
                Some((name, mcid)) => drop(pins.insert(name, mcid)),
                None => tracing::warn!("{} is not a pin, left alone", path.display()),
            }
        }
        Ok(Self(pins))
    }

    pub fn is_full_for(&self, name: &str) -> bool {
        self.0.len() >= MAX_PINS && !self.0.contains_key(name)
    }

    pub fn contains(&self, mcid: &Mcid) -> bool {
        self.0.values().any(|m| m == mcid)
    }

    pub fn set(&mut self, files: &Files, name: &str, mcid: Mcid) -> io::Result<()> {
        let place = files.pins().join(file_name(name));
        let mut pending = vec![files.write(place, format!("{mcid}\n{name}").as_bytes())?];
        files.settle(&mut pending)?;
        self.0.insert(name.to_string(), mcid);
        files.sync()
    }

    pub fn clear(&mut self, files: &Files, name: &str) -> io::Result<()> {
        remove(&files.pins().join(file_name(name)))?;
        self.0.remove(name);
        Ok(())
    }

    pub fn list(&self) -> impl Iterator<Item = (&String, &Mcid)> {
        self.0.iter()
    }
}

fn file_name(name: &str) -> String {
    data_encoding::HEXLOWER.encode(&hash(name.as_bytes()))
}

fn parse(bytes: Vec<u8>) -> Option<(String, Mcid)> {
    let text = String::from_utf8(bytes).ok()?;
    let (mcid, name) = text.split_once('\n')?;
    Some((name.to_string(), mcid.parse().ok()?))
}
