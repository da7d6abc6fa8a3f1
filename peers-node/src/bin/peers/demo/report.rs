//! What the demo found: checks with their times, as they come and at the end.

use core::time::Duration;

use anyhow::Result;
use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::output::Output;
use crate::text;

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ok: bool,
    /// What was compared and counted, or why it does not hold.
    pub(crate) detail: String,
    /// From the start of the step to its result.
    pub(crate) ms: u64,
}

/// The result of a whole run; the object that `demo --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) ok: bool,
    pub(crate) checks: Vec<Check>,
    pub(crate) peers: usize,
    pub(crate) rows: u64,
    pub(crate) wall_s: f64,
}

/// Takes the checks as they are made, and shows them.
#[derive(Debug)]
pub(crate) struct Report {
    output: Output,
    checks: Vec<Check>,
    bar: ProgressBar,
    begun: tokio::time::Instant,
    step: tokio::time::Instant,
}

impl Report {
    pub(crate) fn new(output: Output) -> Self {
        // A hidden bar where standard error is no terminal: plain lines are printed instead.
        let bar = ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(100));
        let now = tokio::time::Instant::now();
        Self { output, checks: Vec::new(), bar, begun: now, step: now }
    }

    /// Opens a part of the story.
    pub(crate) fn heading(&mut self, text: &str) {
        self.print(&format!("\n{}", style(text).bold()));
    }

    /// A line beside the checks.
    pub(crate) fn say(&self, text: &str) {
        self.print(&format!("     {}", style(text).dim()));
    }

    /// Begins a step: what is being waited for.
    pub(crate) fn begin(&mut self, what: &str) {
        self.step = tokio::time::Instant::now();
        self.bar.set_message(what.to_owned());
        self.bar.reset_elapsed();
    }

    /// Ends the step with a check: it holds, with a detail, or not.
    ///
    /// # Errors
    /// `result`'s own, after it is recorded: what comes next relies on it.
    pub(crate) fn check(&mut self, name: &str, result: Result<String>) -> Result<()> {
        let ms = u64::try_from(self.step.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, detail) = match &result {
            Ok(detail) => (true, detail.clone()),
            Err(error) => (false, format!("{error:#}")),
        };
        let mark = if ok { style("ok  ").green() } else { style("FAIL").red().bold() };
        self.print(&format!("{mark} {name}: {detail} {}", style(format!("({})", text::span(Duration::from_millis(ms)))).dim()));
        self.checks.push(Check { name: name.to_owned(), ok, detail, ms });
        self.step = tokio::time::Instant::now();
        result.map(drop)
    }

    /// Ends the run; `failed` is what stopped it outside of a check.
    pub(crate) fn finish(mut self, peers: usize, rows: u64, failed: Option<&anyhow::Error>) -> Summary {
        if let Some(error) = failed
            && self.checks.iter().all(|check| check.ok)
        {
            let _ = self.check("the demo ran to its end", Err(anyhow::anyhow!("{error:#}")));
        }
        self.bar.finish_and_clear();
        let ok = failed.is_none() && !self.checks.is_empty() && self.checks.iter().all(|check| check.ok);
        let summary =
            Summary { ok, checks: self.checks, peers, rows, wall_s: (self.begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0 };
        self.output.progress(closing(&summary));
        summary
    }

    fn print(&self, line: &str) {
        let output = self.output;
        self.bar.suspend(|| output.progress(line));
    }
}

fn closing(summary: &Summary) -> String {
    let mut rows = vec![["".to_owned(), "check".to_owned(), "time".to_owned()]];
    for check in &summary.checks {
        let mark = if check.ok { style("ok").green() } else { style("FAIL").red().bold() };
        rows.push([mark.to_string(), check.name.clone(), text::span(Duration::from_millis(check.ms))]);
    }
    let held = summary.checks.iter().filter(|check| check.ok).count();
    format!(
        "\n{}\n{held} of {} checks held: {} peers, {} rows, {}",
        text::columns(&rows),
        summary.checks.len(),
        summary.peers,
        text::count(summary.rows),
        text::span(Duration::from_secs_f64(summary.wall_s)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn report() -> Report {
        Report::new(Output::new(true))
    }

    #[tokio::test]
    async fn a_run_is_ok_only_if_every_check_held_and_it_came_to_its_end() {
        let mut held = report();
        held.check("one", Ok("1 = 1".into())).unwrap();
        let summary = held.finish(3, 10, None);
        assert!(summary.ok);
        let value = serde_json::to_value(&summary).unwrap();
        assert_eq!(value["checks"][0]["name"], "one");
        assert_eq!(value["checks"][0]["detail"], "1 = 1");

        let mut failed = report();
        failed.check("one", Ok(String::new())).unwrap();
        let error = failed.check("two", Err(anyhow!("no"))).unwrap_err();
        let summary = failed.finish(3, 10, Some(&error));
        assert!(!summary.ok && summary.checks.len() == 2);

        let mut stopped = report();
        stopped.check("one", Ok(String::new())).unwrap();
        let summary = stopped.finish(3, 10, Some(&anyhow!("interrupted")));
        assert!(!summary.ok && summary.checks.len() == 2 && !summary.checks[1].ok);
        assert!(!report().finish(3, 0, None).ok, "nothing checked is not ok");
    }
}
