//! `--node`: which node, where. A node's name in the local network or `ADDR[:PORT]`, with `did:key:...@` before it when the id is already known.

use std::fmt;
use std::str::FromStr;

use os_identity::NodeId;

pub const DEFAULT_PORT: u16 = 4433;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub pin: Option<NodeId>,
    /// An IP address without brackets, or a host name.
    pub host: String,
    pub port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pin, address) = match text.split_once('@') {
            Some((id, address)) => (Some(id.parse::<NodeId>().map_err(|e| e.to_string())?), address),
            None if text.starts_with("did:") => {
                return Err("after the node id comes @ and its address: did:key:...@192.0.2.7".into());
            }
            None => (None, text),
        };
        let (host, port) = split_port(address)?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err("a node is ADDR, ADDR:PORT or did:key:...@ADDR:PORT".into());
        }
        Ok(Self { pin, host: host.to_string(), port })
    }
}

impl Target {
    /// The label to look for in the local network: `kitchen` of `kitchen` and of `kitchen.local`.
    pub fn label(&self) -> Option<&str> {
        let label = self.host.strip_suffix(".local").unwrap_or(&self.host);
        let is_label = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (is_label && !label.is_empty() && label != "localhost").then_some(label)
    }
}

/// A text with more than one colon and no brackets is an IPv6 address without port.
fn split_port(text: &str) -> Result<(&str, u16), String> {
    let port = |digits: &str| match digits.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{digits}` is not a port: 1 to 65535")),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket [ is not closed")?;
        return match rest.strip_prefix(':') {
            Some(digits) => Ok((host, port(digits)?)),
            None if rest.is_empty() => Ok((host, DEFAULT_PORT)),
            None => Err("after ] comes :PORT".into()),
        };
    }
    match text.split_once(':') {
        Some((host, digits)) if !digits.contains(':') => Ok((host, port(digits)?)),
        _ => Ok((text, DEFAULT_PORT)),
    }
}

/// `host:port`, the name under which the node is known.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";

    #[test]
    fn addresses_are_understood_as_people_write_them() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7:4433"),
            ("192.0.2.7:5000", "192.0.2.7:5000"),
            ("kitchen.local", "kitchen.local:4433"),
            ("fd00::7", "[fd00::7]:4433"),
            ("[fd00::7]", "[fd00::7]:4433"),
            ("[fe80::7%eth0]:5000", "[fe80::7%eth0]:5000"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
            let pinned: Target = format!("{ID}@{text}").parse().unwrap();
            assert_eq!((pinned.to_string().as_str(), pinned.pin.unwrap().to_string().as_str()), (shown, ID));
        }
    }

    #[test]
    fn names_of_the_local_network_are_told_from_others() {
        for (text, label) in [
            ("kitchen", Some("kitchen")),
            ("kitchen.local:5000", Some("kitchen")),
            ("macula-4Krp1dVq.local", Some("macula-4Krp1dVq")),
            ("kitchen.example.org", None),
            ("localhost", None),
            ("192.0.2.7", None),
            ("::1", None),
            (".local", None),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().label(), label, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", ":1", "a:0", "a:70000", "a:b", "[::1", "[::1]x", "a b", "me@1.2.3.4", ID, "http://x/"]
        {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
