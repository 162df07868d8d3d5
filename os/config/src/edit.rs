//! Changes to the text of a `config.toml`, comments and order kept. A change is taken only if the whole file is valid with it.

use toml_edit::{DocumentMut, InlineTable, Item, Table, Value};

use crate::secret::{HIDDEN, without_values};
use crate::{Config, ConfigError};

/// The deepest key there is has two words.
const WORDS_MAX: usize = 4;

/// The text with `key` (such as `mesh.port`) set. `value` is TOML (`5000`, `true`, `["a", "b"]`), or, where that is not
/// valid, a string without its quotes.
pub fn set(text: &str, key: &str, value: &str) -> Result<(String, Config), ConfigError> {
    let words = words(key)?;
    let string = || Value::from(value);
    let candidates = [value.trim().parse::<Value>().ok(), Some(string())];
    let mut first_error = None;
    for candidate in candidates.into_iter().flatten() {
        match with(text, &words, candidate) {
            Ok(done) => return Ok(done),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| ConfigError::value(key, "not a value")))
}

/// The same for several keys that are only valid together. What is no TOML is a string without its quotes.
pub fn set_together(text: &str, changes: &[(&str, &str)]) -> Result<(String, Config), ConfigError> {
    let mut document = document(text)?;
    for (key, value) in changes {
        put(&mut document, &words(key)?, value.trim().parse().unwrap_or_else(|_| Value::from(*value)))?;
    }
    checked(&document)
}

/// The same for several keys at once: the whole has to be valid, what is in between need not be. Values are TOML.
pub fn set_all<K, V>(text: &str, changes: &[(K, V)]) -> Result<(String, Config), ConfigError>
where
    K: AsRef<str>,
    V: AsRef<str>,
{
    let mut document = document(text)?;
    for (key, value) in changes {
        let key = key.as_ref();
        let parsed = value.as_ref().trim().parse::<Value>();
        let value = parsed.map_err(|e| ConfigError::value(key, without_values(e.message())))?;
        put(&mut document, &words(key)?, value)?;
    }
    checked(&document)
}

/// The text without these keys, the owner's among them, where they are set.
pub fn unset_all(text: &str, keys: &[&str]) -> Result<(String, Config), ConfigError> {
    let mut document = document(text)?;
    for key in keys {
        let words = words(key)?;
        let (last, path) = words.split_last().ok_or_else(|| ConfigError::value(*key, "no key"))?;
        let mut table = Some(document.as_table_mut());
        for word in path {
            table = table.and_then(|table| table.get_mut(word)).and_then(Item::as_table_mut);
        }
        table.and_then(|table| table.remove(last));
    }
    checked(&document)
}

/// The text without `key`: its default holds again. Not for the owner, without whom nobody could set anything.
pub fn unset(text: &str, key: &str) -> Result<(String, Config), ConfigError> {
    let words = words(key)?;
    if words == ["owner"] {
        return Err(ConfigError::value(
            key,
            "a node without an owner takes no orders: set another one, or reset the node",
        ));
    }
    let mut document = document(text)?;
    let (last, path) = words.split_last().ok_or_else(|| ConfigError::value(key, "no key"))?;
    let mut table: &mut Table = document.as_table_mut();
    for word in path {
        let inner = table.get_mut(word).and_then(Item::as_table_mut);
        table = inner.ok_or_else(|| ConfigError::value(key, "is not set"))?;
    }
    if table.remove(last).is_none() {
        return Err(ConfigError::value(key, "is not set"));
    }
    checked(&document)
}

/// The whole text for people, secrets hidden; or, of one key, its value or the part of the file that it names.
pub fn show(text: &str, key: Option<&str>) -> Result<String, ConfigError> {
    let mut document = document(text)?;
    hide(document.as_table_mut(), false);
    part(&document, key).map(|shown| without_secret_comments(&shown))
}

/// The same with its secrets.
pub fn reveal(text: &str, key: Option<&str>) -> Result<String, ConfigError> {
    part(&document(text)?, key)
}

/// A value as somebody gives it to [`set`], for logs.
pub fn value_for_logs(key: &str, value: &str) -> String {
    if is_secret(key) {
        return HIDDEN.into();
    }
    match value.trim().parse::<Value>() {
        Ok(mut parsed) => {
            hide_value(&mut parsed, false);
            parsed.to_string().trim().to_owned()
        }
        // A string without its quotes; of a table's text, something may be wrong with its syntax.
        Err(_) if value.contains(['=', '{', '[']) => HIDDEN.into(),
        Err(_) => value.to_owned(),
    }
}

fn part(document: &DocumentMut, key: Option<&str>) -> Result<String, ConfigError> {
    let Some(key) = key else { return Ok(document.to_string()) };
    let words = words(key)?;
    let mut item = document.as_item();
    for word in &words {
        item = item.get(word).ok_or_else(|| ConfigError::value(key, "is not set; the default holds"))?;
    }
    Ok(match item {
        Item::Value(Value::String(string)) => string.value().clone(),
        Item::Value(value) => value.to_string().trim().to_owned(),
        Item::Table(table) => {
            let mut alone = table.clone();
            // One that is there by a dotted key prints nothing by itself.
            alone.set_dotted(false);
            DocumentMut::from(alone).to_string().trim().to_owned()
        }
        other => {
            let mut alone = Table::new();
            alone.insert(words.last().copied().unwrap_or(key), other.clone());
            DocumentMut::from(alone).to_string().trim().to_owned()
        }
    })
}

/// Whether a key holds what must not be shown: `passphrase` of a Wi-Fi network, and whatever will have such a name.
pub fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    ["secret", "password", "passphrase", "psk", "token", "pin"]
        .iter()
        .any(|word| last.split('_').any(|part| part == *word))
}

fn with(text: &str, words: &[&str], value: Value) -> Result<(String, Config), ConfigError> {
    let mut document = document(text)?;
    put(&mut document, words, value)?;
    checked(&document)
}

fn put(document: &mut DocumentMut, words: &[&str], value: Value) -> Result<(), ConfigError> {
    let (last, path) = words.split_last().ok_or_else(|| ConfigError::value("", "no key"))?;
    let mut table: &mut Table = document.as_table_mut();
    for word in path {
        let inner = table.entry(word).or_insert_with(toml_edit::table).as_table_mut();
        table = inner.ok_or_else(|| ConfigError::value(words.join("."), "is inside a value, not a table"))?;
    }
    match table.get_mut(last).and_then(Item::as_value_mut) {
        // The comment behind the old value stays.
        Some(old) => {
            let decor = old.decor().clone();
            *old = value;
            *old.decor_mut() = decor;
        }
        None => drop(table.insert(last, Item::Value(value))),
    }
    Ok(())
}

fn checked(document: &DocumentMut) -> Result<(String, Config), ConfigError> {
    let text = document.to_string();
    if text.len() as u64 > crate::MAX_SIZE {
        return Err(ConfigError::value(
            "config.toml",
            format!("would be larger than {} bytes", crate::MAX_SIZE),
        ));
    }
    let config = Config::parse(&text)?;
    Ok((text, config))
}

fn document(text: &str) -> Result<DocumentMut, ConfigError> {
    text.parse()
        .map_err(|e: toml_edit::TomlError| ConfigError::value("config.toml", without_values(e.message())))
}

fn words(key: &str) -> Result<Vec<&str>, ConfigError> {
    let words: Vec<&str> = key.split('.').collect();
    let plain = |word: &&str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    match words.len() <= WORDS_MAX && words.iter().all(plain) {
        true => Ok(words),
        false => {
            Err(ConfigError::value(key.chars().take(64).collect::<String>(), "not a key such as mesh.port"))
        }
    }
}

/// `all`: the table is a secret's.
fn hide(table: &mut Table, all: bool) {
    for (key, item) in table.iter_mut() {
        let secret = all || is_secret(&key);
        match item {
            Item::Table(inner) => hide(inner, secret),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|inner| hide(inner, secret)),
            Item::Value(value) => hide_value(value, secret),
            Item::None => {}
        }
    }
}

fn hide_value(value: &mut Value, secret: bool) {
    match value {
        Value::InlineTable(inner) => hide_inline(inner, secret),
        Value::Array(values) => values.iter_mut().for_each(|inner| hide_value(inner, secret)),
        _ if secret => *value = Value::from(HIDDEN),
        _ => {}
    }
}

fn hide_inline(table: &mut InlineTable, all: bool) {
    table.iter_mut().for_each(|(key, value)| hide_value(value, all || is_secret(&key)));
}

/// Comments are the owner's, and may hold an old passphrase. A `#` inside a string only makes a line shorter that nobody has to read.
fn without_secret_comments(text: &str) -> String {
    let words = |comment: &str| {
        comment.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| is_secret(&w.to_lowercase()))
    };
    let line = |line: &str| match line.find('#') {
        Some(at) if words(&line[at..]) => format!("{}# {HIDDEN}\n", &line[..at]),
        _ => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";
    const TEXT: &str =
        "# my node\nname = \"roof\" # not the cellar\n\n[mesh]\n# behind the router\nport = 5000\n";

    #[test]
    fn what_is_only_valid_together_is_set_together() {
        assert!(set("", "update.channel", "stable").is_err(), "a channel is somebody's");
        let keys = format!("[\"{KEY}\"]");
        let all =
            [("update.channel", "stable"), ("update.publisher", KEY), ("update.release_keys", keys.as_str())];
        let config = set_together("", &all).unwrap().1;
        assert_eq!(config.update.channel.unwrap().name, "stable");
        assert_eq!(config.update.release_keys.len(), 1);
        assert!(set_together("", &all[..1]).unwrap_err().to_string().contains("update.publisher"));
        assert!(set_together("name = 'a'", &[("name", "b"), ("nmae", "c")]).is_err());
    }

    #[test]
    fn a_value_is_set_where_it_belongs_and_comments_stay() {
        let (text, config) = set(TEXT, "mesh.port", "5001").unwrap();
        assert_eq!(text, TEXT.replace("5000", "5001"));
        assert_eq!(config.mesh.port, 5001);
        let (text, _) = set(TEXT, "name", "cellar").unwrap();
        assert_eq!(text, TEXT.replace("\"roof\"", "\"cellar\""));
        let (text, config) = set(TEXT, "gate.timeout_s", "60").unwrap();
        assert!(text.starts_with(TEXT) && config.gate.timeout_s == 60, "{text}");
        let (_, config) = set("", "update.release_keys", &format!("[\"{KEY}\"]")).unwrap();
        assert_eq!(config.update.release_keys.len(), 1);
    }

    #[test]
    fn a_string_needs_no_quotes_and_may_look_like_a_number() {
        for (value, name) in [("cellar", "cellar"), ("\"cellar\"", "cellar"), ("7", "7"), ("true", "true")] {
            assert_eq!(set(TEXT, "name", value).unwrap().1.name, name);
        }
        assert_eq!(set(TEXT, "owner", KEY).unwrap().1.owner.unwrap().to_string(), KEY);
    }

    #[test]
    fn what_the_node_would_not_take_is_refused_with_the_key() {
        for (key, value, word) in [
            ("mesh.port", "0", "mesh.port"),
            ("mesh.port", "many", "port"),
            ("nmae", "x", "nmae"),
            ("name", "Kitchen Pi", "name"),
            ("owner", "me", "owner"),
            ("update.channel", "stable", "update.publisher"),
            ("name.x", "1", "name"),
            ("", "1", "key"),
            ("a..b", "1", "key"),
            ("mesh.port\nname", "1", "key"),
            ("mesh", "1", "mesh"),
        ] {
            let error = set(TEXT, key, value).unwrap_err().to_string();
            assert!(error.contains(word), "{key} = {value}: {error}");
        }
    }

    #[test]
    fn several_keys_are_set_together_or_none() {
        let publisher = format!("\"{KEY}\"");
        let changes = [
            ("update.channel", "\"stable\""),
            ("update.publisher", publisher.as_str()),
            ("name", "\"roof\""),
        ];
        let (text, config) = set_all(TEXT, &changes).unwrap();
        assert_eq!((config.name.as_str(), config.update.channel.unwrap().name.as_str()), ("roof", "stable"));
        assert!(text.contains("# my node"));
        assert!(set_all(TEXT, &changes[..1]).unwrap_err().to_string().contains("update.publisher"));
        assert!(set_all(TEXT, &[("name", "roof")]).unwrap_err().to_string().contains("name"), "no quotes");
        let broken = set_all(TEXT, &[("name", "\"hunter2")]).unwrap_err().to_string();
        assert!(broken.contains("name") && !broken.contains("hunter2"), "{broken}");
    }

    #[test]
    fn a_node_can_be_made_to_forget() {
        let text = format!(
            "name = \"a\"\nowner = \"{KEY}\"\n[clients]\nmacula = \"listed\"\n[update]\nrelease_keys = [\"{KEY}\"]\n"
        );
        let (text, config) =
            unset_all(&text, &["owner", "clients", "update.release_keys", "gateway.public"]).unwrap();
        assert_eq!((config.owner, config.update.release_keys.len(), config.name.as_str()), (None, 0, "a"));
        assert!(!text.contains(KEY) && !text.contains("clients"), "{text}");
    }

    #[test]
    fn a_key_is_removed_but_never_the_owner() {
        let (text, config) = unset(TEXT, "mesh.port").unwrap();
        assert_eq!(config.mesh.port, 4433);
        assert!(!text.contains("port =") && text.contains("# my node"));
        assert!(unset(TEXT, "mesh.mdns").unwrap_err().to_string().contains("is not set"));
        let owned = format!("owner = \"{KEY}\"\n");
        assert!(unset(&owned, "owner").unwrap_err().to_string().contains("reset"));
    }

    #[test]
    fn secrets_hide_wherever_they_are() {
        for text in [
            "[network]\nwifi = [{ ssid = \"attic\", passphrase = \"hunter2 hunter2\" }]\n",
            "[[network.wifi]]\nssid = \"attic\"\npassphrase = \"hunter2 hunter2\"\n",
            "network.wifi = [{ ssid = \"attic\", passphrase = 'hunter2 hunter2' }]\n# the passphrase was hunter2\n",
            "network = { wifi = [{ ssid = \"attic\", \"passphrase\" = \"hunter2 hunter2\" }] } # PSK hunter2\n",
        ] {
            Config::parse(text).unwrap();
            for key in [None, Some("network"), Some("network.wifi")] {
                let shown = show(text, key).unwrap();
                assert!(shown.contains("attic") && !shown.contains("hunter2"), "{text} {key:?}: {shown}");
            }
        }
        assert!(
            !show("[secret]\na = \"hunter2\"\nb = { c = [\"hunter2\"] }\n", None)
                .unwrap()
                .contains("hunter2")
        );
        for value in ["[{ssid=\"attic\",passphrase=\"hunter2 hunter2\"}]", "[{passphrase=\"hunter2\""] {
            assert!(!value_for_logs("network.wifi", value).contains("hunter2"));
        }
        assert_eq!(
            (value_for_logs("a.psk", "x").as_str(), value_for_logs("mesh.port", "5000").as_str()),
            (HIDDEN, "5000")
        );
        assert_eq!(value_for_logs("name", "roof"), "roof");
        let wifi = "[{ssid=\"attic\",passphrase=\"hunter2 hunter2\"}]";
        assert_eq!(set("", "network.wifi", wifi).unwrap().1.network.wifi.len(), 1);
        let short =
            set("", "network.wifi", "[{ssid=\"attic\",passphrase=\"hunter2\"}]").unwrap_err().to_string();
        assert!(short.contains("network.wifi[0].passphrase") && !short.contains("hunter2"), "{short}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = "name = \"a\"\n[wifi]\npassword = \"hunter2\"\n";
        let shown = show(text, None).unwrap();
        assert!(!shown.contains("hunter2") && shown.contains("name = \"a\""), "{shown}");
        assert_eq!(show(text, Some("wifi.password")).unwrap(), HIDDEN);
        assert_eq!(reveal(text, Some("wifi.password")).unwrap(), "hunter2");
        assert_eq!(reveal(text, None).unwrap(), text);
        assert_eq!(show(text, Some("name")).unwrap(), "a");
        assert!(show(text, Some("realm")).is_err());
        assert!(
            is_secret("wifi.psk")
                && is_secret("tpm_pin")
                && !is_secret("update.release_keys")
                && !is_secret("spin")
        );
    }
}
