//! Texts for people: safe to print on a terminal whoever wrote them, sizes and times in units people use, columns.

use core::fmt::Write as _;
use core::time::Duration;

use console::measure_text_width;

/// `text` with everything that could steer a terminal made visible; line breaks and tabs are kept if `lines`.
///
/// Names, messages and file names come from other people.
pub(crate) fn safe(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if lines => out.push(c),
            c if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                let _ = write!(out, "{}", c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

/// A name for a file in the current folder made of one that someone else chose; never empty, hidden, or a path.
pub(crate) fn file_name(name: &str) -> String {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String =
        base.chars().filter(|c| !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | ':')).collect();
    let mut end = kept.len().min(MAX_FILE_NAME);
    while !kept.is_char_boundary(end) {
        end -= 1;
    }
    let trimmed = kept[..end].trim_matches([' ', '.']);
    if trimmed.is_empty() { "unnamed".to_owned() } else { trimmed.to_owned() }
}

/// Bytes in a file name, with room for a number that makes it unique.
const MAX_FILE_NAME: usize = 200;

/// A number of bytes in B, KiB, MiB or GiB.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A count with a comma between thousands.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `one` or `many` behind the count.
pub(crate) fn plural(value: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(value as u64), if value == 1 { one } else { many })
}

/// A span of time: `12 ms`, `3.4 s`.
pub(crate) fn span(duration: Duration) -> String {
    if duration < Duration::from_secs(1) { format!("{} ms", duration.as_millis()) } else { format!("{:.1} s", duration.as_secs_f64()) }
}

/// A wall time in ms since the Unix epoch as `2026-01-31 23:59:59Z`.
///
/// Source: Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
pub(crate) fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Rows as left-aligned columns, two spaces apart, no line ending in spaces.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = measure_text_width(cell).max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(core::iter::repeat_n(' ', width + 2 - measure_text_width(cell)));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(safe("a\u{1b}[2Jb\nc", false), "a\\u{1b}[2Jb\\u{a}c");
        assert_eq!(safe("\u{202e}evil", true), "\\u{202e}evil");
        assert_eq!(safe("two\nlines\t\u{fc}", true), "two\nlines\tü");
    }

    #[test]
    fn a_file_name_from_a_stranger_stays_in_its_folder() {
        for (name, safe) in [
            ("../../etc/passwd", "passwd"),
            ("..", "unnamed"),
            (".bashrc", "bashrc"),
            ("a\0b", "ab"),
            ("C:\\x\\y.txt", "y.txt"),
            ("/", "unnamed"),
        ] {
            assert_eq!(file_name(name), safe);
        }
        assert!(file_name(&"ü".repeat(500)).len() <= MAX_FILE_NAME);
    }

    #[test]
    fn known_days_have_their_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(time(4_107_542_399_999), "2100-02-28 23:59:59Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        assert_eq!((count(7), count(1000), count(1_234_567)), ("7".to_owned(), "1,000".to_owned(), "1,234,567".to_owned()));
        assert_eq!((size(1023), size(1024), size(16 << 20)), ("1023 B".to_owned(), "1.0 KiB".to_owned(), "16.0 MiB".to_owned()));
        assert_eq!(plural(1, "row", "rows") + &plural(2, "row", "rows"), "1 row2 rows");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a".to_owned(), "bb".to_owned()], ["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(columns(&rows), "a    bb\nccc  d\n");
    }
}
