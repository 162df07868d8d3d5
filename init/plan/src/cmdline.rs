//! The kernel command line, as far as `init` obeys it.
//!
//! It is part of the UKI, so it names the release it belongs to: whatever `macula.*` key is missing, doubled or
//! unknown is an error of the image, found on its first boot.

use crate::guid::Guid;
use crate::modules::canonical;

/// Longest accepted `/proc/cmdline`: the kernel's own limit on x86 is 2048.
const LENGTH_MAX: usize = 4096;

/// What the `macula.*` keys say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    pub root: Root,
    /// `macula.version`: the release's version, for display and `boot.json`.
    pub version: String,
    /// `macula.board`: the profile's name.
    pub board: String,
    /// `macula.built=20261123T080000Z`: a time that has certainly been when the release was built, seconds since 1970. 0
    /// when the image does not say.
    pub built_unix: u64,
    /// `macula.entry` and `macula.esp`: what the firmware's variables would say. For developers who boot a kernel
    /// directly; ignored as soon as the firmware names an entry itself.
    pub developer: Option<Developer>,
    /// `macula.reset=ask`: the boot menu's entry for a factory reset was chosen.
    pub ask_reset: bool,
    /// `macula.recover=ask`: the one for a node whose owner has lost the key.
    pub ask_recover: bool,
}

/// What becomes the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A slot's partition, through dm-verity.
    Slot(Verity),
    /// `macula.rescue`: the initramfs itself, which then holds the whole system.
    Rescue,
}

/// `macula.verity=<root hash>,<salt>,<data blocks>`: hashes in hexadecimal, data blocks of 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    /// 64 lower-case hexadecimal digits (SHA-256).
    pub root_hash: String,
    /// Lower-case hexadecimal, at most 64 digits; never empty.
    pub salt: String,
    pub data_blocks: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Developer {
    pub entry: String,
    pub esp: Guid,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandLineError {
    #[error("kernel command line is {0} bytes long, more than {LENGTH_MAX}")]
    TooLong(usize),
    #[error("kernel command line lacks {0}=: the image was built without it")]
    Missing(&'static str),
    #[error("kernel command line has {0}= twice")]
    Doubled(String),
    #[error("kernel command line has {0}=, which this init does not know")]
    Unknown(String),
    #[error("kernel command line: {key}={value:?}: {reason}")]
    Bad { key: &'static str, value: String, reason: &'static str },
}

impl CommandLine {
    /// Parses `/proc/cmdline`. Keys without the `macula.` prefix belong to the kernel and are skipped.
    pub fn parse(text: &str) -> Result<CommandLine, CommandLineError> {
        if text.len() > LENGTH_MAX {
            return Err(CommandLineError::TooLong(text.len()));
        }
        let mut keys = Keys::collect(text)?;
        let root = match keys.take("macula.rescue") {
            Some(_) => Root::Rescue,
            None => Root::Slot(parse_verity(&keys.need("macula.verity")?)?),
        };
        let version = name("macula.version", keys.need("macula.version")?)?;
        let board = name("macula.board", keys.need("macula.board")?)?;
        let built_unix = keys.take("macula.built").map_or(Ok(0), |value| built(&value))?;
        let developer = match (keys.take("macula.entry"), keys.take("macula.esp")) {
            (None, None) => None,
            (Some(entry), Some(esp)) => {
                Some(Developer { entry: name("macula.entry", entry)?, esp: parse_esp(&esp)? })
            }
            (Some(_), None) => return Err(CommandLineError::Missing("macula.esp")),
            (None, Some(_)) => return Err(CommandLineError::Missing("macula.entry")),
        };
        let ask_reset = asked(&mut keys, "macula.reset")?;
        let ask_recover = asked(&mut keys, "macula.recover")?;
        match keys.0.pop() {
            Some((key, _)) => Err(CommandLineError::Unknown(key)),
            None => Ok(CommandLine { root, version, board, built_unix, developer, ask_reset, ask_recover }),
        }
    }
}

/// What a person is asked about. Never what is done unasked.
fn asked(keys: &mut Keys, key: &'static str) -> Result<bool, CommandLineError> {
    match keys.take(key) {
        None => Ok(false),
        Some(value) if value == "ask" => Ok(true),
        Some(value) => Err(CommandLineError::Bad { key, value, reason: "expected ask" }),
    }
}

/// What the command line says to a module: its `name.parameter=value` words, as modprobe hands them over. `-` and `_` are
/// the same in the module's name.
pub fn module_parameters(text: &str, module: &str) -> String {
    let wanted = canonical(module);
    let of_module = |word: String| {
        let (name, parameter) = word.split_once('.')?;
        let (key, value) = parameter.split_once('=').map_or((parameter, None), |(k, v)| (k, Some(v)));
        let quoted = |value: &str| match value.contains(char::is_whitespace) {
            true => format!("\"{value}\""),
            false => value.to_owned(),
        };
        (canonical(name) == wanted && !key.is_empty())
            .then(|| value.map_or(key.to_owned(), |value| format!("{key}={}", quoted(value))))
    };
    words(text).into_iter().filter_map(of_module).collect::<Vec<_>>().join(" ")
}

struct Keys(Vec<(String, String)>);

impl Keys {
    fn collect(text: &str) -> Result<Keys, CommandLineError> {
        let mut found: Vec<(String, String)> = Vec::new();
        for word in words(text).into_iter().filter(|word| word.starts_with("macula.")) {
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            if found.iter().any(|(known, _)| known == key) {
                return Err(CommandLineError::Doubled(key.to_owned()));
            }
            found.push((key.to_owned(), value.to_owned()));
        }
        Ok(Keys(found))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.remove(at).1)
    }

    fn need(&mut self, key: &'static str) -> Result<String, CommandLineError> {
        self.take(key).ok_or(CommandLineError::Missing(key))
    }
}

/// Splits at white space outside double quotes, as the kernel does.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            _ if letter.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words
}

fn parse_verity(value: &str) -> Result<Verity, CommandLineError> {
    let bad = |reason| CommandLineError::Bad { key: "macula.verity", value: value.to_owned(), reason };
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parts: Vec<&str> = value.split(',').collect();
    let &[root_hash, salt, blocks] = parts.as_slice() else {
        return Err(bad("expected <root hash>,<salt>,<data blocks>"));
    };
    if root_hash.len() != 64 || !hex(root_hash) {
        return Err(bad("the root hash is not 64 lower-case hexadecimal digits"));
    }
    if salt.is_empty() || salt.len() > 64 || !salt.len().is_multiple_of(2) || !hex(salt) {
        return Err(bad("the salt is not 2 to 64 lower-case hexadecimal digits"));
    }
    let data_blocks: u64 = blocks.parse().map_err(|_| bad("the data blocks are not a number"))?;
    // 2^28 blocks of 4096 bytes are 1 TiB: far above any root partition, far below any overflow.
    if !(1..=1 << 28).contains(&data_blocks) {
        return Err(bad("the number of data blocks is out of range"));
    }
    Ok(Verity { root_hash: root_hash.to_owned(), salt: salt.to_owned(), data_blocks })
}

fn built(value: &str) -> Result<u64, CommandLineError> {
    let reason = "expected a time like 20261123T080000Z";
    let bad = || CommandLineError::Bad { key: "macula.built", value: value.to_owned(), reason };
    os_clock::parse_stamp(value).ok_or_else(bad)
}

fn name(key: &'static str, value: String) -> Result<String, CommandLineError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._+-/~".contains(&b);
    if value.is_empty() || value.len() > 64 || !value.bytes().all(fine) {
        let reason = "expected 1 to 64 letters, digits or . _ + - / ~";
        return Err(CommandLineError::Bad { key, value, reason });
    }
    Ok(value)
}

fn parse_esp(value: &str) -> Result<Guid, CommandLineError> {
    let reason = "expected the partition GUID of the ESP";
    value.parse().map_err(|_| CommandLineError::Bad { key: "macula.esp", value: value.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> String {
        format!(
            "console=ttyS0 macula.verity={},{},1234 macula.version=0.1.0 macula.board=x86-generic panic=5\n",
            "ab".repeat(32),
            "01".repeat(32)
        )
    }

    #[test]
    fn reads_its_own_keys_and_skips_the_kernels() {
        let line = CommandLine::parse(&good()).unwrap();
        let verity = Verity { root_hash: "ab".repeat(32), salt: "01".repeat(32), data_blocks: 1234 };
        assert_eq!(line.root, Root::Slot(verity));
        assert_eq!(
            (line.version.as_str(), line.board.as_str(), line.developer),
            ("0.1.0", "x86-generic", None)
        );
    }

    #[test]
    fn rescue_has_no_slot_to_open() {
        let parse = CommandLine::parse;
        let line = parse("panic=5 macula.rescue macula.version=0.1.0 macula.board=x86-generic").unwrap();
        assert_eq!(line.root, Root::Rescue);
        assert!(parse(&format!("{} macula.rescue", good())).is_err(), "either a slot or rescue");
    }

    #[test]
    fn developer_keys_come_together() {
        let esp = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let line = CommandLine::parse(&format!("{} macula.entry=macula-000001.efi macula.esp={esp}", good()))
            .unwrap();
        assert_eq!(
            line.developer,
            Some(Developer { entry: "macula-000001.efi".into(), esp: esp.parse().unwrap() })
        );
        let half = CommandLine::parse(&format!("{} macula.entry=macula-000001.efi", good()));
        assert_eq!(half, Err(CommandLineError::Missing("macula.esp")));
    }

    #[test]
    fn refuses_what_is_missing_doubled_unknown_or_malformed() {
        let parse = CommandLine::parse;
        assert_eq!(parse("console=ttyS0"), Err(CommandLineError::Missing("macula.verity")));
        assert_eq!(
            parse(&format!("{0} macula.board=b", good())),
            Err(CommandLineError::Doubled("macula.board".into()))
        );
        assert_eq!(
            parse(&format!("{0} macula.shell", good())),
            Err(CommandLineError::Unknown("macula.shell".into()))
        );
        assert_eq!(parse(&"x".repeat(5000)), Err(CommandLineError::TooLong(5000)));
        for verity in [
            "",
            "ab,cd",
            "zz,00,1",
            &format!("{},00,0", "ab".repeat(32)),
            &format!("{},,9", "ab".repeat(32)),
            &format!("{},00,99999999999", "ab".repeat(32)),
            &format!("{},00,-1", "AB".repeat(32)),
        ] {
            let line = parse(&format!("macula.verity={verity} macula.version=1 macula.board=b"));
            assert!(matches!(line, Err(CommandLineError::Bad { key: "macula.verity", .. })), "{verity}");
        }
        assert!(parse(&good().replace("x86-generic", "a;b")).is_err());
    }

    #[test]
    fn the_time_of_the_build_is_optional_and_checked() {
        let parse = |more: &str| CommandLine::parse(&format!("{} {more}", good()));
        assert_eq!(parse("").unwrap().built_unix, 0);
        assert_eq!(parse("macula.built=20261123T080000Z").unwrap().built_unix, 1_795_420_800);
        assert!(matches!(
            parse("macula.built=lately"),
            Err(CommandLineError::Bad { key: "macula.built", .. })
        ));
    }

    #[test]
    fn parameters_reach_their_module_alone() {
        let line = "a.b=1 panic=5 dm-mod.create=\"x y\" dm_mod.flag ramoops.mem_name=macula .x=1 dm_mod.=2";
        assert_eq!(module_parameters(line, "dm_mod"), "create=\"x y\" flag");
        assert_eq!(module_parameters(line, "ramoops"), "mem_name=macula");
        assert_eq!(module_parameters(line, "erofs"), "");
    }

    #[test]
    fn a_reset_is_only_ever_asked_about() {
        let line = |more: &str| CommandLine::parse(&format!("{} {more}", good())).map(|line| line.ask_reset);
        assert_eq!((line(""), line("macula.reset=ask")), (Ok(false), Ok(true)));
        assert!(line("macula.reset=yes").is_err() && line("macula.reset").is_err());
        let recover =
            |more: &str| CommandLine::parse(&format!("{} {more}", good())).map(|line| line.ask_recover);
        assert_eq!((recover(""), recover("macula.recover=ask")), (Ok(false), Ok(true)));
        assert!(recover("macula.recover=yes").is_err());
    }

    #[test]
    fn quotes_keep_a_value_together() {
        assert_eq!(words("a \"b c\"=d e"), ["a", "b c=d", "e"]);
    }
}
