//! Looks for plaintext in all that a peer keeps, on disk and in memory.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::body::hex;

/// What was read, and which texts were in it.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// For each text that was looked for, the first place that holds it.
    pub(crate) found: Vec<Option<String>>,
}

impl Scan {
    /// How many of the texts were found.
    pub(crate) fn hits(&self) -> usize {
        self.found.iter().flatten().count()
    }
}

/// Texts in every form that they could be kept in: UTF-8, UTF-16 of both byte orders, and hexadecimal.
#[derive(Debug)]
pub(crate) struct Search {
    texts: usize,
    needles: Vec<(usize, Vec<u8>)>,
    /// Needles by their first two bytes.
    by_start: Vec<Vec<usize>>,
    longest: usize,
}

impl Search {
    /// - `texts`: each of at least 2 bytes
    pub(crate) fn new(texts: &[String]) -> Self {
        let needles: Vec<_> = texts.iter().enumerate().flat_map(|(index, text)| forms(text).map(|form| (index, form))).collect();
        let mut by_start = vec![Vec::new(); 1 << 16];
        for (number, (_, form)) in needles.iter().enumerate() {
            by_start[usize::from(u16::from_be_bytes([form[0], form[1]]))].push(number);
        }
        let longest = needles.iter().map(|(_, form)| form.len()).max().unwrap_or(0);
        Self { texts: texts.len(), needles, by_start, longest }
    }

    /// Reads every file below `root` as raw bytes.
    pub(crate) fn files(&self, root: &Path) -> Result<Scan> {
        let mut scan = Scan { found: vec![None; self.texts], ..Scan::default() };
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))? {
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    let content = match std::fs::read(&path) {
                        // A running peer removes files, such as journals of SQLite.
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                        content => content.with_context(|| format!("{} cannot be read", path.display()))?,
                    };
                    scan.files += 1;
                    scan.bytes += content.len() as u64;
                    self.mark(&content, &mut scan, || path.display().to_string());
                }
            }
        }
        Ok(scan)
    }

    /// Reads all memory that the process may write; `None` where the system does not let us look (only Linux does).
    pub(crate) fn memory(&self, process: u32) -> Option<Scan> {
        let maps = BufReader::new(File::open(format!("/proc/{process}/maps")).ok()?);
        let memory = File::open(format!("/proc/{process}/mem")).ok()?;
        let mut scan = Scan { found: vec![None; self.texts], ..Scan::default() };
        let mut chunk = vec![0; CHUNK];
        for line in maps.lines() {
            let line = line.ok()?;
            let mut fields = line.split(' ');
            let (Some((start, end)), Some(rights)) = (fields.next().and_then(|range| range.split_once('-')), fields.next()) else {
                continue;
            };
            let (mut start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            while rights.starts_with("rw") && start < end {
                let want = usize::try_from(end - start).map_or(CHUNK, |left| left.min(CHUNK));
                // Guard pages and what was unmapped meanwhile cannot be read.
                let Ok(read) = memory.read_at(&mut chunk[..want], start) else { break };
                self.mark(&chunk[..read], &mut scan, || "memory".to_owned());
                scan.bytes += read as u64;
                if read == 0 || start + read as u64 >= end {
                    break;
                }
                // A text may lie across two chunks.
                start += (read.saturating_sub(self.longest)).max(1) as u64;
            }
        }
        (scan.bytes > 0).then_some(scan)
    }

    fn mark(&self, content: &[u8], scan: &mut Scan, place: impl Fn() -> String) {
        for (position, start) in content.windows(2).enumerate() {
            for &number in &self.by_start[usize::from(u16::from_be_bytes([start[0], start[1]]))] {
                let (text, form) = &self.needles[number];
                if content[position..].starts_with(form) {
                    scan.found[*text].get_or_insert_with(&place);
                }
            }
        }
    }
}

fn forms(text: &str) -> [Vec<u8>; 5] {
    let units = || text.encode_utf16();
    let hexadecimal = hex(text.as_bytes());
    [
        text.as_bytes().to_vec(),
        units().flat_map(u16::to_le_bytes).collect(),
        units().flat_map(u16::to_be_bytes).collect(),
        hexadecimal.to_uppercase().into_bytes(),
        hexadecimal.into_bytes(),
    ]
}

const CHUNK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_in_any_form_in_any_file_and_others_are_not() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        let search = Search::new(&["heliotrope", "größe", "absent"].map(str::to_owned));
        for form in forms("größe") {
            let mut content = vec![0xff; 1000];
            content.extend_from_slice(b"xxheliotrope\0");
            content.extend_from_slice(&form);
            std::fs::write(temp.path().join("a/b/file"), &content).unwrap();
            let scan = search.files(temp.path()).unwrap();
            assert_eq!((scan.files, scan.bytes, scan.hits()), (1, content.len() as u64, 2));
            assert_eq!(scan.found[2], None);
            assert!(scan.found[0].as_ref().unwrap().ends_with("a/b/file"));
        }
    }

    #[test]
    fn a_text_in_a_database_file_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let connection = rusqlite::Connection::open(temp.path().join("db")).unwrap();
        connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('heliotrope')").unwrap();
        assert_eq!(Search::new(&["heliotrope".to_owned()]).files(temp.path()).unwrap().hits(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_text_in_memory_is_found_wherever_it_lies() {
        let held: Vec<Vec<u8>> =
            (0..40_u8).map(|number| [vec![b'.'; 100_000 + usize::from(number)], b"mauve-and-heliotrope".to_vec()].concat()).collect();
        let search = Search::new(&["mauve-and-heliotrope".to_owned()]);
        let scan = search.memory(std::process::id()).unwrap();
        assert!(scan.hits() == 1 && scan.bytes > 4_000_000, "{} {}", scan.bytes, held.len());
        assert!(search.memory(u32::MAX).is_none());
    }
}
