//! What iwd is told in files: its own settings, and the networks that it knows (iwd.config(5), iwd.network(5)). Pure.
//!
//! iwd never joins by itself: which network is next is decided in `choice`.

use data_encoding::HEXLOWER;
use os_config::Wifi;

/// A file in iwd's folder.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub text: String,
}

/// `main.conf`. Interfaces stay as the kernel makes them, since this service watches them; addresses are its work, too.
pub fn settings(country: Option<&str>) -> File {
    let country = country.map(|country| format!("Country={country}\n")).unwrap_or_default();
    let text = format!(
        "[General]\nEnableNetworkConfiguration=false\n{country}[DriverQuirks]\nDefaultInterface=*\n\
         [Scan]\nDisablePeriodicScan=true\n"
    );
    File { name: "main.conf".into(), text }
}

/// One for each network.
pub fn networks(wifi: &[Wifi]) -> Vec<File> {
    wifi.iter().map(network).collect()
}

fn network(wifi: &Wifi) -> File {
    let mut text = format!("[Settings]\nAutoConnect=false\nHidden={}\n", wifi.hidden);
    let kind = match &wifi.passphrase {
        None => "open",
        Some(secret) => {
            // A passphrase has 63 characters at most, so 64 are the key itself.
            let line = match secret.reveal() {
                key if key.len() == 64 => format!("PreSharedKey={}\n", key.to_ascii_lowercase()),
                phrase => format!("Passphrase={}\n", value(phrase)),
            };
            text += "[Security]\n";
            text += &line;
            "psk"
        }
    };
    File { name: format!("{}.{kind}", stem(&wifi.ssid)), text }
}

/// An SSID as a file name: itself if that is harmless, else `=` and hexadecimal.
fn stem(ssid: &str) -> String {
    let harmless = |c: u8| c.is_ascii_alphanumeric() || b"-_ ".contains(&c);
    if ssid.bytes().all(harmless) {
        ssid.to_owned()
    } else {
        format!("={}", HEXLOWER.encode(ssid.as_bytes()))
    }
}

/// A string as a settings file has it: spaces at its beginning and backslashes are escaped.
fn value(text: &str) -> String {
    let rest = text.trim_start_matches(' ');
    "\\s".repeat(text.len() - rest.len()) + &rest.replace('\\', "\\\\")
}

#[cfg(test)]
mod tests {
    use os_config::Config;

    use super::*;

    fn files(wifi: &str) -> Vec<(String, String)> {
        let config = Config::parse(&format!("[network]\nwifi = [{wifi}]\n")).unwrap();
        networks(&config.network.wifi).into_iter().map(|file| (file.name, file.text)).collect()
    }

    #[test]
    fn names_are_those_that_iwd_looks_for() {
        for (ssid, name) in [
            ("attic", "attic.open"),
            ("My Home_2-4", "My Home_2-4.open"),
            ("Käfer", "=4bc3a4666572.open"),
            ("../../etc/passwd", "=2e2e2f2e2e2f6574632f706173737764.open"),
            ("a.psk", "=612e70736b.open"),
            ("=61", "=3d3631.open"),
        ] {
            assert_eq!(files(&format!("{{ ssid = \"{ssid}\" }}"))[0].0, name);
        }
    }

    #[test]
    fn secrets_are_written_so_that_iwd_reads_them_back() {
        let psk = |passphrase: &str| {
            let [(name, text)] = &files(&format!("{{ ssid = 'a', passphrase = '{passphrase}' }}"))[..] else {
                panic!("one network, one file")
            };
            assert_eq!(name, "a.psk");
            text.lines().last().unwrap().to_owned()
        };
        assert_eq!(psk("correct horse"), "Passphrase=correct horse");
        assert_eq!(psk("  back\\slash "), "Passphrase=\\s\\sback\\\\slash ");
        assert_eq!(psk("[Settings]"), "Passphrase=[Settings]");
        assert_eq!(psk(&"A".repeat(64)), format!("PreSharedKey={}", "a".repeat(64)));
    }

    #[test]
    fn a_network_is_hidden_if_it_says_so_and_never_joined_behind_our_back() {
        let files = files("{ ssid = 'a', hidden = true }, { ssid = 'b', passphrase = '12345678' }");
        assert!(files[0].1.contains("Hidden=true") && files[1].1.contains("Hidden=false"));
        assert!(files.iter().all(|(_, text)| text.contains("AutoConnect=false")));
    }

    #[test]
    fn a_country_is_told_if_there_is_one() {
        assert!(settings(Some("DE")).text.contains("\nCountry=DE\n"));
        assert!(!settings(None).text.contains("Country"));
    }
}
