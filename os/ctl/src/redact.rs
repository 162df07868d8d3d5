//! What may leave a node in a support bundle.
//!
//! A configuration is let through by a list of keys that are known to be harmless: what is not on it is hidden, whatever it is called.
//! In free text, such as log lines, there is no such list; there all that has the form of a secret is hidden.

use toml::{Table, Value};

pub const HIDDEN: &str = "(hidden)";

/// Keys of config.toml; lists are named like what is in them, `.*` is everything beneath.
const HARMLESS: [&str; 19] = [
    "version",
    "name",
    "realm",
    "owner",
    "time_zone",
    "network.country",
    "network.wifi.hidden",
    "mesh.*",
    "clients.macula",
    "clients.keys",
    "clients.realms",
    "gateway.enabled",
    "gateway.public",
    "update.*",
    "gate.timeout_s",
    "gate.steady_s",
    "gate.check.name",
    "gate.check.timeout_s",
    "state.encryption",
];

/// A configuration without comments, and without what is not known to be harmless. A text that is no TOML is hidden whole.
pub fn config(text: &str) -> String {
    let Ok(table) = text.parse::<Table>() else { return format!("# {HIDDEN}: this is not valid TOML\n") };
    let kept = only_harmless("", &Value::Table(table));
    kept.as_table().and_then(|table| toml::to_string(table).ok()).unwrap_or_default()
}

fn only_harmless(path: &str, value: &Value) -> Value {
    match value {
        Value::Table(table) => {
            let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            table
                .iter()
                .map(|(key, value)| (key.clone(), only_harmless(&inner(key), value)))
                .collect::<Table>()
                .into()
        }
        Value::Array(values) => {
            values.iter().map(|value| only_harmless(path, value)).collect::<Vec<_>>().into()
        }
        value if is_harmless(path) => value.clone(),
        _ => HIDDEN.into(),
    }
}

fn is_harmless(path: &str) -> bool {
    HARMLESS.iter().any(|known| match known.strip_suffix("*") {
        Some(above) => path.starts_with(above) && !os_config::edit::is_secret(path),
        None => path == *known,
    })
}

/// Free text, line by line.
pub fn text(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> String {
    if line.contains("PRIVATE KEY") {
        return format!("{HIDDEN}: a private key\n");
    }
    let mut shown = String::new();
    let mut rest = line;
    let mut hide_next = false;
    while let Some(from) = rest.find(|c: char| !c.is_whitespace()) {
        let word = &rest[from..];
        let to = from + word.find(char::is_whitespace).unwrap_or(word.len());
        shown.push_str(&rest[..from]);
        let word = &rest[from..to];
        let joint = matches!(word, "=" | ":" | "is" | "was" | "->");
        let end = word.ends_with([',', ';', '"', '}', ')']);
        shown.push_str(&if hide_next && !joint { HIDDEN.into() } else { self::word(word) });
        // `passphrase: x`, `"token": "x"`, `PIN = x`; what is in quotes may have several words.
        hide_next = names_secret(word) || (hide_next && (joint || !end));
        rest = &rest[to..];
    }
    shown + rest
}

fn word(word: &str) -> String {
    let lower = word.to_lowercase();
    if let Some(at) = lower.find("macula:pair") {
        return format!("{}macula:pair{HIDDEN}", word.get(..at).unwrap_or_default());
    }
    // A UCAN or another JWT; a recovery key (eight letters of modhex, eight times); user and password in a URL.
    let dots = word.matches('.').count() >= 2 && word.contains("eyJ");
    let modhex = |part: &str| part.len() == 8 && part.bytes().all(|b| b"cbdefghijklnrtuv".contains(&b));
    let is_key = lower.split(['-', '"', ',']).filter(|part| modhex(part)).count() >= 4;
    let in_url = word
        .find("://")
        .is_some_and(|at| word[at + 3..].split('/').next().is_some_and(|host| host.contains('@')));
    if dots || is_key || in_url {
        return HIDDEN.into();
    }
    // `secret=x`, `?code=x&y`, `"psk":"x"`.
    let Some(at) = word.find(['=', ':']) else { return word.to_owned() };
    if names_secret(&word[..=at]) && !word[at + 1..].is_empty() {
        return format!("{}{HIDDEN}", &word[..=at]);
    }
    match word[at + 1..].find(['?', '&']).map(|more| at + 1 + more + 1) {
        Some(more) => format!("{}{}", &word[..more], self::word(&word[more..])),
        None => word.to_owned(),
    }
}

/// Whether the word says that a secret follows it.
fn names_secret(word: &str) -> bool {
    let Some(named) = word.strip_suffix([':', '=']).or_else(|| is_bare_secret(word).then_some(word)) else {
        return false;
    };
    let parts = named.split(|c: char| !c.is_ascii_alphanumeric());
    parts.filter(|p| !p.is_empty()).any(|part| is_secret_word(&part.to_lowercase()))
}

/// `Bearer x`, `passphrase x`: such words are followed by what they name. `token` and `code` mostly are not.
fn is_bare_secret(word: &str) -> bool {
    matches!(word.to_lowercase().trim_matches('"'), "bearer" | "passphrase" | "password" | "psk" | "pin")
}

fn is_secret_word(word: &str) -> bool {
    os_config::edit::is_secret(word)
        || matches!(word, "bearer" | "authorization" | "code" | "credential" | "ucan" | "cookie")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hunter2";

    #[test]
    fn what_is_not_known_to_be_harmless_does_not_pass() {
        let shown = config(
            "name = \"roof\" # hunter2\nnew_thing = \"hunter2\"\n[mesh]\nport = 5000\ntoken = \"hunter2\"\n\
             [[network.wifi]]\nssid = \"hunter2\"\npassphrase = \"hunter2\"\nhidden = true\n\
             [[gate.check]]\nname = \"web\"\nhttp = \"http://hunter2@a\"\n[apps.x]\nenv = [\"hunter2\"]\n",
        );
        assert!(!shown.contains(SECRET), "{shown}");
        for kept in
            ["name = \"roof\"", "port = 5000", "hidden = true", "name = \"web\"", "passphrase = \"(hidden)\""]
        {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
        assert!(!config("name = \"hunter2").contains(SECRET));
        assert_eq!(config(""), "");
    }

    #[test]
    fn secrets_in_free_text_are_found_by_their_form() {
        for line in [
            "show this: macula:pair?k=z6Mk&s=hunter2&a=10.0.0.1",
            "joined with passphrase=hunter2",
            "joined with passphrase hunter2 at once",
            "psk: \"hunter2 and hunter2\", channel 6",
            "{\"psk\":\"hunter2\",\"ssid\":\"a\"}",
            "GET /a?code=hunter2 HTTP/1.1",
            "Authorization: Bearer hunter2",
            "the PIN = hunter2",
            "api_token: hunter2",
            "-----BEGIN PRIVATE KEY----- hunter2",
            "fetching https://me:hunter2@example.org/a",
            "Pairing code: hunter2",
        ] {
            let shown = text(line);
            assert!(!shown.contains(SECRET), "{line}: {shown}");
        }
        for secret in [
            "token eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJkaWQ6a2V5In0.c2ln",
            "recovery key cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv",
        ] {
            assert!(text(secret).contains(HIDDEN) && text(secret).len() < 40, "{}", text(secret));
        }
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        for line in [
            "[    12.034] mesh  3 peers, listening on [::]:4433\n",
            "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx connected from 10.0.0.1:4433\n",
            "install 1 in slot A, panic: kernel panic: x\n\n",
            "fetching https://example.org/a?b=c mcid1-raw-blake3-00ff\n",
            "exited with code 2: no route\n",
            "",
        ] {
            assert_eq!(text(line), line);
        }
    }
}
