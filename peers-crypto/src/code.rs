//! The short code that links a new device: four words of the BIP-39 list, to be read from one screen and typed at the other.
//!
//! The first finds the other side, and is not secret: 2,048 topics are soon watched. The other three, 33 bits, feed the PAKE.
//!
//! Source: BIP-39, English word list.

use core::fmt;
use core::str::FromStr;

use bip39::Language;
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::hash;
use crate::topic::TopicKey;

/// Words of a code.
pub const CODE_WORDS: usize = 4;

/// A code of four words. `Display` shows them: for the user's eyes alone.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkCode(Zeroizing<[u16; CODE_WORDS]>);

/// Why a text is not a code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseCodeError {
    /// It has another number of words.
    #[error("a code has {CODE_WORDS} words, this has {0}")]
    Count(usize),
    /// A word is not on the list; words are told apart by their first four letters.
    #[error("word {position} of the code is mistyped{}", suggestion.map(|word| format!(": did you mean \"{word}\"?")).unwrap_or_default())]
    Word {
        /// Which word, from 1.
        position: usize,
        /// The only word on the list with the same beginning, if there is one.
        suggestion: Option<&'static str>,
    },
}

impl LinkCode {
    /// A new code.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut words = Zeroizing::new([0; CODE_WORDS]);
        for word in words.iter_mut() {
            // 2,048 divides 2^32: each word is as likely.
            *word = u16::try_from(rng.next_u32() % 2048).unwrap_or_default();
        }
        Self(words)
    }

    /// The topic where both sides meet: anybody may read and write it.
    pub fn rendezvous(&self) -> TopicKey {
        TopicKey::from_seed(hash(&[b"peers link rendezvous", self.word(0).as_bytes()]))
    }

    /// The last three words, for the PAKE.
    pub(crate) fn secret(&self) -> Zeroizing<String> {
        Zeroizing::new([self.word(1), self.word(2), self.word(3)].join(" "))
    }

    fn word(&self, at: usize) -> &'static str {
        word(self.0[at])
    }
}

impl FromStr for LinkCode {
    type Err = ParseCodeError;

    /// Takes the words in any case, apart by white space or hyphens.
    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        read_words(text, ParseCodeError::Count, |position, suggestion| ParseCodeError::Word { position, suggestion }).map(Self)
    }
}

/// The word of a number below 2,048.
pub(crate) fn word(number: u16) -> &'static str {
    Language::English.word_list()[usize::from(number)]
}

/// The numbers of `N` words, in any case, apart by white space or hyphens; else the error that `count` makes of their number, or `mistyped` of the
/// place, from 1, of the first that is not on the list, and of the only one on the list with the same beginning.
pub(crate) fn read_words<const N: usize, E>(
    text: &str,
    count: impl FnOnce(usize) -> E,
    mistyped: impl FnOnce(usize, Option<&'static str>) -> E,
) -> Result<Zeroizing<[u16; N]>, E> {
    let typed = || text.split(|c: char| c.is_whitespace() || c == '-').filter(|word| !word.is_empty());
    if typed().count() != N {
        return Err(count(typed().count()));
    }
    let mut words = Zeroizing::new([0; N]);
    for (at, typed) in typed().enumerate() {
        let typed = Zeroizing::new(typed.to_lowercase());
        match Language::English.find_word(&typed) {
            Some(number) => words[at] = number,
            None => return Err(mistyped(at + 1, suggestion(&typed))),
        }
    }
    Ok(words)
}

/// The one word that begins as `word` does, in up to four letters.
fn suggestion(word: &str) -> Option<&'static str> {
    (1..=4).rev().find_map(|letters| {
        let prefix = word.get(..letters)?;
        let mut words = Language::English.words_by_prefix_iter(prefix);
        words.next().filter(|_| words.next().is_none())
    })
}

impl fmt::Display for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.word(0), self.word(1), self.word(2), self.word(3))
    }
}

impl fmt::Debug for LinkCode {
    /// The first word, which is not secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkCode({} ..)", self.word(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    proptest! {
        #[test]
        fn a_code_survives_being_read_out_and_typed(seed: u64) {
            let code = LinkCode::generate(&mut ChaCha20Rng::seed_from_u64(seed));
            let text = code.to_string();
            prop_assert_eq!(text.parse::<LinkCode>().unwrap(), code.clone());
            prop_assert_eq!(format!("  {}\n", text.replace(' ', " - ").to_uppercase()).parse::<LinkCode>().unwrap(), code);
        }

        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,60}") {
            let _ = text.parse::<LinkCode>();
        }
    }

    #[test]
    fn a_typo_names_the_word_and_suggests_the_right_one() {
        let error = "abandon zebra acousticc zoo".parse::<LinkCode>().unwrap_err();
        assert_eq!(error, ParseCodeError::Word { position: 3, suggestion: Some("acoustic") });
        assert_eq!(error.to_string(), "word 3 of the code is mistyped: did you mean \"acoustic\"?");
        assert_eq!("abandon zebra xxxx zoo".parse::<LinkCode>().unwrap_err().to_string(), "word 3 of the code is mistyped");
        assert_eq!("abandon zebra zoo".parse::<LinkCode>().unwrap_err().to_string(), "a code has 4 words, this has 3");
    }

    #[test]
    fn the_first_word_alone_determines_the_rendezvous_and_is_no_part_of_the_secret() {
        let [one, same, other] =
            ["zoo zebra acid act", "zoo abandon abandon abandon", "acid zebra acid act"].map(|text| text.parse::<LinkCode>().unwrap());
        assert_eq!(one.rendezvous().id(), same.rendezvous().id());
        assert_ne!(one.rendezvous().id(), other.rendezvous().id());
        assert_eq!(one.secret(), other.secret());
        assert_ne!(one.secret(), same.secret());
        assert_eq!(format!("{one:?}"), "LinkCode(zoo ..)");
    }
}
