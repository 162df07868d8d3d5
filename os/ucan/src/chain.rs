//! A token with its proofs, as it travels: a CBOR array of byte strings in deterministic encoding, the leaf first.
//!
//! The leaf is the token whose audience asks. In UCAN 1.0 each token is followed by the one that it comes from, up to the root's. JWTs
//! name their proofs, so after the leaf their order does not matter. This is what the stream header's `ucan` field holds; in a file
//! the same is text, one token to a line.

use data_encoding::BASE64URL_NOPAD;
use minicbor::{Decoder, Encoder};

use crate::{MAX_CHAIN, MAX_TOKEN, MAX_TOKENS};

/// Longest text of a chain: base64 is a third longer than bytes.
pub const MAX_TEXT: usize = 2 * MAX_CHAIN;
/// Before a token in DAG-CBOR: multibase's letter for base64url.
const BINARY_LINE: char = 'u';

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("it is {0} bytes, at most {MAX_CHAIN} are read")]
    TooLarge(usize),
    #[error("it holds {0} tokens, from 1 to {MAX_TOKENS} are read")]
    Count(u64),
    #[error("token {0} of it is longer than {MAX_TOKEN} bytes")]
    TokenTooLarge(usize),
    #[error("it is not an array of byte strings: {0}")]
    Cbor(String),
    #[error("it is not encoded in the one way there is")]
    NotCanonical,
    #[error("line {0} of it is no token")]
    Line(usize),
}

/// Puts a leaf and its proofs together.
pub fn encode<T: AsRef<[u8]>>(tokens: &[T]) -> Result<Vec<u8>, ChainError> {
    check_count(tokens.len() as u64)?;
    let mut encoder = Encoder::new(Vec::new());
    let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        encoder.array(tokens.len() as u64)?;
        tokens.iter().try_for_each(|token| encoder.bytes(token.as_ref()).map(|_| ()))
    };
    // A Vec takes every write.
    let _ = write();
    let bytes = encoder.into_writer();
    decode(&bytes)?;
    Ok(bytes)
}

/// Takes a chain apart; the tokens themselves are not looked at.
pub fn decode(bytes: &[u8]) -> Result<Vec<&[u8]>, ChainError> {
    if bytes.len() > MAX_CHAIN {
        return Err(ChainError::TooLarge(bytes.len()));
    }
    let malformed = |e: minicbor::decode::Error| ChainError::Cbor(e.to_string());
    let mut decoder = Decoder::new(bytes);
    let count = decoder.array().map_err(malformed)?.ok_or(ChainError::NotCanonical)?;
    check_count(count)?;
    let mut tokens = Vec::new();
    let mut length = head_length(count);
    for number in 1..=count as usize {
        let token = decoder.bytes().map_err(malformed)?;
        if token.len() > MAX_TOKEN {
            return Err(ChainError::TokenTooLarge(number));
        }
        length += head_length(token.len() as u64) + token.len();
        tokens.push(token);
    }
    // Longer heads than need be, or something behind the last token.
    if length == bytes.len() { Ok(tokens) } else { Err(ChainError::NotCanonical) }
}

/// One token to a line, the leaf first: a JWT as it is, DAG-CBOR as `u` and base64url.
pub fn to_text<T: AsRef<[u8]>>(tokens: &[T]) -> String {
    let line = |token: &T| match std::str::from_utf8(token.as_ref()) {
        Ok(jwt) => format!("{jwt}\n"),
        Err(_) => format!("{BINARY_LINE}{}\n", BASE64URL_NOPAD.encode(token.as_ref())),
    };
    tokens.iter().map(line).collect()
}

pub fn from_text(text: &str) -> Result<Vec<Vec<u8>>, ChainError> {
    if text.len() > MAX_TEXT {
        return Err(ChainError::TooLarge(text.len()));
    }
    let lines = text.lines().map(str::trim_end).enumerate().filter(|(_, line)| !line.is_empty());
    let tokens: Vec<Vec<u8>> = lines
        .map(|(at, line)| match line.strip_prefix(BINARY_LINE) {
            Some(encoded) => BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| ChainError::Line(at + 1)),
            None => Ok(line.as_bytes().to_vec()),
        })
        .collect::<Result<_, _>>()?;
    check_count(tokens.len() as u64)?;
    Ok(tokens)
}

fn check_count(count: u64) -> Result<(), ChainError> {
    if (1..=MAX_TOKENS as u64).contains(&count) { Ok(()) } else { Err(ChainError::Count(count)) }
}

/// Bytes of the shortest head with this length (RFC 8949, 4.2.1).
fn head_length(length: u64) -> usize {
    match length {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        let tokens = [vec![1; 23], vec![2; 24], vec![3; 256], vec![4; MAX_TOKEN], vec![]];
        let bytes = encode(&tokens).unwrap();
        assert_eq!(decode(&bytes).unwrap(), tokens.each_ref().map(Vec::as_slice));
        let tokens = [b"eyJ.x.y".to_vec(), vec![0x82, 0xff, 0xff]];
        assert_eq!(to_text(&tokens), "eyJ.x.y\nugv__\n");
        assert_eq!(from_text("eyJ.x.y\r\n\nugv__").unwrap(), tokens);
    }

    #[test]
    fn has_one_encoding_and_bounds() {
        let good = encode(&[[7; 3]]).unwrap();
        assert_eq!(good, [0x81, 0x43, 7, 7, 7]);
        let bad: &[&[u8]] = &[
            &[],
            &[0x80],
            &[0x81, 0x43, 7, 7, 7, 0],
            &[0x81, 0x43, 7, 7],
            &[0x98, 1, 0x43, 7, 7, 7],
            &[0x81, 0x58, 3, 7, 7, 7],
            &[0x81, 0x59, 0, 3, 7, 7, 7],
            &[0x9f, 0x43, 7, 7, 7, 0xff],
            &[0x81, 0x5f, 0x43, 7, 7, 7, 0xff],
            &[0x81, 0x63, b'a', b'b', b'c'],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x81, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xa1, 0x43, 7, 7, 7],
        ];
        for bytes in bad {
            assert!(decode(bytes).is_err(), "{bytes:x?}");
        }
        assert_eq!(encode(&[[0; 1]; 17]), Err(ChainError::Count(17)));
        assert_eq!(encode(&[vec![0; MAX_TOKEN + 1]]), Err(ChainError::TokenTooLarge(1)));
        assert!(matches!(
            encode(&[vec![0; 4000], vec![0; 4000], vec![0; 4000], vec![0; 4000]]),
            Err(ChainError::TooLarge(_))
        ));
        assert_eq!(from_text(""), Err(ChainError::Count(0)));
        assert_eq!(from_text("eyJ\nu=\n"), Err(ChainError::Line(2)));
    }
}
