//! The recovery phrase: a key on paper, as 24 words of the BIP-39 list.
//!
//! Source: BIP-39, English word list.

use core::fmt;
use core::str::FromStr;

use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::code::{read_words, word};
use crate::keys::{DeviceKey, derive};
use crate::sodium::sha256;

/// Words of a recovery phrase.
pub const PHRASE_WORDS: usize = 24;

/// 256 secret random bits, which 24 words spell. `Display` shows the words: for the user's eyes alone.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryPhrase(Zeroizing<[u8; 32]>);

/// Why a text is not a recovery phrase. The word that it may suggest is part of the secret: for the user's eyes alone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParsePhraseError {
    /// It has another number of words.
    #[error("a recovery phrase has {PHRASE_WORDS} words, this has {0}: check that none is missing or written twice")]
    Count(usize),
    /// A word is not on the list; words are told apart by their first four letters.
    #[error("word {position} of the recovery phrase is mistyped{}", suggestion.map(|word| format!(": did you mean \"{word}\"?")).unwrap_or_default())]
    Word {
        /// Which word, from 1.
        position: usize,
        /// The only word on the list with the same beginning, if there is one.
        suggestion: Option<&'static str>,
    },
    /// Each word is on the list, but the last one does not fit the others.
    #[error("each word is a possible one, but not all are the right ones in the right order: compare them with what you wrote down")]
    Checksum,
}

impl RecoveryPhrase {
    /// A new phrase.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut entropy = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *entropy);
        Self(entropy)
    }

    /// The key that the phrase stands for: it signs and opens as a device's does.
    pub fn key(&self) -> DeviceKey {
        DeviceKey::from_seed(&Zeroizing::new(derive(&self.0, "peers recovery phrase", &[])))
    }

    /// The entropy, and the first byte of its SHA-256: 264 bits, 11 to a word.
    fn checked(&self) -> Zeroizing<[u8; 33]> {
        let mut bytes = Zeroizing::new([sha256(&*self.0)[0]; 33]);
        bytes[..32].copy_from_slice(&*self.0);
        bytes
    }
}

impl FromStr for RecoveryPhrase {
    type Err = ParsePhraseError;

    /// Takes the words in any case, apart by white space or hyphens.
    fn from_str(text: &str) -> Result<Self, ParsePhraseError> {
        let words: Zeroizing<[u16; PHRASE_WORDS]> =
            read_words(text, ParsePhraseError::Count, |position, suggestion| ParsePhraseError::Word { position, suggestion })?;
        let mut bytes = Zeroizing::new([0; 33]);
        for (words, bytes) in words.chunks_exact(8).zip(bytes.chunks_exact_mut(11)) {
            let bits = words.iter().fold(0, |bits, word| bits << 11 | u128::from(*word));
            bytes.copy_from_slice(&bits.to_be_bytes()[5..]);
        }
        let mut this = Self(Zeroizing::new([0; 32]));
        this.0.copy_from_slice(&bytes[..32]);
        if this.checked() == bytes { Ok(this) } else { Err(ParsePhraseError::Checksum) }
    }
}

impl fmt::Display for RecoveryPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, eight) in self.checked().chunks_exact(11).enumerate() {
            let bits = eight.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte));
            for place in (0..8).rev() {
                let space = if at == 0 && place == 7 { "" } else { " " };
                let number = u16::try_from(bits >> (11 * place) & 0x7ff).unwrap_or_default();
                write!(f, "{space}{}", word(number))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RecoveryPhrase {
    /// Nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryPhrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Domain, open_from, seal_to, verify};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    /// The vectors of 24 words to which BIP-39 refers (`vectors.json` of the reference implementation).
    const OFFICIAL: [(&str, &str); 8] = [
        (
            "0000000000000000000000000000000000000000000000000000000000000000",
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art",
        ),
        (
            "7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f",
            "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth title",
        ),
        (
            "8080808080808080808080808080808080808080808080808080808080808080",
            "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic bless",
        ),
        (
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo vote",
        ),
        (
            "68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c",
            "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy gospel tennis maple dilemma loan word shrug inflict delay length",
        ),
        (
            "9f6a2878b2520799a44ef18bc7df394e7061a224d2c33cd015b157d746869863",
            "panda eyebrow bullet gorilla call smoke muffin taste mesh discover soft ostrich alcohol speed nation flash devote level hobby quick inner drive ghost inside",
        ),
        (
            "066dca1a2bb7e8a1db2832148ce9933eea0f3ac9548d793112d9a95c9407efad",
            "all hour make first leader extend hole alien behind guard gospel lava path output census museum junior mass reopen famous sing advance salt reform",
        ),
        (
            "f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f",
            "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group space point ten exist slush involve unfold",
        ),
    ];

    fn phrase(seed: u64) -> RecoveryPhrase {
        RecoveryPhrase::generate(&mut ChaCha20Rng::seed_from_u64(seed))
    }

    #[test]
    fn the_official_vectors_of_24_words_hold_in_both_directions() {
        for (entropy, words) in OFFICIAL {
            let phrase: RecoveryPhrase = words.parse().unwrap();
            let hex: String = phrase.0.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((hex.as_str(), phrase.to_string().as_str()), (entropy, words));
        }
    }

    #[test]
    fn a_typo_names_the_word_and_suggests_the_right_one() {
        let typo = OFFICIAL[5].1.replace("muffin", "muffinn");
        let error = typo.parse::<RecoveryPhrase>().unwrap_err();
        assert_eq!(error, ParsePhraseError::Word { position: 7, suggestion: Some("muffin") });
        assert_eq!(error.to_string(), "word 7 of the recovery phrase is mistyped: did you mean \"muffin\"?");
        let none = OFFICIAL[5].1.replace("muffin", "xxxx").parse::<RecoveryPhrase>();
        assert_eq!(none.unwrap_err(), ParsePhraseError::Word { position: 7, suggestion: None });
    }

    #[test]
    fn words_missing_added_swapped_or_exchanged_are_told_apart() {
        let words = OFFICIAL[7].1;
        assert_eq!(words.replace("void ", "").parse::<RecoveryPhrase>(), Err(ParsePhraseError::Count(23)));
        assert_eq!(format!("{words} zoo").parse::<RecoveryPhrase>(), Err(ParsePhraseError::Count(25)));
        assert_eq!(String::new().parse::<RecoveryPhrase>(), Err(ParsePhraseError::Count(0)));
        assert_eq!(words.replace("come effort", "effort come").parse::<RecoveryPhrase>(), Err(ParsePhraseError::Checksum));
        assert_eq!(words.replace("unfold", "zoo").parse::<RecoveryPhrase>(), Err(ParsePhraseError::Checksum));
    }

    #[test]
    fn the_key_of_a_phrase_signs_and_opens_as_a_devices_does() {
        let (paper, other) = (phrase(1), phrase(2));
        let again = paper.to_string().parse::<RecoveryPhrase>().unwrap().key();
        assert!(paper.key().id() == again.id() && paper.key().id() != other.key().id());
        let signature = paper.key().sign(Domain::STATEMENT, &[b"x"]);
        assert_eq!(verify(&again.id(), Domain::STATEMENT, &[b"x"], &signature), Ok(()));
        let sealed = seal_to(&other.key(), paper.key().id(), "test", b"keys", &mut ChaCha20Rng::seed_from_u64(3)).unwrap();
        assert_eq!(open_from(&again, "test", &sealed), Ok((other.key().id(), b"keys".to_vec())));
    }

    #[test]
    fn the_key_is_not_that_of_the_bare_entropy() {
        assert_ne!(phrase(1).key().id(), DeviceKey::from_seed(&phrase(1).0).id());
    }

    #[test]
    fn debug_shows_nothing_of_a_phrase() {
        assert_eq!(format!("{:?}", phrase(1)), "RecoveryPhrase(..)");
    }

    proptest! {
        #[test]
        fn a_phrase_survives_being_written_down_and_typed(seed: u64) {
            let phrase = phrase(seed);
            let text = phrase.to_string();
            prop_assert_eq!(text.split(' ').count(), PHRASE_WORDS);
            prop_assert_eq!(text.parse::<RecoveryPhrase>().unwrap(), phrase.clone());
            prop_assert_eq!(format!("\n {}\t", text.replace(' ', " -\r\n").to_uppercase()).parse::<RecoveryPhrase>().unwrap(), phrase);
        }

        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,200}", words in prop::collection::vec(0u16..2048, 24)) {
            let _ = text.parse::<RecoveryPhrase>();
            let text = words.iter().map(|number| word(*number)).collect::<Vec<_>>().join(" ");
            match text.parse::<RecoveryPhrase>() {
                Ok(phrase) => prop_assert_eq!(phrase.to_string(), text),
                Err(error) => prop_assert_eq!(error, ParsePhraseError::Checksum),
            }
        }
    }
}
