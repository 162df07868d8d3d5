//! What PID 1 itself wants to know from the owner's `/macula.toml`; all the rest of it is for the services.

use image_layout::encryption::{Encryption, UnknownEncryption};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProvisionError {
    #[error("macula.toml asks for encryption but is not valid TOML: {0}")]
    Toml(String),
    #[error("macula.toml: `state.encryption`: {0}")]
    Unknown(#[from] UnknownEncryption),
    #[error("macula.toml: `state.encryption` is not a text")]
    NotText,
}

/// `state.encryption`. A file that is no TOML is an error only if it may have asked for encryption: the node's keys must not
/// be written in clear because of a typo somewhere else.
pub fn encryption(text: &str) -> Result<Option<Encryption>, ProvisionError> {
    if !text.contains("encryption") {
        return Ok(None);
    }
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| ProvisionError::Toml(error.message().to_owned()))?;
    match table.get("state").and_then(|state| state.get("encryption")) {
        None => Ok(None),
        Some(toml::Value::String(wish)) => Ok(Encryption::parse(wish)?),
        Some(_) => Err(ProvisionError::NotText),
    }
}

/// Whether what lies on the ESP is what was taken over from there, perhaps with some of its bytes zero already: a power cut can end
/// the wiping anywhere.
pub fn is_leftover(taken: &[u8], found: &[u8]) -> bool {
    // A line break may have been added when it was taken.
    let whole =
        [taken, taken.strip_suffix(b"\n").unwrap_or(taken)].into_iter().find(|t| t.len() == found.len());
    whole.is_some_and(|whole| whole.iter().zip(found).all(|(taken, found)| *found == 0 || found == taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wipe_goes_on_wherever_it_was_cut() {
        let taken = b"name = \"a\"\n";
        let file = &taken[..taken.len() - 1];
        for zeros in 0..=file.len() {
            let mut found = file.to_vec();
            found[..zeros].fill(0);
            assert!(is_leftover(taken, &found), "{zeros}");
            found.reverse();
            assert_eq!(is_leftover(taken, &found), zeros == file.len());
        }
        assert!(is_leftover(taken, taken) && is_leftover(b"", b""));
        assert!(
            !is_leftover(taken, b"name = \"b\"\n") && !is_leftover(taken, b"") && !is_leftover(b"", b"\0")
        );
    }

    #[test]
    fn wishes_are_found_and_doubts_are_errors() {
        assert_eq!(encryption("name = \"a\""), Ok(None));
        assert_eq!(encryption("# no encryption here"), Ok(None));
        assert_eq!(encryption("[state]\nencryption = \"tpm\"\n"), Ok(Some(Encryption::Tpm)));
        assert_eq!(encryption("state.encryption = \"off\""), Ok(None));
        assert_eq!(encryption("name = broken"), Ok(None));
        assert!(matches!(
            encryption("[state]\nencryption = \"tpm\"\nname = broken"),
            Err(ProvisionError::Toml(_))
        ));
        assert_eq!(encryption("state.encryption = true"), Err(ProvisionError::NotText));
        assert!(encryption("state.encryption = \"rot13\"").unwrap_err().to_string().contains("rot13"));
    }
}
