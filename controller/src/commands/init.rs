//! `init`: writes a commented run file.

use std::{fs, io, io::Write, path::PathBuf};

use crate::{error::CommandError, spec::values, ui::Ui};

/// Write a commented run file to start from
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// File to write; an existing one is never overwritten
    #[arg(default_value = "run.yaml")]
    file: PathBuf,
    /// Name of the run [default: that of the directory]
    #[arg(long)]
    name: Option<String>,
}

/// The file as it is written; NAME stands for the run's name.
const TEMPLATE: &str = include_str!("init.yaml");

/// What was done, as JSON.
#[derive(serde::Serialize)]
struct Written<'a> {
    file: String,
    name: &'a str,
}

/// Runs the verb.
pub fn init(ui: &mut Ui, args: &InitArgs) -> Result<(), CommandError> {
    let shown = args.file.display();
    let name = match &args.name {
        Some(name) => {
            values::run_name(name).map_err(|why| CommandError::usage(format!("--name: {why}")))?;
            name.clone()
        }
        None => directory_name(&args.file),
    };
    // `create_new` asks and writes in one step: nobody's file is lost between the two.
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.file);
    let mut file = file.map_err(|err| {
        let refused = CommandError::usage(format!("`{shown}` was not written"));
        if err.kind() == io::ErrorKind::AlreadyExists {
            refused
                .because("it exists already")
                .hint("name another file, as in `spotter init other.yaml`")
        } else {
            refused.cause(err)
        }
    })?;
    file.write_all(
        TEMPLATE
            .replacen("name: NAME", &format!("name: {name}"), 1)
            .as_bytes(),
    )
    .map_err(|err| CommandError::new(format!("`{shown}` was not written")).cause(err))?;
    if ui.is_json() {
        ui.json(&Written {
            file: args.file.display().to_string(),
            name: &name,
        });
    }
    ui.status(format_args!("Wrote `{shown}`."));
    ui.hint(format_args!(
        "see what it would cost with `spotter plan {shown}`"
    ));
    Ok(())
}

/// The name of the directory that the file is in, made fit.
fn directory_name(file: &std::path::Path) -> String {
    let dir = std::path::absolute(file)
        .ok()
        .and_then(|path| Some(path.parent()?.to_owned()));
    let name = dir
        .as_deref()
        .and_then(|dir| dir.file_name())
        .map(|name| name.to_string_lossy());
    let fit: String = name
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let fit = fit.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if fit.is_empty() {
        "training".to_owned()
    } else {
        fit.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn the_template_is_a_valid_run_file() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec::parse(TEMPLATE, "run.yaml", dir.path()).unwrap();
        assert_eq!(spec.name, "NAME");
    }

    #[test]
    fn every_commented_key_of_the_template_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        // A key that is commented out stands behind `# `; prose has no colon after its first word.
        let text: String = TEMPLATE
            .lines()
            .map(|line| {
                let key = line
                    .trim_start()
                    .strip_prefix("# ")
                    .unwrap_or_default()
                    .trim_start();
                let is_key = key.split_once(':').is_some_and(|(word, _)| {
                    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic() || c == '_')
                });
                let text = if is_key {
                    line.replacen("# ", "", 1)
                } else {
                    line.to_owned()
                };
                format!("{text}\n")
            })
            .collect();
        let text = text.replace("rental: on-demand", "rental: interruptible");
        let spec = spec::parse(&text, "run.yaml", dir.path())
            .unwrap_or_else(|err| panic!("{err}\n{text}"));
        assert_eq!(spec.checkpoints.unwrap().keep_last, 3);
        assert_eq!(spec.limits.budget_usd, Some(20.0));
        assert_eq!(spec.envs.len(), 2);
        assert_eq!(spec.resources.filters.len(), 3);
        assert_eq!(spec.results.unwrap().fetch, ["checkpoints/final.pt"]);
    }
}
